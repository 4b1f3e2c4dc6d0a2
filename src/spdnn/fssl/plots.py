"""Figures of trainings, as files: curves with live neurons, accuracy against time, weights before and after.

Needs the `plots` extra.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import InputError
from ..figures import save, subplots


def plot_history(history: Sequence[Mapping[str, Any]], path: str | Path) -> Path:
    """Held-out accuracy and loss by epoch, and below live inputs and neurons of every layer, from `history.json`."""
    if not history:
        raise InputError("Expected a history of at least one epoch, got none.")
    figure, (above, below) = subplots(2, (7, 7))
    epochs = [epoch["epoch"] for epoch in history]
    above.plot(epochs, [epoch["held_out_accuracy"] for epoch in history], color="C0")
    above.set_ylabel("held-out accuracy (%)", color="C0")
    twin = above.twinx()
    twin.plot(epochs, [epoch["loss"] for epoch in history], color="C1", linewidth=0.8)
    twin.set_ylabel("loss", color="C1")
    live = [epoch["live"] for epoch in history if epoch.get("live")]
    if len(live) == len(history):
        for k in range(len(live[0])):
            name = "inputs" if k == 0 else f"layer {k}"
            below.plot(epochs, [widths[k] for widths in live], label=name)
        below.set_yscale("log")
        below.legend()
    below.set_xlabel("epoch")
    below.set_ylabel("live inputs and neurons")
    return save(figure, path)


def plot_pareto(records: Sequence[Mapping[str, Any]], path: str | Path, *, key: str = "latency_ms") -> Path:
    """Test accuracy against measured time, the mean over seeds with its standard deviation, one line a method."""
    points: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for record in records:
        if record.get(key) is not None:
            label = record.get("label") or f"{record['method']}-{record['weights_removed']:.3f}"
            place = points.setdefault(record["method"], {}).setdefault(label, [])
            place.append((record[key], record["test_accuracy"]))
    if not points:
        raise InputError(f"Expected records with {key!r}, got none.")
    figure, (axes,) = subplots(1, (7, 5))
    for method, groups in points.items():
        rows = []
        for values in groups.values():
            times, scores = zip(*values, strict=True)
            spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
            rows.append((statistics.mean(times), statistics.mean(scores), spread))
        x, y, spread = zip(*sorted(rows), strict=True)
        axes.errorbar(x, y, yerr=spread, marker="o", capsize=3, label=method)
    axes.set_xscale("log")
    axes.set_xlabel("measured time (ms)")
    axes.set_ylabel("test accuracy (%)")
    axes.legend()
    return save(figure, path)


def plot_weights(before: nn.Module, after: nn.Module, path: str | Path) -> Path:
    """|weights| of every Linear layer of two networks, one above the other, each on its own scale."""
    pairs = [[m.weight.detach().abs().cpu().numpy() for m in model.modules() if isinstance(m, nn.Linear)]
             for model in (before, after)]  # fmt: skip
    if len(pairs[0]) != len(pairs[1]) or not pairs[0]:
        raise InputError(f"Expected networks of as many Linear layers, got {len(pairs[0])} and {len(pairs[1])}.")
    figure, axes = subplots(2 * len(pairs[0]), (4 * len(pairs[0]), 8), columns=len(pairs[0]))
    for k, weight in enumerate([*pairs[0], *pairs[1]]):
        axes[k].imshow(weight, aspect="auto", interpolation="nearest", cmap="gray_r")
        axes[k].set_title(f"{weight.shape[0]} × {weight.shape[1]}")
    return save(figure, path)
