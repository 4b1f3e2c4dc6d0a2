"""One layer at a time over neuron-major tiles of rows in device memory (`pieces.cu`, `staged.cu`, `stream.cu`).

For layers too wide to keep enough rows in shared memory. After each of the first layers, and from time to time
later on, the rows that live (and differ) are numbered; the next layer reads just those. All numbers of rows stay on
the device, so that the whole run is one CUDA graph.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import bands, loader, pieces
from .chunks import MOST_ENTRIES, MOST_INPUTS, MOST_WEIGHTS
from .pack import PackedNetwork

PACKAGE = "spdnn.engines.cuda"
NEURON_BYTES = 512
"""A tile's values of a neuron: 128 of float32, 256 of float16."""
WARPS = 8
STAGED_WARPS = {(1, "float32"): 20, (8, "float32"): 10, (1, "float16"): 20, (8, "float16"): 8}
"""Of a block of `staged`, by the outputs of a unit and the type of values; see `chunks.MOST_PLACES`."""
EARLY = 16
"""After each of this many first layers rows are numbered, later on every LATER layers."""
LATER = 16
SLICES = 32
"""Parts of a row that are added up apart in the final sums."""


def tile_rows(packed: PackedNetwork) -> int:
    """Rows of a tile of a network's activations."""
    return bands.ROWS if packed.bands else NEURON_BYTES // np.dtype(packed.dtype).itemsize


