"""The plan of the CPU engine: weights packed or streamed, features in tiles."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from ... import memory
from ...engine import Activations, Loaded, Options, Plan, Progress, Stopwatch
from ...errors import MemoryLimitError
from ...features import Features
from ...fold import Folder, multiplicity
from ...network import SparseLayer, SparseNetwork
from ...rows import droppable
from . import kernels
from .packing import Packed, pack
from .run import Run, Source
from .vector import LANES

_WEIGHT_SHARE = 0.5
_POOL_SHARE = 0.125
_TOUCHED = 1 << 27
_WIDE_TILE = 32 << 20  # bytes; tiles larger than this, hence than most caches, are cut to 16 rows


@dataclass(frozen=True, eq=False)
class Window:
    """Layers `begin` up to `end`, packed: their tables int64 (layers, fields) and bounds float32 (layers, 2)."""

    begin: int
    layers: list[Packed]
    tables: np.ndarray
    bounds: np.ndarray

    @classmethod
    def of(cls, begin: int, layers: list[Packed]) -> Window:
        return cls(begin, layers, np.stack([p.table for p in layers]), np.stack([p.bounds for p in layers]))

    @property
    def end(self) -> int:
        return self.begin + len(self.layers)

    @property
    def nbytes(self) -> int:
        return sum(packed.nbytes for packed in self.layers)


class NumbaPlan(Plan):
    """Keeps all packed weights if they fit half the memory budget, else as many layers at a time as do."""

    def __init__(self, network: SparseNetwork, rows: int, options: Options):
        super().__init__(network, rows, options)
        self.threads = options.threads or _cpus()
        self.may_drop = droppable(network) if options.compact else np.zeros(len(network) + 1, bool)
        self.limit = memory.budget(options.memory_limit)
        self.pool_bytes = int(self.limit * _POOL_SHARE)
        self.pools = [np.empty(0, np.float32)] * 2
        self._scratch: dict[int, np.ndarray] = {}
        self._window_bytes = self.limit * _WEIGHT_SHARE
        self._facts = {"groups": 0, "grouped_outputs": 0, "folded_neurons": 0, "nbytes": 0}
        self._keep: Window | None = None
        self._survey()
        self._touch_memory()
        self._executor = ThreadPoolExecutor(self.threads - 1) if self.threads > 1 else None

    def _survey(self) -> None:
        """Go through the layers once: pack them while they fit, learn the folded widths."""
        folder = Folder(self.network.inputs)
        self.layer_bytes: list[int] = []
        kept: list[Packed] | None = []
        widths = [self.network.inputs]
        largest = 0
        position = None
        for layer in self.network:
            layer, packed = self._prepared(folder, layer, position)
            position = packed.position
            widths.append(layer.outputs)
            largest = max(largest, packed.nbytes)
            facts = self._facts
            facts["nbytes"] += packed.nbytes
            self.layer_bytes.append(packed.nbytes)
            facts["groups"] += packed.groups
            facts["grouped_outputs"] += packed.grouped
            if kept is not None:
                kept.append(packed)
                if facts["nbytes"] > self._window_bytes:
                    kept = None
        self._facts["folded_neurons"] = sum(self.network.widths) - sum(widths)
        self.widths = widths
        assert position is not None
        self.place_of_output = position if folder.expand is None else position[folder.expand]
        self.weight_of_output = multiplicity(self.place_of_output, widths[-1])
        if kept is not None:
            self._keep = Window.of(0, kept)
        self.lanes = LANES[0] if max(widths[1:]) * LANES[0] * 4 <= _WIDE_TILE else LANES[1]
        widest = max(widths) * self.lanes * 4
        self.buffers = max(1, int(self.limit * _POOL_SHARE) // (2 * widest * self.threads))
        needed = largest + 12 * self.threads * widest  # scratch, one waiting buffer, two pools of four tiles a worker
        if needed > self.limit:
            raise MemoryLimitError(
                f"Expected room for one layer's weights and {self.threads} tiles of activations, "
                f"{needed / 2**20:.1f} MiB, got {self.limit / 2**20:.1f} MiB; raise the memory limit or use "
                "fewer threads.",
                needed=needed,
                limit=self.limit,
            )
        self.pool_bytes = max(self.pool_bytes, 4 * self.threads * widest)

    def _touch_memory(self) -> None:
        """Take the memory that most runs need before they are timed: fresh pages cost more than what they hold."""
        widest = max(self.widths[1:]) * self.lanes
        size = min(self.pool_bytes // 4, -(-self.rows // self.lanes) * widest, _TOUCHED // 4)
        self.pools = [np.empty(size, np.float32) for _ in range(2)]
        for worker in range(self.threads):
            self.scratch(worker, widest, min(len(self.network), self.buffers, 16))
        for array in (*self.pools, *self._scratch.values()):
            array[: _TOUCHED // 4].fill(0.0)

    def _prepared(self, folder: Folder, layer: SparseLayer, position: np.ndarray | None) -> tuple[SparseLayer, Packed]:
        if self.options.fold:
            layer = folder.fold(layer)
        return layer, pack(layer, position)

    @property
    def streamed(self) -> bool:
        return self._keep is None

    def windows(self, watch: Stopwatch) -> Iterator[Window]:
        """All layers in turn, as many at a time as memory holds; making them is not timed."""
        if self._keep is not None:
            yield self._keep
            return
        folder = Folder(self.network.inputs)
        begin, depth = 0, len(self.network)
        position = None
        while begin < depth:
            with watch.paused():
                layers: list[Packed] = []
                total = 0
                while begin + len(layers) < depth and (
                    not layers or total * (1 + 1 / len(layers)) < self._window_bytes
                ):
                    packed = self._prepared(folder, self.network.layers[begin + len(layers)], position)[1]
                    position = packed.position
                    layers.append(packed)
                    total += packed.nbytes
                window = Window.of(begin, layers)
            begin = window.end
            yield window
            del window, layers

    def scratch(self, worker: int, width: int, buffers: int) -> tuple[np.ndarray, np.ndarray]:
        """A worker's own memory, kept between runs: float32 (2, width) and (buffers, 2 * width)."""
        size = 2 * width * (1 + buffers)
        if worker not in self._scratch or self._scratch[worker].size < size:
            self._scratch[worker] = np.empty(size, np.float32)
        flat = self._scratch[worker][:size]
        return flat[: 2 * width].reshape(2, width), flat[2 * width :].reshape(buffers, 2 * width)

    def parallel(self, work: Callable[[int], None], parts: int, stop: Callable[[], None] | None = None) -> None:
        """`work(worker)` for each of `parts` workers at once, this thread being worker 0.

        stop : called where this thread's part fails or is interrupted, before the others are waited for.
        """
        futures = [self._executor.submit(work, w) for w in range(1, parts)] if self._executor else []
        try:
            work(0)
        except BaseException:
            if stop:
                stop()
            raise
        finally:
            for future in futures:
                future.result()

    @property
    def nbytes(self) -> int:
        return self._keep.nbytes if self._keep is not None else 0

    def describe(self) -> dict[str, Any]:
        return {
            "format": "blocks of outputs by input set",
            "threads": self.threads,
            "tile_rows": self.lanes,
            "streamed": self.streamed,
            "padding": 0,
            **self._facts,
        }

    def _load(self, features: Features) -> tuple[Source, int]:
        lanes = self.lanes
        rows, columns = features.shape
        source = Source.of_rows(rows, lanes)
        if features.is_binary:
            words = np.ascontiguousarray(features.to_bits())
            tiles = -(-rows // 64)
            source.words = np.empty((tiles, columns), np.uint64)
            fill = lambda a, b: kernels.transpose_bits(words, a, source.words[a:b])  # noqa: E731
            source.kind = kernels.BITS
        elif features.kind == "dense":
            store = features.store
            tiles = source.slots.size
            source.tiles = np.empty((tiles, columns * lanes), np.float32)
            fill = lambda a, b: kernels.tile_dense(store, a, source.tiles[a:b], lanes)  # noqa: E731
            source.kind = kernels.TILES
        else:
            csr = features.store
            source.kind = kernels.CSR
            source.words = np.empty((0, columns), np.uint64)
            source.csr = (csr.indptr.astype(np.int64), csr.indices.astype(np.int64), csr.data.astype(np.float32))
            return source, source.nbytes
        step = -(-tiles // self.threads) if tiles else 1
        self.parallel(lambda w: fill(min(tiles, w * step), min(tiles, (w + 1) * step)), self.threads)
        return source, source.nbytes

    def _execute(
        self, loaded: Loaded, watch: Stopwatch, *, values: bool, profile: bool, progress: Progress | None
    ) -> Activations:
        return Run(self, loaded.handle, loaded.rows, watch, values, profile, progress).activations()

    def close(self) -> None:
        if self._executor:
            self._executor.shutdown()
        self._keep, self.pools, self._scratch = None, [], {}


def _cpus() -> int:
    """CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def warm_up() -> None:
    """Compile the kernels (or read them from Numba's cache) by running a tiny network."""
    rng = np.random.default_rng(0)
    layer = SparseLayer.from_matrix((rng.random((6, 6)) < 0.5) * 0.5, upper=4.0)
    network = SparseNetwork([layer] * 20)
    plan = NumbaPlan(network, 8, Options(threads=1))
    bits = (rng.random((8, 6)) < 0.5).astype(np.uint8)
    plan.run(Features.from_bool(np.concatenate([bits, bits])))
    plan.run(Features.from_dense(bits * np.float32(0.5)))
