"""Many layers at a time: tiles of rows stay in shared memory through a stage (`kernels/fused.cu`, `kernels/placed.cu`).

A run is a sequence of stages. Between two the rows that live are put together row by row, bitwise equal ones are
found (`kernels/settle.cu`), and all counts stay on the device, so that the whole run is one CUDA graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from . import loader, places
from .crew import Crew
from .pack import TURN_UNITS, PackedNetwork

PACKAGE = "spdnn.engines.cuda"
BOUNDARIES = (2, 3, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 32, 36, 40, 48, 64, 96)
"""Layers after which a stage ends where equal rows are merged; past the last, every LATER layers."""
SPARSER = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96)
"""The same where rows are only dropped."""
NARROW = 14
"""Rows of a tile where that gives every multiprocessor one, and all 16 would leave some without."""
LATER = 128
PLACED_THREADS = 1024
FEW_AHEAD = 3
"""Layers of weights that `few` has on their way where all layers are small enough, else 1."""


def stage_bounds(first: int, last: int, every_layer: bool, merge: bool) -> list[tuple[int, int]]:
    """The stages of the layers first … last − 1."""
    if every_layer:
        return [(k, k + 1) for k in range(first, last)]
    bounds = BOUNDARIES if merge else SPARSER
    ends = [b for b in (*bounds, *range(bounds[-1] + LATER, last, LATER)) if first < b < last]
    return list(zip([first, *ends], [*ends, last], strict=True))


@dataclass(frozen=True)
class TileShape:
    """How a tile is computed: its rows, floats of one of its two buffers, groups of four rows a thread computes at a
    time (4: all of 16 rows, from the second form of `pack`), threads, blocks of a multiprocessor, and floats from one
    row to the next of the tile that is brought in meanwhile (0: none is).

    places : where not 0, of the one buffer that `placed.cu` has, and what else is told of buffers is 0.
    """

    rows: int
    span: int
    quads: int
    threads: int
    blocks: int
    pitch: int = 0
    places: int = 0

    @property
    def shared_bytes(self) -> int:
        return self.places * places.BYTES or 4 * (2 * self.span + self.rows * self.pitch)

    @property
    def field(self) -> int:
        """Bits of a neuron in a tile of bit-packed rows."""
        return places.FIELD if self.places else self.rows

    @property
    def packed_for(self) -> tuple[int, int] | None:
        """What `pack.Packer` takes as `tile`."""
        return (self.places, self.threads) if self.places else None


def tile_shape(widths: Sequence[int], g: int, bits: bool, shared_limit: int) -> TileShape | None:
    """A tile for levels of those widths and units of at most g outputs, or None where no useful one fits.

    32 rows where two such tiles fit at a time, else up to 16: more rows share what a layer's weights cost, fewer
    leave enough tiles for all multiprocessors.
    """
    hidden = max(widths[1:])
    for rows in (32, 16, 8, 4):
        floats = max(hidden, 0 if bits else widths[0]) * rows
        if bits:
            floats = max(floats, bit_stride(widths[0], rows) // 4)
        floats = -(-floats // 4) * 4
        two = 2 * (8 * floats + 2048) <= shared_limit
        if two or (rows <= 16 and 8 * floats + 2048 <= shared_limit):
            if rows == 16 and g == 1 and not two:
                slices = -(-hidden // TURN_UNITS)
                passes = -(-slices // 32)
                shape = TileShape(rows, floats, 4, max(4, -(-slices // passes)) * 32, 1)
                # an odd number of 16 bytes, so that the same place of neighbouring rows is in different banks
                ahead = replace(shape, pitch=4 * (-(-floats // rows // 4) | 1))
                return ahead if ahead.shared_bytes + 2048 <= shared_limit else shape
            quads = 2 if g == 1 and rows >= 16 and hidden * rows >= 8192 else 1
            threads = 512 if two or quads > 1 or g > 1 else 1024
            return TileShape(rows, floats, quads, threads, 2 if two and g == 1 else 1)
    return None


def placed_shape(widths: Sequence[int], shared_limit: int) -> TileShape | None:
    """A tile whose outputs take the places of inputs, or None where it doesn't fit."""
    widest = max(widths)
    # one in 128 is spare: what two passes read holds its place until the second
    wanted, room = widest + max(128, widest // 32) + 1, (shared_limit - 1024) // places.BYTES
    if widest + widest // 128 + 1 > room:
        return None
    return TileShape(places.ROWS, 0, 0, PLACED_THREADS, 1, places=min(wanted, room))


def bit_stride(columns: int, rows: int) -> int:
    """Bytes of a tile of `rows` bit-packed rows."""
    return -(-columns * rows // 128) * 16


class StageRunner:
    """Runs a packed network in stages over up to `capacity` rows. `shape` is what `tile_shape` gave."""

    def __init__(self, xp: Any, packed: PackedNetwork, shape: TileShape, capacity: int):
        self._xp, self._packed, self._capacity = xp, packed, capacity
        self._shape, self._threads = shape, shape.threads
        self._few_span = -(-max(packed.widths[1:]) // 4) * 4
        index = {"INDEX": "u32" if packed.wide else "u16"}
        device = xp.cuda.Device().attributes
        self._sms = device["MultiProcessorCount"]
        self._shared = shape.shared_bytes
        self._blocks = self._sms * shape.blocks
        self._fused = []
        """(the most rows it is for, kernel): the first one that serves is taken."""
        if shape.places:
            self._load_placed(index)
        else:
            self._load_fused(index, max(g for _, g, _ in packed.units_of))
        self._few = self._few_kernel(index)
        self._crew = Crew(xp, packed)
        settle = loader.load(PACKAGE, "settle", index)
        names = ("everyone", "follow", "merge", "row_sums", "positive")
        self._everyone, self._follow, self._merge, self._row_sums, self._positive = map(settle.get_function, names)
        n = max(1, capacity)
        self._stride = -(-max(packed.widths[1:]) // 4) * 4
        self._kept = [xp.empty((n, self._stride), xp.float32) for _ in range(2)]
        self._hashes = xp.empty(n, xp.uint64)
        self._slot = xp.empty(n, xp.uint32)
        self._same = xp.empty(n, xp.uint32)
        self._list = xp.empty(n, xp.uint32)
        self.owner = xp.empty(n, xp.uint32)
        self._sums = xp.zeros(n, xp.float64)
        self._flag = xp.zeros(n, xp.uint8)
        self._flag_host = xp.cuda.alloc_pinned_memory(n)
        self._table = xp.zeros(1 << max(8, (2 * n - 1).bit_length()), xp.uint64)
        depth = len(packed.network)
        self._counts = xp.zeros((2, depth), xp.uint32)  # rows kept by a stage; rows distinct after it
        self._rows = xp.zeros(1, xp.uint32)
        copies = packed.copies
        self._copies = None if copies is None else xp.asarray(copies.astype(np.float32))

    def _load_fused(self, index: dict[str, str], group: int) -> None:
        shape = self._shape
        tile = {
            "ROWS": shape.rows,
            "QUADS": shape.quads,
            "THREADS": shape.threads,
            "BLOCKS": shape.blocks,
            "PITCH": shape.pitch,
            "GROUP": group,
        }
        narrow = [(NARROW * self._sms, {"TAKEN": NARROW})] if shape.quads == 4 and self._packed.alike else []
        for most, taken in (*narrow, (2**32 - 1, {})):
            kernel = loader.load(PACKAGE, "fused", {**tile, **index, **taken}).get_function("fused")
            kernel.max_dynamic_shared_size_bytes = self._shared
            self._fused.append((most, kernel))

    def _load_placed(self, index: dict[str, str]) -> None:
        kernel = loader.load(PACKAGE, "placed", {"THREADS": self._threads, **index}).get_function("placed")
        kernel.max_dynamic_shared_size_bytes = self._shared
        self._fused.append((2**32 - 1, kernel))
        units = -(-max(self._packed.widths[1:]) // TURN_UNITS) * TURN_UNITS if self._packed.through else 0
        self._units = units
        self._scratch = self._xp.empty((self._blocks, units, places.FIELD), self._xp.float32) if units else None

    def _few_kernel(self, index: dict[str, str]) -> Any:
        """`few`, with as many threads as have something to do, and room for the weights of most layers."""
        packed = self._packed
        items = max(units * g for units, g, _ in packed.units_of)
        self._few_threads = min(1024, max(64, -(-items // 64) * 32))
        device = self._xp.cuda.Device().attributes
        free = device["MaxSharedMemoryPerBlockOptin"] - 4 * 2 * self._few_span - 2048
        ahead = FEW_AHEAD
        while ahead > 1 and (ahead + 1) * max(packed.unit_bytes) > free:
            ahead -= 1
        fit = [nbytes for nbytes in packed.unit_bytes if (ahead + 1) * nbytes <= free]
        self._few_room = max(fit, default=0)
        self._few_shared = 4 * 2 * self._few_span + (ahead + 1) * self._few_room
        defines = {"THREADS": self._few_threads, "AHEAD": ahead, **index}
        kernel = loader.load(PACKAGE, "few", defines).get_function("few")
        kernel.max_dynamic_shared_size_bytes = self._few_shared
        two = self._few_shared - (ahead - 1) * self._few_room
        per_sm = device["MaxSharedMemoryPerMultiprocessor"] // (two + 2048)
        self._few_rows = self._sms * max(1, min(per_sm, 1536 // self._few_threads))
        return kernel

    @staticmethod
    def bytes_for(packed: PackedNetwork, rows: int) -> int:
        """Device bytes of the working arrays for that many rows, about."""
        each = 2 * 4 * (max(packed.widths[1:]) + 4) + 64
        return rows * each + 8 * len(packed.network) + Crew.bytes_for(packed)

    def start(self, rows: int, features: Any) -> None:
        """Before the first step: every row stands for itself. `features` is (kind, array)."""
        self._features = features
        self._counts.data.memset_async(0, self._counts.nbytes)
        self._table.data.memset_async(0, self._table.nbytes)
        self._rows.data.memset_async(0, 4)
        self._crew.start()
        self._everyone((self._sms,), (256,), (self.owner, np.uint32(rows), self._rows))
        self._stage, self._merged = 0, False
        self._source: Any = None

    @staticmethod
    def steps(packed: PackedNetwork, first: int, last: int, every_layer: bool, merge: bool) -> list[tuple[int, int]]:
        """The layers first … last − 1 as `step` takes them."""
        return stage_bounds(first, last, every_layer, merge)

    def step(self, first: int, last: int, originals: int, *, merge: bool, compact: bool, profile: bool) -> None:
        """Layers first … last − 1."""
        packed, u32, u64 = self._packed, np.uint32, np.uint64
        s = self._stage
        null = u64(0)
        bits, stride, x, x_stride = null, u64(0), null, u64(0)
        if self._source is None:
            kind, array = self._features
            if kind == "bits":
                bits, stride = array, u64(bit_stride(packed.widths[0], self._shape.field))
            else:
                x, x_stride = array, u64(packed.widths[0])
            count, rows_listed = self._rows, null
        else:
            x, x_stride = self._source, u64(self._stride)
            count = self._counts[1 if self._merged else 0, s - 1 : s]
            rows_listed = self._list if self._merged else null
        kept = self._kept[s % 2]
        end = last == len(packed.network)
        drop = packed.may_drop[last] and (compact or end)
        few = 0 if self._source is None else max(self._few_rows, self._crew.rows)
        least = few + 1
        for most, fused in self._fused if self._source is not None else self._fused[-1:]:
            arguments = (
                packed.table, u32(first), u32(last), bits, stride, x, x_stride, rows_listed, count, kept,
                u64(self._stride), self._hashes if merge and not end else null, self._slot, self._counts[0, s : s + 1],
            )  # fmt: skip
            if self._shape.places:
                scratch = null if self._scratch is None else self._scratch
                arguments += (
                    u32(self._shape.places), u32(compact), u32(drop), u32(least), scratch, u64(self._units),
                )  # fmt: skip
            else:
                arguments += (u32(self._shape.span), u32(compact), u32(drop), u32(least), u32(most))
            fused((self._blocks,), (self._threads,), arguments, shared_mem=self._shared)
            least = max(least, most + 1)
        if few:
            source = (x, x_stride, rows_listed, count)
            to = (kept, u64(self._stride), self._hashes, self._slot, self._counts[0, s : s + 1])
            self._few(
                (few,),
                (self._few_threads,),
                (
                    packed.table, u32(first), u32(last), *source, *to, u32(self._few_span), u32(self._few_room),
                    u32(compact), u32(drop), u32(self._crew.rows + 1), u32(few),
                ),
                shared_mem=self._few_shared,
            )  # fmt: skip
            self._crew.launch(first, last, source, to, drop)
        same = self._same if self._merged else null
        self._follow((self._sms,), (256,), (self.owner, u32(originals), same, self._slot))
        self._source, self._merged, self._stage, self._depth = kept, False, s + 1, last
        if merge and not end:
            arguments = (
                kept, u64(self._stride), u32(packed.widths[last]), self._hashes, self._counts[0, s : s + 1],
                self._table, u32(self._table.size - 1), u32(s + 1), self._same, self._list,
                self._counts[1, s : s + 1],
            )  # fmt: skip
            self._merge((4 * self._sms,), (256,), arguments)
            self._merged = True

    def finish(self, rows: int) -> None:
        """After the last stage: a flag for each original row with a positive sum, on its way to the host."""
        u32 = np.uint32
        copies = np.uint64(0) if self._copies is None else self._copies
        count = self._counts[0, self._stage - 1 : self._stage]
        width = self._packed.widths[-1]
        self._row_sums(
            (4 * self._sms,), (256,), (self._source, np.uint64(self._stride), u32(width), copies, count, self._sums)
        )
        self._positive((self._sms,), (256,), (self.owner, u32(rows), self._sums, self._flag))
        runtime = self._xp.cuda.runtime
        stream = self._xp.cuda.get_current_stream()
        runtime.memcpyAsync(self._flag_host.ptr, self._flag.data.ptr, rows, runtime.memcpyDeviceToHost, stream.ptr)

    def positive(self, rows: int) -> np.ndarray:
        """int64: the rows with a positive sum, once the stream has finished."""
        return np.flatnonzero(np.frombuffer(self._flag_host, np.uint8, rows))

    def alive(self, rows: int) -> int:
        """Original rows that are not all zero (waits for the device)."""
        xp, kept = self._xp, self.computed()
        owner = self.owner[:rows]
        owner = owner[owner != 0xFFFFFFFF]
        living = (self._source[:kept, : self._packed.widths[self._depth]] != 0).any(axis=1)
        return int(living[owner.astype(xp.int64)].sum())

    def computed(self) -> int:
        """Rows the last stage kept (waits for the device)."""
        return int(self._counts[0, self._stage - 1])

    def computed_next(self) -> int:
        """Rows the next stage computes: distinct ones where rows were merged."""
        return int(self._counts[1 if self._merged else 0, self._stage - 1])

    def values(self, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """(ids of the original rows not all zero at the end, their values as computed: folded outputs)."""
        owner = self.owner[:rows].get()
        live = np.flatnonzero(owner != 0xFFFFFFFF)
        width = self._packed.widths[-1]
        kept = self._source[: self.computed(), :width].get()
        return live, kept[owner[live].astype(np.int64)]