def bit_stride(columns: int, rows: int) -> int:
    """Bytes of a tile of so many bit-packed rows."""
    return -(-columns * rows // 8)


def definitions(packed: PackedNetwork) -> dict[str, Any]:
    """Of kernels that read and write a network's activations."""
    index = {"INDEX": "u32" if packed.wide else "u16"}
    return index | ({"HALF": 1} if packed.dtype == "float16" else {}) | ({"ROWS": bands.ROWS} if packed.bands else {})


class StreamRunner:
    """Runs a packed network layer by layer over up to `capacity` rows."""

    def __init__(self, xp: Any, packed: PackedNetwork, capacity: int):
        self._xp, self._packed = xp, packed
        index, self._dtype, self._tile = definitions(packed), np.dtype(packed.dtype), tile_rows(packed)
        self._neuron_bytes, self._block = self._tile * self._dtype.itemsize, max(128, self._tile)
        device = xp.cuda.Device().attributes
        self._load(index, device)
        tiles = loader.load(PACKAGE, "tiles", index)
        names = ("number", "gather_rows", "hash_rows", "match", "verify", "join", "slice_sums", "add_slices")
        self._kernel = {name: tiles.get_function(name) for name in names}
        settle = loader.load(PACKAGE, "settle", index)
        self._everyone, self._follow, self._positive = map(settle.get_function, ("everyone", "follow", "positive"))
        self._sms = device["MultiProcessorCount"]
        self._width = max(packed.widths[1:])
        self._stride = self._width * self._tile  # values of a tile
        n = self._capacity = -(-max(1, capacity) // self._block) * self._block
        self._buffers = [xp.empty(n // self._tile * self._stride, self._dtype) for _ in range(2)]
        self._keep, self._differs = xp.zeros(n, xp.uint8), xp.zeros(n, xp.uint8)
        self._hashes = xp.zeros(n, xp.uint64)
        self._same, self._list, self._slot = (xp.empty(n, xp.uint32) for _ in range(3))
        self.owner = xp.empty(n, xp.uint32)
        self._sums, self._flag = xp.zeros(SLICES * n, xp.float64), xp.zeros(n, xp.uint8)
        self._flag_host = xp.cuda.alloc_pinned_memory(n)
        self._table = xp.zeros(1 << max(8, (2 * n - 1).bit_length()), xp.uint64)
        self._counts = xp.zeros((len(packed.network) + 1, 2), xp.uint32)
        """Rows after each numbering, and whether all stayed."""
        self._arrived = xp.zeros(1, xp.uint32)
        copies = packed.copies
        self._copies = None if copies is None else xp.asarray(copies.astype(np.float32))

    def _load(self, index: dict[str, Any], device: Any) -> None:
        """The kernels that compute layers."""
        packed = self._packed
        group = max(g for _, g, _ in packed.units_of)
        self._stream = loader.load(PACKAGE, "stream", {"GROUP": group, **index}).get_function("stream")
        stage = (MOST_INPUTS + 1) * 2 * NEURON_BYTES + MOST_WEIGHTS * 4 + MOST_ENTRIES
        stages = 2 if 2 * stage <= device["MaxSharedMemoryPerBlockOptin"] else 1
        self._shared = stages * stage
        sizes = {"SLOTS": MOST_INPUTS, "WEIGHTS": MOST_WEIGHTS, "STAGES": stages}
        self._staged = {}
        for g in {g for (_, g, _), chunked in zip(packed.units_of, packed.chunks_of, strict=True) if chunked}:
            defines = {"GROUP": g, "WARPS": STAGED_WARPS[g, packed.dtype], **sizes, **index}
            for together in (False, True):
                name = "staged" if packed.dtype == "float32" else "staged_half"
                module = loader.load(PACKAGE, name, defines, cooperative=together)
                self._staged[g, together] = module.get_function(name)
                self._staged[g, together].max_dynamic_shared_size_bytes = self._shared
        if any(packed.pieces_of):
            self._load_pieces(index, device["MaxSharedMemoryPerBlockOptin"])

    def _load_pieces(self, index: dict[str, Any], shared_limit: int) -> None:
        stages = 2 if pieces.shared_bytes(2) + 1024 <= shared_limit else 1
        self._piece_shared = pieces.shared_bytes(stages)
        defines = {"THREADS": 2 * pieces.MOST_OUTPUTS, "SLOTS": pieces.MOST_INPUTS, "STAGES": stages, **index}
        self._pieces = loader.load(PACKAGE, "pieces", defines).get_function("pieces")
        self._pieces.max_dynamic_shared_size_bytes = self._piece_shared

    @staticmethod
    def bytes_for(packed: PackedNetwork, rows: int) -> int:
        """Device bytes of the working arrays for that many rows, about."""
        tile, nbytes = max(128, tile_rows(packed)), np.dtype(packed.dtype).itemsize
        return -(-rows // tile) * tile * (2 * nbytes * max(packed.widths[1:]) + 64 + 8 * SLICES)

    def start(self, rows: int, features: Any) -> None:
        """Before the first step: every row stands for itself. `features` is (kind, array)."""
        self._table.data.memset_async(0, self._table.nbytes)
        self._counts.data.memset_async(0, self._counts.nbytes)
        self._arrived.data.memset_async(0, self._arrived.nbytes)
        self._met = 0
        self._everyone((self._sms,), (256,), (self.owner, np.uint32(rows), self._counts[0]))
        kind, array = features
        columns = self._packed.widths[0]
        stride = bit_stride(columns, self._tile) if kind == "bits" else columns * self._neuron_bytes
        self._input = (array, stride, kind == "bits")
        self._next, self._numbered, self._listed = 0, 0, False

    @staticmethod
    def steps(packed: PackedNetwork, first: int, last: int, every_layer: bool, merge: bool) -> list[tuple[int, int]]:
        """The layers first … last − 1 as `step` takes them: chunked ones together up to where rows are numbered."""
        bounds = [first]
        for k in range(first + 1, last):
            alike = (
                packed.chunks_of[k - 1] and packed.chunks_of[k] and packed.units_of[k - 1][1] == packed.units_of[k][1]
            )
            if every_layer or not alike or checked(k - 1, len(packed.network)):
                bounds.append(k)
        return list(zip(bounds, [*bounds[1:], last], strict=True))

    def step(self, first: int, last: int, originals: int, *, merge: bool, compact: bool, profile: bool) -> None:
        """Layers first … last − 1, after which rows are dropped and merged if it is time to, or for a profile."""
        packed, u64 = self._packed, np.uint64
        check = profile or checked(last - 1, len(packed.network))
        end = last == len(packed.network)
        drop = bool(packed.may_drop[last]) and (compact or end)
        merge = merge and not end
        number = end or (check and (merge or drop))
        if number:
            self._keep.data.memset_async(0, self._keep.nbytes)
        self._compute(first, last, self._keep if number else u64(0))
        self._depth_width = packed.widths[last]
        if number:
            self._number(packed.widths[last], originals, merge=merge, drop=drop)

    def _compute(self, first: int, last: int, keep: Any) -> None:
        """Layers first … last − 1; the last one's rows that live are set in `keep` where it isn't null."""
        packed, u32, u64 = self._packed, np.uint32, np.uint64
        chunked, pieced = packed.chunks_of[first], packed.pieces_of[first]
        if self._listed and not (chunked or pieced):
            self._gather(packed.widths[first])
        array, stride, is_bits = self._input
        out, other = self._buffers[self._next], self._buffers[self._next ^ 1]
        count, identity = self._count(), self._counts[self._numbered, 1:]
        rows = (self._list, identity) if self._listed else (u64(0), u64(0))
        if pieced:
            arguments = (
                packed.piece_table, u32(first), array, u64(stride), u32(is_bits), out, u64(self._stride), keep, count,
                *rows,
            )  # fmt: skip
            self._pieces((self._sms,), (2 * pieces.MOST_OUTPUTS,), arguments, shared_mem=self._piece_shared)
            self._next ^= 1
        elif chunked:
            g, layers = packed.units_of[first][1], last - first
            arguments = (
                packed.chunk_table, u32(first), u32(last), array, u64(stride), u32(is_bits), out, other,
                u64(self._stride), keep, count, *rows, self._arrived, u32(self._met),
            )  # fmt: skip
            kernel = self._staged[g, layers > 1]
            warps = STAGED_WARPS[g, packed.dtype]
            kernel((self._sms,), (warps * 32,), arguments, shared_mem=self._shared)
            self._met += (layers - 1) * self._sms
            out = (out, other)[(layers - 1) % 2]
            self._next ^= layers % 2
        else:
            per_warp = u32(1 if packed.units_of[first][1] > 1 else 2)
            target = (out, u64(self._stride), keep, count)
            arguments = (packed.table, u32(first), per_warp, array, u64(stride), u32(is_bits), *target)
            self._stream((16 * self._sms,), (WARPS * 32,), arguments)
            self._next ^= 1
        self._input, self._listed = (out, self._width * self._neuron_bytes, False), False

    def _count(self) -> Any:
        return self._counts[self._numbered]

    def _gather(self, width: int) -> None:
        """Put the listed rows together, for kernels that don't read by the list."""
        stride, out = np.uint64(self._stride), self._buffers[self._next]
        moved = (self._input[0], stride, out, stride, np.uint32(width), self._list, self._counts[self._numbered, 1:])
        self._kernel["gather_rows"]((8 * self._sms,), (256,), (*moved, self._count()))
        self._input, self._next, self._listed = (out, self._width * self._neuron_bytes, False), self._next ^ 1, False

    def _number(self, width: int, originals: int, *, merge: bool, drop: bool) -> None:
        """List the rows that stay after a layer of that width."""
        u32, u64 = np.uint32, np.uint64
        kernel, source, count = self._kernel, self._input[0], self._count()
        stride = u64(self._stride)
        if not drop:
            self._keep.data.memset_async(1, self._keep.nbytes)
        same: Any = u64(0)
        if merge:
            self._hashes.data.memset_async(0, self._hashes.nbytes)
            self._differs.data.memset_async(0, self._differs.nbytes)
            grid, per_tile = (8 * self._sms,), (self._block,)
            kernel["hash_rows"](grid, per_tile, (source, stride, u32(width), count, self._hashes))
            table = (self._table, u32(self._table.size - 1), u32(self._numbered + 1))
            kernel["match"](grid, per_tile, (self._hashes, self._keep, count, *table, self._same))
            kernel["verify"](grid, per_tile, (source, stride, u32(width), count, self._same, self._differs))
            kernel["join"](grid, per_tile, (count, self._same, self._differs, self._keep))
            same = self._same
        after = self._counts[self._numbered + 1]
        numbered = (self._keep, same, count, self._list, self._slot, after, after[1:])
        kernel["number"]((1,), (1024,), numbered)
        # `slot` already sends merged rows to where the one that stands for them goes
        self._follow((self._sms,), (256,), (self.owner, u32(originals), u64(0), self._slot))
        self._numbered, self._listed = self._numbered + 1, True

    def finish(self, originals: int) -> None:
        """After the last layer: a flag for each original row with a positive sum, on its way to the host."""
        u32, u64 = np.uint32, np.uint64
        width = self._packed.widths[-1]
        if self._listed:
            self._gather(width)
        copies = u64(0) if self._copies is None else self._copies
        count, slices = self._count(), (u32(SLICES), u64(self._capacity), self._sums)
        arguments = (self._input[0], u64(self._stride), u32(width), copies, count, *slices)
        self._kernel["slice_sums"]((8 * self._sms,), (self._block,), arguments)
        self._kernel["add_slices"]((self._sms,), (256,), (count, *slices))
        self._positive((self._sms,), (256,), (self.owner, u32(originals), self._sums, self._flag))
        runtime = self._xp.cuda.runtime
        stream = self._xp.cuda.get_current_stream()
        runtime.memcpyAsync(self._flag_host.ptr, self._flag.data.ptr, originals, runtime.memcpyDeviceToHost, stream.ptr)

    def positive(self, originals: int) -> np.ndarray:
        """int64: the rows with a positive sum, once the stream has finished."""
        return np.flatnonzero(np.frombuffer(self._flag_host, np.uint8, originals))

    def alive(self, originals: int) -> int:
        """Original rows that are not all zero (waits for the device)."""
        xp, count = self._xp, int(self._counts[max(0, self._numbered - self._listed), 0])
        owner = self.owner[:originals]
        owner = owner[owner != 0xFFFFFFFF].astype(xp.int64)
        tiles = -(-count // self._tile)
        values = self._input[0].reshape(-1, self._stride)[:tiles, : self._depth_width * self._tile]
        living = (values.reshape(tiles, self._depth_width, self._tile) != 0).any(axis=1).reshape(-1)
        return int(living[self._list[owner].astype(xp.int64) if self._listed else owner].sum())

    def computed_next(self) -> int:
        """Rows the next layer computes (waits for the device)."""
        return int(self._counts[self._numbered, 0])

    def values(self, originals: int) -> tuple[np.ndarray, np.ndarray]:
        """(ids of the original rows kept to the end, their values as computed: folded outputs)."""
        owner = self.owner[:originals].get()
        live = np.flatnonzero(owner != 0xFFFFFFFF)
        width, rows = self._packed.widths[-1], self.computed_next()
        tiles = -(-rows // self._tile)
        if rows == 0:
            return live, np.zeros((0, width), np.float32)
        kept = self._input[0].reshape(-1, self._stride)[:tiles, : width * self._tile].reshape(tiles, width, self._tile)
        dense = kept.transpose(0, 2, 1).reshape(tiles * self._tile, width).get()
        return live, dense[owner[live].astype(np.int64)].astype(np.float32, copy=False)


def checked(k: int, depth: int) -> bool:
    """Whether rows are numbered after layer k."""
    return k < EARLY or (k + 1 - EARLY) % LATER == 0 or k + 1 == depth
