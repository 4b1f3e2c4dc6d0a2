"""Layers cut into bands of inputs, for `kernels/bands.cu`: wide layers whose outputs share nothing.

A thread block keeps the sums of many outputs for a few rows in registers and walks through the inputs band by band,
each of which it brings into shared memory once. A lane of a warp computes an output at a time, all 32 in step: outputs
of which each band has about as many inputs stand together in a unit of 32, and their entries are padded to the same
number. Eight lanes load 16 bytes each at a time: outputs and entries stand in an order in which their inputs mostly
are in different banks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba as nb
import numpy as np

from ...network import SparseLayer

LEAST_CAPABILITY = 90
"""Of GPUs whose kernels have barriers that count bytes, and clusters."""
ROWS = 4
"""Rows of a tile: a neuron of it is 16 bytes."""
MOST_INPUTS = 1 << 14
"""Of a band: two of them, and a bit to spare, are a word."""
WARPS, UNITS = 15, 21
"""Of a block, and of a warp: so that sums, and what is computed with, take the registers there are."""
STAGE, DEPTH = 4, 4
"""Pairs of a warp in a stage of the ring, and its stages, a power of two: as much as is on its way meanwhile."""
PAIR_BYTES = 384
LANES = 32
ENTRY_CYCLES, INPUT_CYCLES, GATHER_CYCLES = 0.45, 0.5, 1.3
"""Of a multiprocessor, for a tile, about: an entry's loads, bringing an input in, and reading one from L2 instead."""
NONE, LAST = 0xFFFFFFFF, 1
TRIES = 250
"""Exchanges of outputs that are looked at for a unit: more make few conflicts fewer."""


@dataclass(frozen=True, eq=False)
class Shape:
    """How a layer is cut and run: inputs of a band at most, warps of a block that compute, units of a warp at most,
    pairs of a warp in a stage of the ring, its stages, and blocks of a cluster."""

    band: int
    warps: int
    units: int
    stage: int
    depth: int
    cluster: int

    @property
    def shared_bytes(self) -> int:
        return self.band * 4 * ROWS + self.warps * self.stage * self.depth * PAIR_BYTES


