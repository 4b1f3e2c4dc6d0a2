"""The published figures of the seed paper: Tables IV to IX of Wang et al., HPEC 2019, as printed."""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass
from importlib import resources

CITATION = "Wang et al., Performance of Training Sparse Deep Neural Networks on GPUs, HPEC 2019"
V100 = "Tesla V100-PCIE"
GTX_1080 = "GTX 1080"
VARIANTS = {"buffer": "with_buffer", "nobuffer": "without_buffer", "filter": "filter"}
"""The paper's three variants: the name here, the name in the paper's tables."""


@dataclass(frozen=True)
class PaperCell:
    """One instance on one GPU: Tables IV–VI give `seconds`, Tables VII–IX `edges_per_second`.

    `variant` is ``"buffer"``, ``"nobuffer"`` or ``"filter"``. A figure is None where the paper has none: the
    instance didn't fit or wasn't run.
    """

    variant: str
    time_table: str
    rate_table: str
    gpu: str
    neurons: int
    layers: int
    seconds: float | None
    edges_per_second: float | None


@functools.cache
def paper_cells() -> tuple[PaperCell, ...]:
    """All cells of the tables, in the order of the paper."""
    ours = {theirs: name for name, theirs in VARIANTS.items()}
    text = resources.files("spdnn.report").joinpath("paper_tables.csv").read_text(encoding="utf-8")
    return tuple(
        PaperCell(
            variant=ours[line["variant"]],
            time_table=line["time_table"],
            rate_table=line["rate_table"],
            gpu=line["gpu"],
            neurons=int(line["neurons"]),
            layers=int(line["layers"]),
            seconds=float(line["seconds"]) if line["seconds"] else None,
            edges_per_second=float(line["edges_per_second"]) if line["edges_per_second"] else None,
        )
        for line in csv.DictReader(text.splitlines())
    )


def cells_of(neurons: int, layers: int) -> list[PaperCell]:
    """The paper's cells of one instance that have a time, fastest first; empty for instances it doesn't have."""
    cells = [c for c in paper_cells() if (c.neurons, c.layers) == (neurons, layers) and c.seconds is not None]
    return sorted(cells, key=lambda cell: cell.seconds or 0.0)
