"""What a run needs before it starts: how many rows go through the network together, and how large strips may be."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import MemoryLimitError

STRIP_ROWS = 1024  # of the paper, §II-D
MOST_PRODUCTS = (1 << 29) - (1 << 24)  # multiplications a call; cuSPARSE's own int32 counters overflow soon after


@dataclass(frozen=True)
class Estimate:
    """Bytes on the device for `tile_rows` rows at a time, every product in strips of at most `strip_products`.

    activations : two full matrices, every entry non-zero. product : one strip's result. workspace : cuSPARSE's.
    """

    tile_rows: int
    strip_products: int
    weights: int
    features: int
    activations: int
    product: int
    workspace: int

    @property
    def total(self) -> int:
        return self.weights + self.features + self.activations + self.product + self.workspace


def fit_rows(
    *,
    rows: int,
    width: int,
    row_products: int,
    weights: int,
    features: int,
    workspace_per_product: float,
    limit: int,
    most_products: int = MOST_PRODUCTS,
) -> Estimate:
    """The estimate for as many rows as fit at a time.

    rows : in all. width : most neurons of a layer. row_products : multiplications of a row without zeros in the
    largest layer. weights, features : bytes of the resident layers and of all rows. Tiles are whole strips of 1024
    rows, and where not even one fits, powers of two below. Rather than taking all rows at once with little room for
    the products, tiles of 8 strips and more are made smaller. Raises MemoryLimitError where not one row fits.
    """
    rows = max(1, rows)
    per_product = workspace_per_product + 8
    for least_tile, wanted in ((min(rows, 8 * STRIP_ROWS), most_products // 2), (1, row_products)):
        tile = rows
        while tile >= least_tile:
            fixed = weights + features * tile // rows
            activations = 2 * tile * (8 * width + 32)
            most = max(1, tile * row_products)
            strip = min(most_products, most, int((limit - fixed - activations) / per_product))
            if strip >= min(most, wanted):
                return Estimate(
                    tile,
                    strip,
                    weights,
                    features * tile // rows,
                    activations,
                    8 * strip,
                    int(workspace_per_product * strip),
                )
            tile = _smaller(tile, rows)
    needed = int(weights + features // rows + 2 * (8 * width + 32) + row_products * per_product)
    raise _not_one_row(needed, limit)


def _smaller(tile: int, rows: int) -> int:
    """One part more of `rows`, in whole strips; from one strip on the next power of two below; 0 after 1."""
    if tile > STRIP_ROWS:
        parts = -(-rows // tile) + 1
        return min(-(-rows // parts // STRIP_ROWS) * STRIP_ROWS, (tile - 1) // STRIP_ROWS * STRIP_ROWS)
    return 1 << ((tile - 1).bit_length() - 1) if tile > 1 else 0


def _not_one_row(needed: int, limit: int) -> MemoryLimitError:
    return MemoryLimitError(
        f"Not enough memory: a single row needs {needed:,} bytes, the limit is {limit:,} bytes on the device.",
        needed=needed,
        limit=limit,
    )


def fit_columns(*, rows: int, width: int, weights: int, features: int, limit: int) -> Estimate:
    """As `fit_rows` for dense activations, of which no matrix may have 2³¹ entries or more."""
    tile = rows = max(1, rows)
    while True:
        part = features * tile // rows
        activations = tile * (8 * width + 100)
        needed = weights + part + activations
        if needed <= limit and tile * width < 2**31:
            return Estimate(tile, tile, weights, part, activations, 0, 0)
        if tile == 1:
            raise _not_one_row(needed, limit)
        tile = _smaller(tile, rows)
