"""The loop of engines that compute one whole layer after another: tiles of rows, dead and equal rows, figures.

An engine supplies what its library does: a layer's weights, a layer's step, and questions about the rows.
"""

from __future__ import annotations

import contextlib
import itertools
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import memory
from ..engine import Activations, LayerProfile, Loaded, Options, Plan, Progress, Stopwatch
from ..errors import MemoryLimitError
from ..features import Features
from ..network import SparseLayer, SparseNetwork
from ..rows import RowMap, droppable, equal_dense

_LEAST_ROWS = 64


class LayerwisePlan(Plan):
    """Rows, here called y, are the engine's own type: `rows` of them by the width of a level.

    Where rows don't fit into memory at once they are computed in tiles, each through all layers.
    """

    bytes_per_value = 16
    """Memory a step takes for each value of a full row, before and after it."""
    drop_share = 0.0
    """Dead rows are dropped once they are more than this share of the rows."""

    def __init__(self, network: SparseNetwork, rows: int, options: Options):
        super().__init__(network, rows, options)
        self._dtype = np.dtype(options.dtype)
        self._droppable = droppable(network)
        self._weights = None if network.is_lazy else [self._prepared(layer) for layer in network]
        self._tile = self._rows_at_once()

    # -- what an engine supplies
    @abstractmethod
    def _prepared(self, layer: SparseLayer) -> Any:
        """A layer's weights and bias in the engine's form."""

    @abstractmethod
    def _weights_nbytes(self, weights: Any) -> int: ...

    @abstractmethod
    def _taken_in(self, features: Features) -> tuple[Any, int]:
        """Features as y, and its bytes. There is at least one row."""

    @abstractmethod
    def _step(self, y: Any, weights: Any, layer: SparseLayer) -> Any:
        """The rows after a layer. y itself stays as it is."""

    @abstractmethod
    def _alive(self, y: Any) -> np.ndarray:
        """bool (rows,): which rows have a value that is not zero."""

    @abstractmethod
    def _take(self, y: Any, ids: np.ndarray) -> Any:
        """The rows of the given ascending ids, at least one."""

    @abstractmethod
    def _equal(self, y: Any) -> np.ndarray:
        """int (rows,): for each row an earlier row that is bitwise equal to it, or itself."""

    @abstractmethod
    def _sums(self, y: Any) -> np.ndarray:
        """float64 (rows,): the sum of each row."""

    @abstractmethod
    def _dense(self, y: Any, ids: np.ndarray) -> np.ndarray:
        """(len(ids), width): the rows of the given ids."""

    def _equal_by_products(self, y: Any, products: np.ndarray) -> np.ndarray:
        """`_equal`, given each row's product with one random vector: rows whose products differ differ; the others are
        compared value by value."""
        first = np.arange(products.size)
        _, inverse, counts = np.unique(products, return_inverse=True, return_counts=True)
        candidates = np.flatnonzero(counts[inverse] > 1)
        if candidates.size:
            first[candidates] = candidates[equal_dense(self._dense(y, candidates))]
        return first

    def _free_bytes(self) -> int:
        """Bytes a run may take on the engine's device."""
        return memory.budget(self.options.memory_limit)

    def _settings(self) -> contextlib.AbstractContextManager[Any]:
        """What must be set while the engine computes, such as the number of threads."""
        return contextlib.nullcontext()

    # -- Plan
    @property
    def nbytes(self) -> int:
        return sum(self._weights_nbytes(w) for w in self._weights or ())

    def describe(self) -> dict[str, Any]:
        facts = {"dtype": self.options.dtype, "streamed": self._weights is None, "rows_at_once": self._tile}
        return {**facts, **super().describe()}

    def _rows_at_once(self) -> int:
        """Rows whose widest step fits beside the weights. Raises MemoryLimitError where even a few don't."""
        widths = self.network.widths
        per_row = max(a + b for a, b in itertools.pairwise(widths)) * self.bytes_per_value
        weights, limit = self.nbytes, self._free_bytes()
        needed = weights + _LEAST_ROWS * per_row
        if needed > limit:
            raise MemoryLimitError(
                f"Expected {needed:,} bytes of memory for the weights and {_LEAST_ROWS} rows, got {limit:,}. "
                "Allow more, or use an engine that streams.",
                needed=needed,
                limit=limit,
            )
        return (limit - weights) // max(1, per_row)

    def _load(self, features: Features) -> tuple[Any, int]:
        if not 0 < features.rows <= self._tile:
            return features, features.nbytes
        with self._settings():
            return self._taken_in(features)

    def _tiles(self, loaded: Loaded, watch: Stopwatch) -> Iterator[tuple[int, int, Any]]:
        if loaded.rows and not isinstance(loaded.handle, Features):
            yield 0, loaded.rows, loaded.handle
            return
        for start in range(0, loaded.rows, self._tile):
            stop = min(start + self._tile, loaded.rows)
            with watch.paused():
                y, _ = self._taken_in(loaded.handle[start:stop])
            yield start, stop, y

    def _execute(
        self, loaded: Loaded, watch: Stopwatch, *, values: bool, profile: bool, progress: Progress | None
    ) -> Activations:
        depth = len(self.network)
        figures = [np.zeros(depth, np.int64), np.zeros(depth, np.int64), np.zeros(depth)] if profile else None
        positive, live, final = [], [], []
        with self._settings():
            for start, stop, y in self._tiles(loaded, watch):
                rows = RowMap(stop - start)
                for k in range(depth):
                    if rows.computed:
                        y = self._layer(y, k, rows, watch, figures)
                    if progress:
                        progress(((k + 1) * (stop - start) + depth * start) // loaded.rows, depth)
                if rows.computed:
                    positive.append(start + rows.rows_of(self._sums(y) > 0))
                if values and rows.computed:
                    live.append(rows.rows_of(self._alive(y)))
                    final.append(self._dense(y, rows.owner[live[-1]]))
                    live[-1] += start
        if progress and not loaded.rows:
            progress(depth, depth)
        width = self.network.outputs
        return Activations(
            rows=loaded.rows,
            outputs=width,
            positive=np.concatenate([np.zeros(0, np.int64), *positive]),
            live=np.concatenate([np.zeros(0, np.int64), *live]) if values else None,
            values=np.concatenate([np.zeros((0, width), self._dtype), *final]) if values else None,
            profile=() if figures is None else tuple(_profile(*figures)),
        )

    def _layer(self, y: Any, k: int, rows: RowMap, watch: Stopwatch, figures: list[np.ndarray] | None) -> Any:
        with watch.paused():
            layer = self.network.layers[k]
            weights = self._prepared(layer) if self._weights is None else self._weights[k]
        start, computed = watch.seconds, rows.computed
        y = self._step(y, weights, layer)
        drops = self.options.compact and bool(self._droppable[k + 1])
        alive = self._alive(y) if drops or figures else np.zeros(0, bool)
        live = int(alive[rows.owner[rows.owner >= 0]].sum()) if figures else 0
        if drops:
            left = int(alive.sum())
            if left == 0 or computed - left > self.drop_share * computed:
                rows.keep(alive)
                y = self._take(y, np.flatnonzero(alive)) if left else None
        if self.options.merge and rows.computed > 1:
            before = rows.computed
            stays = rows.merge(self._equal(y))
            if stays.size < before:
                y = self._take(y, stays)
        if figures:
            for figure, value in zip(figures, (live, computed, watch.seconds - start), strict=True):
                figure[k] += value
        return y


def _profile(live: np.ndarray, computed: np.ndarray, seconds: np.ndarray) -> Iterator[LayerProfile]:
    for k in range(live.size):
        yield LayerProfile(k, int(live[k]), int(computed[k]), float(seconds[k]))
