"""What a run needs before it starts: how many rows go through the network together, and how large strips may be."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import MemoryLimitError

STRIP_ROWS = 1024  # of the paper, §II-D
MOST_PRODUCTS = 1 << 28  # multiplications a call; cuSPARSE's own int32 counters overflow at some 2²⁹·⁵ on


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
) -> Estimate:
    """The estimate for as many rows as fit at a time.

    rows : in all. width : most neurons of a layer. row_products : multiplications of a row without zeros in the
    largest layer. weights, features : bytes of the resident layers and of all rows. Tiles are whole strips of 1024
    rows, and where not even one fits, powers of two below. Raises MemoryLimitError where not one row fits.
    """
    tile = rows = max(1, rows)
    while True:
        fixed = weights + features * tile // rows
        activations = 2 * tile * (8 * width + 32)
        per_product = workspace_per_product + 8
        most = max(1, tile * row_products)
        strip = min(MOST_PRODUCTS, most, int((limit - fixed - activations) / per_product))
        if strip >= min(most, row_products):
            return Estimate(
                tile,
                strip,
                weights,
                features * tile // rows,
                activations,
                8 * strip,
                int(workspace_per_product * strip),
            )
        if tile == 1:
            needed = int(fixed + activations + row_products * per_product)
            raise MemoryLimitError(
                f"Not enough memory: a single row needs {needed:,} bytes, the limit is {limit:,} bytes on the device.",
                needed=needed,
                limit=limit,
            )
        tile = _smaller(tile)


def _smaller(tile: int) -> int:
    if tile > STRIP_ROWS:
        return max(STRIP_ROWS, tile // 2 // STRIP_ROWS * STRIP_ROWS)
    return 1 << ((tile - 1).bit_length() - 1)


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
            raise MemoryLimitError(
                f"Not enough memory: a single row needs {needed:,} bytes, the limit is {limit:,} bytes on the device.",
                needed=needed,
                limit=limit,
            )
        tile = _smaller(tile)