def shape(shared_limit: int, multiprocessors: int) -> Shape:
    """For a GPU whose blocks have so many bytes of shared memory: clusters of two blocks where all find another one."""
    cluster = 2 if multiprocessors % 2 == 0 else 1
    ring = Shape(0, WARPS, UNITS, STAGE, DEPTH, cluster).shared_bytes
    return Shape(min(MOST_INPUTS, (shared_limit - 1024 - ring) // (4 * ROWS)), WARPS, UNITS, STAGE, DEPTH, cluster)


@dataclass(frozen=True, eq=False)
class Bands:
    """A layer cut into bands.

    band : inputs of each band but the last. pairs : int64 (columns, bands, units), how many pairs of entries, one at
    least, the lanes of a warp take for a unit; a column is what a warp computes, those of a block make a part.
    start : uint32 (parts · bands + 1,), the first stage of each. entries : uint32 (stages, warps, shape.stage, 96), of
    a pair two inputs for each lane, counted from the band's first, the first · 16 | the second << 18, with LAST in a
    unit's last pair, then the weight of the first for each, float32, and that of the second. output : uint32 (columns,
    shape.units, 32), where outputs stand, NONE for padding. place : where each output stands, or None: in the place of
    its number.
    """

    band: int
    pairs: np.ndarray
    start: np.ndarray
    entries: np.ndarray
    output: np.ndarray
    place: np.ndarray | None = None

    @property
    def padded(self) -> int:
        """Entries, padding included."""
        return self.entries.size // 3 * 2


def pays(layer: SparseLayer, shape: Shape) -> bool:
    """Whether a layer whose outputs are computed by themselves takes less time in bands than reading inputs from L2."""
    if not layer.nnz:
        return False
    cut = cut_bands(layer, shape)
    brought = layer.inputs * (cut.pairs.shape[0] // shape.warps)
    return cut.padded * ENTRY_CYCLES + brought * INPUT_CYCLES < layer.nnz * GATHER_CYCLES


@dataclass(frozen=True, eq=False)
class Order:
    """A layer's outputs in units. band : inputs of a band. outputs : int64 (units · 32,), −1 for padding at the end.
    pairs : int64 (units, bands). place_in : int32 (inputs,), where each input stands, or None: in the place of its
    number. place_out : the same of outputs."""

    band: int
    outputs: np.ndarray
    pairs: np.ndarray
    place_in: np.ndarray | None
    place_out: np.ndarray | None


def order_layer(layer: SparseLayer, shape: Shape, place_in: np.ndarray | None = None, *, last: bool = True) -> Order:
    """Outputs that read about as many inputs of each band together, and standing so unless it's the last layer."""
    bands = max(1, -(-layer.inputs // shape.band))
    band = -(-max(1, layer.inputs) // bands)
    places = np.arange(layer.inputs, dtype=np.int32) if place_in is None else place_in
    outputs, pairs = _order(layer.indptr, layer.indices, places, band, bands)
    place_out = None
    if not last:
        place_out = np.empty(layer.outputs, np.int32)
        place_out[outputs[: layer.outputs]] = np.arange(layer.outputs)
    return Order(band, outputs, pairs, place_in, place_out)


def cut_bands(layer: SparseLayer, shape: Shape, order: Order | None = None) -> Bands:
    """The layer's outputs and entries in the order in which the kernel reads them."""
    order = order or order_layer(layer, shape)
    bands = order.pairs.shape[1]
    weights = np.asarray(layer.data, np.float32).view(np.uint32)
    indices = layer.indices
    if order.place_in is not None:
        indices, weights = _moved(layer.indptr, indices, weights, order.place_in)
    outputs = order.outputs.copy()
    _even_banks(layer.indptr, indices, order.band, outputs, order.pairs, TRIES)
    units = order.pairs.shape[0]
    parts = max(1, -(-units // (shape.warps * shape.units)))
    columns = parts * shape.warps
    longest = np.argsort(-order.pairs.sum(axis=1), kind="stable")
    column, place = _spread(order.pairs, columns, longest)
    pairs = np.ones((columns, bands, max(1, -(-units // columns))), np.int64)
    pairs[column, :, place] = order.pairs
    stands = outputs
    if order.place_out is not None and layer.outputs:
        stands = np.where(outputs < 0, -1, order.place_out[outputs])
    output = np.full((columns, shape.units, LANES), NONE, np.uint32)
    output[column, place] = stands.reshape(-1, LANES).astype(np.int64) & NONE
    end = np.cumsum(pairs, axis=2)  # of each unit, among the pairs of its warp and band
    most = end[:, :, -1].reshape(parts, shape.warps, bands).max(axis=1)
    start = np.zeros(parts * bands + 1, np.int64)
    np.cumsum(-(-most.reshape(-1) // shape.stage), out=start[1:])
    entries = np.zeros((int(start[-1]), shape.warps, shape.stage, 3 * LANES), np.uint32)
    begin = np.ascontiguousarray((end - pairs)[column, :, place])
    stage = np.ascontiguousarray(start[:-1].reshape(parts, bands)[column // shape.warps])
    where = stage, column % shape.warps, begin
    _fill(layer.indptr, indices, weights, order.band, outputs, order.pairs, *where, entries)
    c, b, _ = np.indices(pairs.shape, sparse=True)
    last = end - 1
    at = start[c // shape.warps * bands + b] + last // shape.stage, c % shape.warps, last % shape.stage
    entries[(*at, slice(LANES))] |= LAST
    return Bands(order.band, pairs, start.astype(np.uint32), entries, output, order.place_out)


@nb.njit(cache=True, nogil=True)
def _moved(indptr, indices, weights, places):
    """Inputs by their places, ascending within each output, and the weights with them."""
    at, of = np.empty_like(indices), np.empty_like(weights)
    readers = np.zeros(places.size + 1, np.int64)
    for k in range(indices.size):
        readers[places[indices[k]] + 1] += 1
    for p in range(places.size):
        readers[p + 1] += readers[p]
    reader, source = np.empty(indices.size, np.int32), np.empty(indices.size, np.int64)
    fill = readers[:-1].copy()
    for o in range(indptr.size - 1):
        for k in range(indptr[o], indptr[o + 1]):
            p = places[indices[k]]
            reader[fill[p]], source[fill[p]] = o, k
            fill[p] += 1
    end = indptr[:-1].copy()
    for p in range(places.size):
        for i in range(readers[p], readers[p + 1]):
            k = end[reader[i]]
            at[k], of[k] = p, weights[source[i]]
            end[reader[i]] = k + 1
    return at, of


@nb.njit(cache=True, nogil=True)
def _order(indptr, indices, places, band, bands):
    """Outputs (padded to units of 32 by −1) in an order in which those of a unit are alike, and the pairs each unit has
    of each band: halves of outputs, by the band in which some have most more than others, down to single units."""
    outputs = indptr.size - 1
    count = np.zeros((outputs, bands), np.int32)
    for o in range(outputs):
        for k in range(indptr[o], indptr[o + 1]):
            count[o, places[indices[k]] // band] += 1
        for s in range(bands):
            count[o, s] = (count[o, s] + 1) // 2
    units = (outputs + 31) // 32
    order = np.full(units * 32, -1, np.int64)
    order[:outputs] = np.arange(outputs)
    spare = np.empty(outputs, np.int64)
    fill = np.zeros(band // 2 + 3, np.int64)
    begins, ends = np.empty(64, np.int64), np.empty(64, np.int64)
    depth = 1
    begins[0], ends[0] = 0, outputs
    while depth:
        depth -= 1
        a, b = begins[depth], ends[depth]
        if b - a <= 32:
            continue
        by, most_over = 0, -1.0
        for s in range(bands):
            top, total = 0, 0
            for i in range(a, b):
                top = max(top, count[order[i], s])
                total += count[order[i], s]
            over = top - total / (b - a)
            if over > most_over:
                by, most_over = s, over
        fill[:] = 0
        for i in range(a, b):
            fill[count[order[i], by] + 1] += 1
        for v in range(1, fill.size):
            fill[v] += fill[v - 1]
        for i in range(a, b):
            v = count[order[i], by]
            spare[fill[v]] = order[i]
            fill[v] += 1
        order[a:b] = spare[: b - a]
        half = (b - a) // 64 * 32 if b - a >= 64 else 32
        begins[depth], ends[depth] = a + half, b
        begins[depth + 1], ends[depth + 1] = a, a + half
        depth += 2
    pairs = np.ones((units, bands), np.int64)
    for u in range(units):
        for s in range(bands):
            for i in range(u * 32, min(outputs, u * 32 + 32)):
                pairs[u, s] = max(pairs[u, s], count[order[i], s])
    return order, pairs


@nb.njit(cache=True, nogil=True)
def _even_banks(indptr, indices, band, order, ends, tries):
    """Exchange outputs within each unit so that what eight lanes read of a band is spread over the banks: of `tries`
    exchanges drawn at random those are made that lower the loads of the fullest bank, or else the squares of all."""
    units, bands = ends.shape
    of = np.zeros((32, bands, 8), np.int32)
    sums = np.zeros((4, bands, 8), np.int32)
    changed = np.zeros((2, bands, 8), np.int32)
    drawn = np.uint64(1)
    for u in range(units):
        of[:] = 0
        sums[:] = 0
        for i in range(32):
            o = order[u * 32 + i]
            if o < 0:
                continue
            for k in range(indptr[o], indptr[o + 1]):
                s = indices[k] // band
                bank = (indices[k] - s * band) % 8
                of[i, s, bank] += 1
                sums[i // 8, s, bank] += 1
        for _ in range(tries):
            drawn = drawn * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
            i, j = np.int64(drawn >> np.uint64(40)) % 32, np.int64(drawn >> np.uint64(50)) % 32
            a, b = i // 8, j // 8
            if a == b:
                continue
            gain = 0
            for s in range(bands):
                tops = np.int64(0)
                squares = np.int64(0)
                least = 2 * np.int64(ends[u, s])
                top_a, top_b, was_a, was_b = least, least, least, least
                for k in range(8):
                    moved = of[j, s, k] - of[i, s, k]
                    x, y = sums[a, s, k], sums[b, s, k]
                    was_a, was_b = max(was_a, x), max(was_b, y)
                    squares += np.int64(x) * x + np.int64(y) * y
                    x, y = x + moved, y - moved
                    changed[0, s, k], changed[1, s, k] = x, y
                    top_a, top_b = max(top_a, x), max(top_b, y)
                    squares -= np.int64(x) * x + np.int64(y) * y
                tops = was_a + was_b - top_a - top_b
                gain += 64 * tops + squares
            if gain > 0:
                order[u * 32 + i], order[u * 32 + j] = order[u * 32 + j], order[u * 32 + i]
                for s in range(bands):
                    for k in range(8):
                        sums[a, s, k], sums[b, s, k] = changed[0, s, k], changed[1, s, k]
                        of[i, s, k], of[j, s, k] = of[j, s, k], of[i, s, k]


@nb.njit(cache=True, nogil=True)
def _spread(ends, columns, longest):
    """The column of each unit, and its place there: long units first, each to where it evens out the bands."""
    units, bands = ends.shape
    load = np.zeros((columns, bands), np.int64)
    full = np.zeros(columns, np.int64)
    column, place = np.empty(units, np.int64), np.empty(units, np.int64)
    level = (units + columns - 1) // columns
    for u in longest:
        best, least = -1, 0
        for c in range(columns):
            if full[c] >= level:
                continue
            cost = 0
            for s in range(bands):
                cost += (2 * load[c, s] + ends[u, s]) * ends[u, s]
            if best < 0 or cost < least:
                best, least = c, cost
        column[u], place[u] = best, full[best]
        full[best] += 1
        for s in range(bands):
            load[best, s] += ends[u, s]
    return column, place


@nb.njit(cache=True, nogil=True)
def _fill(indptr, indices, data, band, order, pairs, stages, warp, begin, entries):
    """Entries of each unit and band, in an order in which eight lanes mostly read different banks.

    As many steps as the longest lane has entries, and as many loads as the fullest bank has are needed: each step is a
    matching of lanes with banks, in which a bank may serve so many lanes as it takes to be done in the steps left.
    """
    units, bands = pairs.shape
    stage = entries.shape[2]
    at = np.zeros(32, np.int64)
    base = np.zeros(8, np.int64)
    following = np.empty(8 * band + 8, np.int64)
    head = np.empty((8, 8), np.int64)
    left = np.zeros(8, np.int64)
    load = np.zeros(8, np.int64)
    of_lane = np.empty(8, np.int64)  # the bank a lane reads in a step, or −1
    used = np.zeros(8, np.int64)
    lanes, banks = np.empty(8, np.int64), np.empty(8, np.int64)
    queue, came = np.empty(8, np.int64), np.empty(8, np.int64)
    for u in range(units):
        for i in range(32):
            o = order[u * 32 + i]
            at[i] = indptr[o] if o >= 0 else 0
        for s in range(bands):
            steps = 2 * np.int64(pairs[u, s])
            for first in range(0, 32, 8):
                head[:] = -1
                load[:] = 0
                left[:] = 0
                room = 0
                for lane in range(8):
                    o = order[u * 32 + first + lane]
                    if o < 0:
                        continue
                    k = at[first + lane]
                    base[lane] = k - room
                    while k < indptr[o + 1] and indices[k] < (s + 1) * band:
                        bank = (indices[k] - s * band) % 8
                        following[room] = head[lane, bank]
                        head[lane, bank] = room
                        load[bank] += 1
                        left[lane] += 1
                        room += 1
                        k += 1
                    at[first + lane] = k
                for t in range(steps):
                    remaining = steps - t
                    _sort(left, lanes)
                    _sort(load, banks)
                    if left[lanes[0]] == 0:
                        break
                    serves = max(1, (load[banks[0]] + remaining - 1) // remaining)
                    of_lane[:] = -1
                    used[:] = 0
                    for lane in lanes:
                        if left[lane] == 0:
                            break
                        while not _match(lane, head, banks, serves, of_lane, used, queue, came):
                            if left[lane] < remaining:
                                break
                            serves += 1
                    harmless = 0
                    pair, half = begin[u, s] + t // 2, t % 2
                    to = entries[stages[u, s] + pair // stage, warp[u], pair % stage]
                    for lane in range(8):
                        bank = of_lane[lane]
                        if bank < 0:
                            continue
                        entry = head[lane, bank]
                        head[lane, bank] = following[entry]
                        load[bank] -= 1
                        left[lane] -= 1
                        k = base[lane] + entry
                        harmless = indices[k] - s * band
                        to[first + lane] |= np.uint32(harmless) << np.uint32(4 + 14 * half)
                        to[32 + 32 * half + first + lane] = data[k]
                    for lane in range(8):  # a lane without an entry reads what another one reads
                        if of_lane[lane] < 0:
                            to[first + lane] |= np.uint32(harmless) << np.uint32(4 + 14 * half)


@nb.njit(cache=True, nogil=True)
def _sort(values, into):
    """The places of eight values, largest first."""
    for i in range(8):
        j = i
        while j > 0 and values[into[j - 1]] < values[i]:
            into[j] = into[j - 1]
            j -= 1
        into[j] = i


@nb.njit(cache=True, nogil=True)
def _match(lane, head, banks, serves, of_lane, used, queue, came):
    """Whether the lane could be given a bank, others perhaps another one than before."""
    queue[0], waiting, seen = lane, 1, 0
    at = 0
    while at < waiting:
        now = queue[at]
        at += 1
        for bank in banks:
            if head[now, bank] < 0 or seen >> bank & 1:
                continue
            seen |= 1 << bank
            came[bank] = now
            if used[bank] < serves:
                used[bank] += 1
                while True:
                    mover = came[bank]
                    before = of_lane[mover]
                    of_lane[mover] = bank
                    if mover == lane:
                        return True
                    bank = before
            for other in range(8):
                if of_lane[other] == bank:
                    queue[waiting] = other
                    waiting += 1
    return False
