"""Figures are written, and refuse what they can't draw."""

from __future__ import annotations

import pytest
from fssl_models import mlp

from spdnn.errors import InputError

pytest.importorskip("matplotlib")

from spdnn.fssl.plots import plot_history, plot_pareto, plot_weights


def test_figures_are_written(tmp_path) -> None:
    history = [{"epoch": k, "loss": 1 / k, "held_out_accuracy": 90.0 + k, "live": [30 - k, 9, 3]} for k in (1, 2, 3)]
    records = [
        {"method": m, "label": f"{m}{r}", "weights_removed": 0.9, "latency_ms": r, "test_accuracy": 90 + r + s}
        for m in ("fssl", "magnitude")
        for r in (0.1, 0.2)
        for s in (0, 0.1)
    ]
    for path in (
        plot_history(history, tmp_path / "history.svg"),
        plot_pareto(records, tmp_path / "pareto.png"),
        plot_weights(mlp(9, 5, 2), mlp(4, 3, 2), tmp_path / "weights.png"),
    ):
        assert path.stat().st_size > 1000


def test_what_cannot_be_drawn_is_refused(tmp_path) -> None:
    with pytest.raises(InputError, match="at least one epoch"):
        plot_history([], tmp_path / "x.png")
    with pytest.raises(InputError, match="latency_ms"):
        plot_pareto([{"method": "dense", "test_accuracy": 98.0}], tmp_path / "x.png")
    with pytest.raises(InputError, match="as many"):
        plot_weights(mlp(9, 2), mlp(4, 3, 2), tmp_path / "x.png")
