"""How many rows and products the cuSPARSE engine takes at a time; no GPU needed."""

from __future__ import annotations

import pytest

from spdnn.engines.cusparse.estimate import MOST_PRODUCTS, STRIP_ROWS, fit_columns, fit_rows
from spdnn.errors import MemoryLimitError

CHALLENGE = {"rows": 60000, "workspace_per_product": 28, "weights": 10**9, "features": 3 * 10**9}


def challenge(neurons: int, limit: float):
    return fit_rows(**CHALLENGE, width=neurons, row_products=32 * neurons, limit=int(limit))


@pytest.mark.parametrize("neurons", [1024, 4096, 16384])
def test_all_rows_at_once_where_there_is_room(neurons):
    estimate = challenge(neurons, 74e9)
    assert (estimate.tile_rows, estimate.strip_products) == (60000, MOST_PRODUCTS)
    assert estimate.total <= 74e9


def test_the_widest_network_goes_in_equal_tiles_rather_than_small_products():
    estimate = challenge(65536, 74e9)
    assert estimate.tile_rows == 30 * STRIP_ROWS
    assert estimate.strip_products == MOST_PRODUCTS


@pytest.mark.parametrize("rows", [1, 2, 3, 1000, 1025, 5000])
def test_never_more_than_the_limit(rows):
    sizes = {"rows": rows, "width": 300, "weights": 1000, "features": 100 * rows}
    fitted = refused = 0
    for limit in range(1000, 40_000_000, 137_777):
        try:
            estimate = fit_rows(**sizes, row_products=9600, workspace_per_product=28, limit=limit)
        except MemoryLimitError:
            refused += 1
            continue
        fitted += 1
        assert estimate.total <= limit
        assert 1 <= estimate.tile_rows <= rows
        assert estimate.tile_rows == rows or estimate.tile_rows % min(STRIP_ROWS, estimate.tile_rows) == 0
    assert fitted
    assert refused


def test_dense_activations_stay_below_two_to_the_31():
    estimate = fit_columns(rows=60000, width=65536, weights=0, features=0, limit=10**12)
    assert estimate.tile_rows == 30 * STRIP_ROWS
    with pytest.raises(MemoryLimitError, match="a single row"):
        fit_columns(rows=10, width=1000, weights=0, features=0, limit=8000)
