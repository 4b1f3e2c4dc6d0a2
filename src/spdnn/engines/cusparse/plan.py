"""What all variants share: memory, weights, tiles of features, and the result."""

from __future__ import annotations

import contextlib
import importlib
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...engine import Activations, LayerProfile, Loaded, Options, Plan, Progress, Stopwatch
from ...errors import InputError
from ...features import Features
from ...network import SparseNetwork
from ...rows import droppable
from .estimate import Estimate
from .launch import Kernels
from .library import Library
from .memory import DeviceMemory, free_bytes
from .order import order_bytes
from .rows import Rows, upload
from .weights import Weights, require_room, weights_bytes

_WARM_UP_ROWS, _WARM_UP_LAYERS = 64, 12
_STREAMED_LAYERS = 5  # the room two streamed layers take with their staging, in layers
_USABLE = 0.94  # of the free device memory; the rest is for what CUDA and cuSPARSE take for themselves

KEEP_ROWS = ("buffer", "nobuffer")
"""The variants that never drop a row, whatever Options.compact says."""
_KINDS = ("weights", "features", "activations", "product", "workspace", "structure")


@dataclass(frozen=True, eq=False)
class Tile:
    """Rows that go through the network together: on the device, or on the host until their turn comes."""

    start: int
    features: Features | None
    rows: Rows | None


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of a tile: the rows left, by their number in it, their final sums, and a way to have their values."""

    ids: np.ndarray
    sums: np.ndarray
    values: Callable[[], np.ndarray]


class CusparsePlan(Plan):
    """A network on the device. Subclasses say what they need (`_estimate`) and run a tile (`_run`)."""

    transposed = False
    """Whether the weights are kept as Wᵀ."""
    grouped = True
    """Whether neurons are renumbered (order.py); the results are the same."""

    def __init__(self, network: SparseNetwork, rows: int, options: Options):
        if options.variant in KEEP_ROWS:
            options = replace(options, compact=False)
        super().__init__(network, rows, options)
        self.variant = str(options.variant)
        self._device = _device(options.device)
        with self._device:
            self._build(rows)

    def _build(self, rows: int) -> None:
        network, options = self.network, self.options
        limit = options.memory_limit or int(free_bytes() * _USABLE)
        require_room(network, limit)
        self._memory = DeviceMemory(limit)
        self._kernels = Kernels(self._memory)
        self._library = Library()
        self._weights = Weights(
            network,
            self._library,
            self._memory,
            self._kernels,
            budget=limit // 2,
            transposed=self.transposed,
            grouped=self.grouped,
        )
        self._depth = len(network)
        self._drops = droppable(network) if options.compact else np.zeros(len(network) + 1, bool)
        self.estimate = self._estimate(rows, 0)

    @abstractmethod
    def _estimate(self, rows: int, features: int) -> Estimate:
        """What `rows` rows with `features` bytes of features need. Raises MemoryLimitError."""

    @abstractmethod
    def _run(
        self, tile: Tile, rows: Rows, watch: Stopwatch, layers: list[np.ndarray], progress: Progress | None
    ) -> Outcome:
        """`_depth` layers over a tile. Adds (live rows, computed rows, seconds) to the items of `layers`, if any."""

    @property
    def _weight_bytes(self) -> int:
        """Bytes of the weights that are on the device at a time; of streamed ones with what brings them in."""
        everything = weights_bytes(self.network)
        if self._weights.resident:
            return everything
        return _STREAMED_LAYERS * everything // len(self.network) + order_bytes(self.network)

    @property
    def nbytes(self) -> int:
        return self._memory.used_by.get("weights", 0)

    def describe(self) -> dict[str, Any]:
        return {
            "filter": bool(self._drops.any()),
            "weights_resident": self._weights.resident,
            "levels_renumbered": self._weights.orders.renumbered if self._weights.orders else 0,
            "warm_up": f"{min(len(self.network), _WARM_UP_LAYERS)} layers of up to {_WARM_UP_ROWS} rows",
            "tile_rows": self.estimate.tile_rows,
            "estimated_bytes": self.estimate.total,
            "peak_device_bytes": self._memory.peak,
            **{f"peak_{kind}_bytes": self._memory.peak_of.get(kind, 0) for kind in _KINDS},
            **super().describe(),
        }

    def close(self) -> None:
        with self._device:
            self._weights.close()
            self._library.close()
            self._memory.close()

    def _load(self, features: Features) -> tuple[list[Tile], int]:
        with self._device:
            return self._place(features)

    def _place(self, features: Features) -> tuple[list[Tile], int]:
        nbytes = 8 * features.nnz + 32 * features.rows
        self.estimate = self._estimate(features.rows, nbytes)
        step = self.estimate.tile_rows
        starts = range(0, features.rows, step)
        resident = len(starts) <= 1 or nbytes + self.estimate.total <= self._memory.limit
        tiles, before = [], self._memory.used_by.get("features", 0)
        for start in starts:
            part = features if len(starts) == 1 else features[start : start + step]
            tiles.append(Tile(start, None, self._upload(part)) if resident else Tile(start, part, None))
        self._warm_up(features[:_WARM_UP_ROWS])
        return tiles, self._memory.used_by.get("features", 0) - before

    def _upload(self, features: Features) -> Rows:
        numbers = self._weights.numbers(0)
        rows = upload(features, self._memory, self._kernels, drop=bool(self._drops[0]), numbers=numbers)
        rows.measure(self._kernels, self._weights.get(0))
        return rows

    def _warm_up(self, features: Features) -> None:
        """Have CUDA and cuSPARSE load their kernels, which they do at the first call: a few layers of a few rows."""
        if features.rows:
            tile = Tile(0, features, self._upload(features))
            assert tile.rows is not None
            with self._first_layers():
                self._run(tile, tile.rows, Stopwatch(), [], None)
            tile.rows.free()

    @contextlib.contextmanager
    def _first_layers(self) -> Iterator[None]:
        """Runs inside end after a few layers."""
        self._depth = min(self._depth, _WARM_UP_LAYERS)
        try:
            yield
        finally:
            self._depth = len(self.network)

    def _execute(
        self, loaded: Loaded, watch: Stopwatch, *, values: bool, profile: bool, progress: Progress | None
    ) -> Activations:
        with self._device:
            return self._tiles(loaded, watch, values, profile, progress)

    def _tiles(
        self, loaded: Loaded, watch: Stopwatch, values: bool, profile: bool, progress: Progress | None
    ) -> Activations:
        depth, tiles = len(self.network), loaded.handle
        layers = [np.zeros(3) for _ in range(depth)] if profile else []
        positive, live, final = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], []
        for number, tile in enumerate(tiles):
            rows = tile.rows
            if rows is None:
                self._kernels.synchronize()
                with watch.paused():
                    rows = self._upload(tile.features)
            outcome = self._run(tile, rows, watch, layers, _share(progress, number, len(tiles), depth))
            ids = outcome.ids.astype(np.int64) + tile.start
            positive.append(ids[outcome.sums > 0])
            if values:
                dense = outcome.values()
                alive = dense.any(axis=1)
                live.append(ids[alive])
                final.append(dense[alive])
            if tile.rows is None:
                rows.free()
        result: dict[str, Any] = {"rows": loaded.rows, "outputs": self.network.outputs}
        result["positive"] = np.concatenate(positive)
        result["profile"] = tuple(LayerProfile(k, int(a), int(b), float(s)) for k, (a, b, s) in enumerate(layers))
        if values:
            result["live"] = np.concatenate(live)
            result["values"] = np.concatenate([np.zeros((0, self.network.outputs), np.float32), *final])
        return Activations(**result)


def _device(number: str | int | None) -> Any:
    cupy: Any = importlib.import_module("cupy")
    try:
        return cupy.cuda.Device(int(number or 0))
    except ValueError:
        raise InputError(f"Expected a GPU's number as device, got {number!r}.") from None


def _share(progress: Progress | None, tile: int, tiles: int, depth: int) -> Progress | None:
    """Progress of one of several tiles as progress of the whole run."""
    if progress is None or tiles == 1:
        return progress
    return lambda done, _: progress((tile * depth + done) // tiles, depth)
