"""One run: segments of layers, with equal rows merged and tiles rebuilt in between."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ...engine import Activations, LayerProfile, Progress, Stopwatch, least_bytes
from ...rows import RowMap
from . import kernels
from .vector import LANES

if TYPE_CHECKING:
    from .plan import NumbaPlan, Window

_FIRST_MERGE = 8  # layers: by then most rows that ever die have died on workloads seen so far
_MERGE_EVERY = 4
_WORTHWHILE = 0.9  # a merge that leaves more than this share of the rows doubles the way to the next
_REPACK = 0.75  # share of a tile's lanes alive from which on it is not repacked
_CHECKED = 16  # levels of the first segment after each of which rows may be dropped; then ever fewer
_CHUNK = 8  # source tiles a worker takes at a time
_UNINTERRUPTED = 2e10  # multiply-adds for one tile between two returns to Python, about a second
_TILE_COST = {64: 4.0, 16: 1.7, 4: 1.3}  # relative, measured with 1024 and 4096 neurons


@dataclass(eq=False)
class Source:
    """Rows on their way into a segment: tiles (or bit tiles, or CSR rows) and which row stands in which lane.

    pool : which of the plan's pools holds the tiles, -1 for loaded features.
    """

    lanes: int
    slots: np.ndarray
    ids: np.ndarray
    counts: np.ndarray
    kind: int = kernels.TILES
    pool: int = -1
    tiles: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))
    words: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.uint64))
    csr: tuple[np.ndarray, np.ndarray, np.ndarray] = field(
        default_factory=lambda: (np.zeros(1, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    )

    @classmethod
    def of_rows(cls, rows: int, lanes: int) -> Source:
        """Rows 0, 1, … in order, `lanes` to a tile, their values still to come."""
        count = -(-rows // lanes)
        counts = np.full(count, lanes, np.int64)
        if count:
            counts[-1] = rows - (count - 1) * lanes
        ids = np.arange(count * lanes, dtype=np.int32).reshape(count, lanes)
        return cls(lanes, np.arange(count), ids, counts)

    @property
    def nbytes(self) -> int:
        return self.tiles.nbytes + self.words.nbytes + sum(array.nbytes for array in self.csr)

    def places(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(row ids, slots, lanes) of all rows, tile by tile."""
        counts = self.counts[self.slots]
        slots = np.repeat(self.slots, counts)
        lane = np.arange(slots.size) - np.repeat(np.cumsum(counts) - counts, counts)
        return self.ids[slots, lane], slots, lane


