"""The seed paper's tables are shipped as printed."""

from __future__ import annotations

import pytest

from spdnn.report.paper import GTX_1080, V100, cells_of, paper_cells


def test_all_cells_are_there():
    cells = paper_cells()
    assert len(cells) == 3 * 2 * 9
    assert {(c.variant, c.gpu) for c in cells} == {
        (variant, gpu) for variant in ("buffer", "nobuffer", "filter") for gpu in (V100, GTX_1080)
    }


def test_fastest_first():
    cells = cells_of(1024, 120)
    assert (cells[0].variant, cells[0].gpu, cells[0].seconds) == ("filter", V100, 2.75839)
    assert [c.seconds for c in cells] == sorted(c.seconds for c in cells)
    assert len(cells_of(16384, 1920)) == 3
    assert cells_of(65536, 120) == []


MISPRINTED = {(GTX_1080, 4096, n) for n in (120, 480, 1920)} | {
    (GTX_1080, 16384, 120),
    (V100, 1024, 480),
    (V100, 1024, 1920),
}


@pytest.mark.parametrize("cell", [c for c in paper_cells() if c.seconds and c.edges_per_second], ids=str)
def test_rates_are_rows_times_edges_over_seconds_but_for_the_known_misprints(cell):
    rate = 60000 * 32 * cell.neurons * cell.layers / cell.seconds
    off = abs(cell.edges_per_second / rate - 1)
    if cell.variant == "filter" and (cell.gpu, cell.neurons, cell.layers) in MISPRINTED:
        assert off > 0.05
    else:
        assert off < 0.05
