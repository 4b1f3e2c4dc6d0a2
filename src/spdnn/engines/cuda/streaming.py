"""One layer at a time over neuron-major tiles of 128 rows in device memory (`kernels/stream.cu`, `tiles.cu`).

For layers too wide to keep rows in shared memory. The host learns how many rows are left after each of the first
layers and from time to time later on; only then are rows moved together.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import loader
from .pack import PackedNetwork

PACKAGE = "spdnn.engines.cuda"
TILE = 128
WARPS = 8
EARLY = 16
"""After each of this many first layers rows are counted, later on every LATER layers."""
LATER = 16
WORTH_MOVING = 0.9
"""Rows are moved together where at most this part of them is left, or fewer tiles are needed late in a run."""


def bit_stride(columns: int) -> int:
    """Bytes of a tile of bit-packed rows."""
    return columns * TILE // 8


class StreamRunner:
    """Runs a packed network layer by layer over up to `capacity` rows."""

    def __init__(self, xp: Any, packed: PackedNetwork, capacity: int):
        self._xp, self._packed = xp, packed
        index = {"INDEX": "u32" if packed.wide else "u16"}
        group = max(g for _, g, _ in packed.units_of)
        self._stream = loader.load(PACKAGE, "stream", {"GROUP": group, **index}).get_function("stream")
        tiles = loader.load(PACKAGE, "tiles", index)
        names = ("number", "gather_rows", "hash_rows", "match", "verify", "join", "tile_sums")
        self._kernel = {name: tiles.get_function(name) for name in names}
        settle = loader.load(PACKAGE, "settle", index)
        self._everyone, self._follow, self._positive = map(settle.get_function, ("everyone", "follow", "positive"))
        self._sms = xp.cuda.Device().attributes["MultiProcessorCount"]
        self._width = max(packed.widths[1:])
        self._stride = self._width * TILE  # floats of a tile
        n = -(-max(1, capacity) // TILE) * TILE
        self._buffers = [xp.empty(n // TILE * self._stride, xp.float32) for _ in range(2)]
        self._keep, self._differs = xp.zeros(n, xp.uint8), xp.zeros(n, xp.uint8)
        self._hashes = xp.zeros(n, xp.uint64)
        self._same, self._list, self._slot = (xp.empty(n, xp.uint32) for _ in range(3))
        self.owner = xp.empty(n, xp.uint32)
        self._sums, self._flag = xp.zeros(n, xp.float64), xp.zeros(n, xp.uint8)
        self._flag_host = xp.cuda.alloc_pinned_memory(n)
        self._table = xp.zeros(1 << max(8, (2 * n - 1).bit_length()), xp.uint64)
        self._count, self._kept = xp.zeros(1, xp.uint32), xp.zeros(1, xp.uint32)
        copies = packed.copies
        self._copies = None if copies is None else xp.asarray(copies.astype(np.float32))

    @staticmethod
    def bytes_for(packed: PackedNetwork, rows: int) -> int:
        """Device bytes of the working arrays for that many rows, about."""
        return -(-rows // TILE) * TILE * (2 * 4 * max(packed.widths[1:]) + 64)

    def start(self, rows: int, features: Any, *, exact: bool) -> None:
        """Before `layer`: every row stands for itself. `features` is (kind, array).

        exact : move rows together even if that doesn't pay, so that `alive` and `rows` are exact after each check.
        """
        self._worth = 1.0 if exact else WORTH_MOVING
        self._table.data.memset_async(0, self._table.nbytes)
        self._everyone((self._sms,), (256,), (self.owner, np.uint32(rows), self._count))
        kind, array = features
        columns = self._packed.widths[0]
        self._input = (array, bit_stride(columns) if kind == "bits" else columns * TILE * 4, kind == "bits")
        self.rows, self._next, self._stamp = rows, 0, 0

    def layer(self, k: int, originals: int, *, merge: bool, compact: bool, check: bool) -> None:
        """Layer k; with `check`, rows are dropped, merged and moved together after it."""
        packed, u32, u64 = self._packed, np.uint32, np.uint64
        if self.rows == 0:
            return
        array, stride, is_bits = self._input
        out = self._buffers[self._next]
        last = k + 1 == len(packed.network)
        flags = check or last
        if flags:
            self._keep.data.memset_async(0, self._keep.nbytes)
        units, g, _ = packed.units_of[k]
        per_warp = 1 if g > 1 else 2
        grid = (max(1, -(-units // (WARPS * per_warp))), -(-self.rows // TILE))
        arguments = (
            packed.table, u32(k), u32(per_warp), array, u64(stride), u32(is_bits), out, u64(self._stride),
            self._keep if flags else u64(0), self._count,
        )  # fmt: skip
        self._stream(grid, (WARPS * 32,), arguments)
        self._input, self._next = (out, self._stride * 4, False), self._next ^ 1
        if last or (check and (merge or (compact and packed.may_drop[k + 1]))):
            self._settle(k, originals, merge=merge and not last, drop=packed.may_drop[k + 1] and (compact or last))

    def _settle(self, k: int, originals: int, *, merge: bool, drop: bool) -> None:
        u32, u64 = np.uint32, np.uint64
        kernel, width, source = self._kernel, self._packed.widths[k + 1], self._input[0]
        stride = u64(self._stride)
        tiles = -(-self.rows // TILE)
        per_row = ((tiles,), (TILE,))
        if not drop:
            self._keep.fill(1)
        same: Any = u64(0)
        if merge:
            self._stamp += 1
            self._hashes.data.memset_async(0, self._hashes.nbytes)
            self._differs.data.memset_async(0, self._differs.nbytes)
            chunks = -(-width // 512)
            per_chunk = ((chunks, tiles), (TILE,))
            kernel["hash_rows"](*per_chunk, (source, stride, u32(width), self._count, self._hashes))
            table = (self._table, u32(self._table.size - 1), u32(self._stamp))
            kernel["match"](*per_row, (self._hashes, self._keep, self._count, *table, self._same))
            kernel["verify"](*per_chunk, (source, stride, u32(width), self._count, self._same, self._differs))
            kernel["join"](*per_row, (self._count, self._same, self._differs, self._keep))
            same = self._same
        numbered = (self._keep, same, self._count, self._list, self._slot, self._kept)
        kernel["number"]((1,), (1024,), numbered)
        kept = int(self._kept[0])  # the host waits here
        fewer_tiles = -(-kept // TILE) < tiles and k >= EARLY
        if (kept > self._worth * self.rows or kept == self.rows) and not fewer_tiles:
            return
        # `slot` already sends merged rows to where the one that stands for them goes
        self._follow((self._sms,), (256,), (self.owner, u32(originals), u64(0), self._slot))
        if kept:
            out = self._buffers[self._next]
            moved = (source, stride, out, stride, u32(width), self._list, self._kept)
            kernel["gather_rows"]((-(-width // 16), -(-kept // TILE)), (256,), moved)
            self._input, self._next = (out, self._stride * 4, False), self._next ^ 1
        self._count, self._kept = self._kept, self._count
        self.rows = kept

    def finish(self, originals: int) -> None:
        """After the last layer: a flag for each original row with a positive sum, on its way to the host."""
        u32 = np.uint32
        if self.rows:
            copies = np.uint64(0) if self._copies is None else self._copies
            arguments = (
                self._input[0], np.uint64(self._stride), u32(self._packed.widths[-1]), copies, self._count, self._sums,
            )  # fmt: skip
            self._kernel["tile_sums"]((-(-self.rows // TILE),), (TILE,), arguments)
        self._positive((self._sms,), (256,), (self.owner, u32(originals), self._sums, self._flag))
        runtime = self._xp.cuda.runtime
        stream = self._xp.cuda.get_current_stream()
        runtime.memcpyAsync(self._flag_host.ptr, self._flag.data.ptr, originals, runtime.memcpyDeviceToHost, stream.ptr)

    def positive(self, originals: int) -> np.ndarray:
        """int64: the rows with a positive sum, once the stream has finished."""
        return np.flatnonzero(np.frombuffer(self._flag_host, np.uint8, originals))

    def alive(self, originals: int) -> int:
        """Original rows not dropped so far (waits for the device)."""
        return int((self.owner[:originals] != 0xFFFFFFFF).sum())

    def values(self, originals: int) -> tuple[np.ndarray, np.ndarray]:
        """(ids of the original rows kept to the end, their values as computed: folded outputs)."""
        owner = self.owner[:originals].get()
        live = np.flatnonzero(owner != 0xFFFFFFFF)
        width = self._packed.widths[-1]
        tiles = -(-self.rows // TILE)
        if self.rows == 0:
            return live, np.zeros((0, width), np.float32)
        kept = self._input[0].reshape(-1, self._stride)[:tiles, : width * TILE].reshape(tiles, width, TILE)
        rows = kept.transpose(0, 2, 1).reshape(tiles * TILE, width).get()
        return live, rows[owner[live].astype(np.int64)]


def checked(k: int, depth: int) -> bool:
    """Whether rows are counted after layer k."""
    return k < EARLY or (k + 1 - EARLY) % LATER == 0 or k + 1 == depth