class Run:
    """A run of a plan's network over loaded rows."""

    def __init__(
        self,
        plan: NumbaPlan,
        source: Source,
        rows: int,
        watch: Stopwatch,
        values: bool,
        profile: bool,
        progress: Progress | None,
    ):
        self._plan, self._source, self._rows, self._watch = plan, source, rows, watch
        self._values, self._profile, self._progress = values, profile, progress
        self._depth, self._outputs = len(plan.network), plan.network.outputs
        self._cost = np.zeros((self._depth, 3))  # live rows, computed rows, seconds of each layer
        self._next_tile = 0
        self._features_nbytes = source.nbytes

    def activations(self) -> Activations:
        """Run all rows, in batches where the pool can't hold all survivors of the first segment."""
        batches = [self._batch()]
        while self._next_tile < self._source.slots.size:
            batches.append(self._batch())
        result: dict[str, Any] = {
            "rows": self._rows,
            "outputs": self._outputs,
            "positive": np.sort(np.concatenate([positive for positive, _, _ in batches])),
        }
        if self._profile:
            result["profile"] = tuple(
                LayerProfile(k, int(live), int(computed), float(seconds), self._nbytes(k, int(computed)))
                for k, (live, computed, seconds) in enumerate(self._cost)
            )
        if self._values:
            live = np.concatenate([ids for _, ids, _ in batches])
            order = np.argsort(live)
            stacked = np.concatenate([values for _, _, values in batches])
            result |= {"live": live[order], "values": stacked[order]}
        return Activations(**result)

    def _nbytes(self, k: int, computed: int) -> int:
        """`least_bytes` of layer k; the first reads the features as they were loaded."""
        plan, rows = self._plan, max(1, self._rows)
        read = self._features_nbytes / rows if k == 0 else 4 * plan.widths[k]
        return least_bytes(computed, read, 4 * plan.widths[k + 1], plan.layer_bytes[k])

    # -- one batch of rows, all layers -------------------------------------------------------------------------
    def _batch(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(positive ids, live ids, live values) of as many rows from the next tile on as fit."""
        plan, rows, source = self._plan, RowMap(self._rows), self._source
        step, level, merge_at = _MERGE_EVERY, 0, _FIRST_MERGE
        for window in plan.windows(self._watch):
            while level < window.end:
                end = self._segment_end(window, level, merge_at if rows.computed > 1 else self._depth)
                start = self._watch.seconds
                computed = rows.computed
                pool = self._segment(window, level, end, source, level == 0)
                kept, slots, lane = pool.places()
                alive = np.zeros(rows.computed, bool)
                alive[kept] = True
                if level == 0:
                    computed = self._taken
                rows.keep(alive)
                kept = (np.cumsum(alive) - 1)[kept]
                place = np.empty((2, kept.size), np.int64)
                place[:, kept] = slots, lane
                level = end
                if plan.options.merge and level >= merge_at and level < self._depth:
                    before = rows.computed
                    place = place[:, rows.merge(self._equal(pool, place, level))]
                    step = _MERGE_EVERY if rows.computed <= _WORTHWHILE * before else 2 * step
                    merge_at = level + step
                source = self._retile(pool, place, level)
                if self._profile:
                    live = self._live_rows(source, rows, level)
                    self._cost[level - 1] += live, computed, self._watch.seconds - start
                if self._progress:
                    self._progress(level, self._depth)
                if rows.computed == 0:
                    return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, self._outputs), np.float32)
        return self._finish(source, rows)

    def _segment_end(self, window: Window, level: int, merge_at: int) -> int:
        if self._profile:
            return level + 1
        end = min(window.end, self._depth)
        if self._plan.options.merge and merge_at > level:
            end = min(end, merge_at)
        edges = np.cumsum(
            [packed.arrays[2].size for packed in window.layers[level - window.begin : end - window.begin]]
        )
        fits = int(np.searchsorted(edges * LANES[0], _UNINTERRUPTED, side="right"))
        return min(end, level + max(1, fits))

    def _segment(self, window: Window, begin: int, end: int, source: Source, first: bool) -> Source:
        """Layers begin … end over the source's rows; the rows that live, in a pool."""
        plan = self._plan
        lanes, neurons = source.lanes, plan.widths[end]
        tiles = source.slots.size
        tables = window.tables[begin - window.begin : end - window.begin]
        bounds = window.bounds[begin - window.begin : end - window.begin]
        check = _checkpoints(end - begin, first)
        may_drop = plan.may_drop[begin : end + 1]
        check[:-1][~may_drop[:-1]] = -1
        used = np.flatnonzero(check >= 0)
        if used.size > plan.buffers:
            check[used[plan.buffers - 1 : -1]] = -1
            used = np.flatnonzero(check >= 0)
        check[used] = np.arange(used.size)
        widest = max(plan.widths[begin + (source.kind != kernels.CSR) : end + 1])
        workers = max(1, min(plan.threads, tiles))
        if first:
            share = max(4, plan.pool_bytes // (workers * neurons * lanes * 4 or 1))
            share = min(share, tiles + 1)
        else:
            share = -(-tiles // workers) + 1
        slots = workers * share
        pool = Source(lanes, np.arange(0), np.empty((slots, lanes), np.int32), np.zeros(slots, np.int64))
        self._use_pool(pool, 1 if source.pool == 0 else 0, slots, neurons)
        filled = np.zeros((workers, 1), np.int64)
        chunk = max(1, min(_CHUNK, share // 4, tiles // (4 * workers)))
        chunks = _Chunks(self._next_tile if first else 0, tiles, chunk)

        def work(w: int) -> None:
            scratch, waiting = plan.scratch(w, widest * lanes, used.size)
            ids = np.empty((used.size, 2 * lanes), np.int32)
            counts = np.zeros(used.size, np.int64)

            def advance(a: int, b: int, flush: bool) -> None:
                kernels.advance(
                    lanes,
                    tables,
                    bounds,
                    check,
                    may_drop,
                    int(_REPACK * lanes),
                    source.kind,
                    source.tiles,
                    source.words,
                    *source.csr,
                    source.slots,
                    source.ids,
                    source.counts,
                    a,
                    b,
                    flush,
                    scratch,
                    waiting,
                    ids,
                    counts,
                    pool.tiles,
                    pool.ids,
                    pool.counts,
                    w,
                    workers,
                    filled[w],
                )

            if first:
                while filled[w, 0] + counts.sum() / lanes + chunks.size + 1 <= share:
                    taken = chunks.take()
                    if taken is None:
                        break
                    advance(*taken, False)
                advance(0, 0, True)
            else:
                part = tiles / workers
                advance(round(w * part), round((w + 1) * part), True)

        plan.parallel(work, workers, chunks.stop)
        if first:
            self._taken = int(source.counts[self._next_tile : chunks.next].sum())
            self._next_tile = chunks.next
        pool.slots = np.concatenate([w + workers * np.arange(filled[w, 0]) for w in range(workers)])
        return pool

    def _use_pool(self, source: Source, which: int, slots: int, neurons: int) -> None:
        """Give a source its tiles in one of the plan's two pools, which grow as needed and are kept."""
        pools, width = self._plan.pools, neurons * source.lanes
        if pools[which].size < slots * width:
            pools[which] = np.empty(slots * width, np.float32)
        source.tiles, source.pool = pools[which][: slots * width].reshape(slots, width), which

    def _equal(self, pool: Source, place: np.ndarray, level: int) -> np.ndarray:
        """For each computed row the first one bitwise equal to it."""
        neurons = self._plan.widths[level]
        hashes = np.empty((pool.slots.size, pool.lanes), np.uint64)
        self._each(
            pool.slots.size,
            lambda a, b: kernels.hash_tiles(pool.tiles, pool.slots[a:b], pool.lanes, neurons, hashes[a:b]),
        )
        position = np.empty(pool.counts.size, np.int64)
        position[pool.slots] = np.arange(pool.slots.size)
        slot, lane = place
        _, first, inverse = np.unique(hashes[position[slot], lane], return_index=True, return_inverse=True)
        first = first[inverse.reshape(-1)]
        same = np.flatnonzero(first != np.arange(first.size))
        differ = np.empty(same.size, np.bool_)
        other = first[same]
        self._each(
            same.size,
            lambda a, b: kernels.rows_differ(
                pool.tiles,
                pool.lanes,
                neurons,
                slot[same[a:b]],
                lane[same[a:b]],
                slot[other[a:b]],
                lane[other[a:b]],
                differ[a:b],
            ),
        )
        first[same[differ]] = same[differ]
        return first

    def _retile(self, pool: Source, place: np.ndarray, level: int) -> Source:
        """The rows at `place` as a source: the pool's own tiles, or new ones if rows went or tiles are too wide."""
        plan, rows = self._plan, place.shape[1]
        lanes = plan.lanes
        if rows <= lanes * plan.threads:
            widths = [width for width in LANES if width <= lanes]
            lanes = min(widths, key=lambda width: _TILE_COST[width] * _rounds(rows, width, plan.threads))
        whole = rows == pool.counts[pool.slots].sum()
        if lanes == pool.lanes and whole and pool.slots.size <= -(-rows // lanes) + plan.threads:
            pool.ids[place[0], place[1]] = np.arange(rows)
            return pool
        neurons = plan.widths[level]
        source = Source.of_rows(rows, lanes)
        self._use_pool(source, 1 - pool.pool, len(source.counts), neurons)
        tiles = source.tiles
        self._each(
            len(tiles),
            lambda a, b: kernels.gather_rows(
                pool.tiles,
                pool.lanes,
                place[0, a * lanes : b * lanes],
                place[1, a * lanes : b * lanes],
                neurons,
                tiles[a:b],
                lanes,
            ),
        )
        return source

    def _each(self, count: int, work: Any) -> None:
        """`work(a, b)` over 0..count in one part for each thread; small counts stay on this one."""
        parts = min(self._plan.threads, max(1, count // 8))
        edges = [round(p * count / parts) for p in range(parts + 1)]
        if count:
            self._plan.parallel(lambda w: work(edges[w], edges[w + 1]), parts)

    # -- results ---------------------------------------------------------------------------------------------
    def _sums(self, source: Source, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Per computed row its weighted total, and whether any of its values is not zero."""
        shape = (source.slots.size, source.lanes)
        total, some = np.empty(shape, np.float64), np.empty(shape, np.bool_)
        weight = weight.astype(np.float64)
        self._each(
            shape[0],
            lambda a, b: kernels.sum_rows(
                source.tiles, source.slots[a:b], source.lanes, weight.size, weight, total[a:b], some[a:b]
            ),
        )
        valid = np.arange(source.lanes) < source.counts[source.slots][:, None]
        ids = source.ids[source.slots][valid]
        totals, somes = np.empty(ids.size), np.empty(ids.size, bool)
        totals[ids], somes[ids] = total[valid], some[valid]
        return totals, somes

    def _live_rows(self, source: Source, rows: RowMap, level: int) -> int:
        _, some = self._sums(source, np.ones(self._plan.widths[level]))
        return rows.rows_of(some).size

    def _finish(self, source: Source, rows: RowMap) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        plan = self._plan
        total, some = self._sums(source, plan.weight_of_output)
        positive = rows.rows_of(total > 0)
        if not self._values:
            return positive, np.zeros(0, np.int64), np.zeros((0, self._outputs), np.float32)
        live = rows.rows_of(some)
        dense = np.empty((total.size, plan.widths[-1]), np.float32)
        ids, slots, lane = source.places()
        tiles = source.tiles.reshape(len(source.tiles), plan.widths[-1], source.lanes)
        for k in range(ids.size):
            dense[ids[k]] = tiles[slots[k], :, lane[k]]
        values = dense[rows.owner[live]]
        return positive, live, values[:, plan.place_of_output]


class _Chunks:
    """Hands out runs of tiles to the workers that ask."""

    def __init__(self, first: int, last: int, size: int):
        self.next, self._last, self.size, self._lock = first, last, size, threading.Lock()

    def take(self) -> tuple[int, int] | None:
        with self._lock:
            begin, self.next = self.next, min(self._last, self.next + self.size)
            return (begin, self.next) if begin < self.next else None

    def stop(self) -> None:
        with self._lock:
            self._last = self.next


def _rounds(rows: int, lanes: int, threads: int) -> int:
    return -(-max(1, -(-rows // lanes)) // threads)


def _checkpoints(layers: int, first: bool) -> np.ndarray:
    """int64 (layers + 1,): 0 where rows are looked at and dead ones dropped (always at the end), -1 elsewhere."""
    check = np.full(layers + 1, -1, np.int64)
    if first:
        check[1 : _CHECKED + 1] = 0
    level = _CHECKED
    while level < layers:
        check[level] = 0
        level *= 2
    check[-1] = 0
    return check
