"""Chunks: outputs of a layer whose inputs, taken together, fit a staging area in shared memory.

A thread block brings the inputs of a chunk in once and computes all its outputs from there. Chunks are found from
the pattern alone: outputs with the same inputs stay together, and a chunk grows by the outputs that share most
inputs with those added last. A layer whose chunks would bring in almost as many inputs as it has weights (a
random pattern, say) has none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba as nb
import numpy as np

from ...groups import input_groups
from ...network import SparseLayer
from ...sorting import sort

MOST_INPUTS, MOST_ENTRIES, MOST_WEIGHTS = 96, 2560, 2560
"""Of a chunk: so that two blocks of a multiprocessor of 228 KiB have one each in shared memory, for 256 rows."""
MOST_OUTPUTS = 80
MOST_PLACES = 256
"""For the outputs of a chunk's units, padding included: a lane each, in the at least 8 warps of a block."""
LEAST_REUSE = 3.0
"""A layer has chunks where an input brought in serves at least that many weights on average."""
STEP = 8
"""Entries of a unit are padded to a multiple of this, those of a chunk to twice that, with weight 0 on the slot of
zeros behind the inputs."""
_SCAN = 48  # of the outputs that read an input, how many are looked at to find the next to add


@dataclass(frozen=True, eq=False)
class Chunks:
    """A layer cut into chunks; a unit is `g` outputs that read the same inputs (g = 1: any output).

    input_start : uint32 (chunks + 1,); inputs : int32, the ascending input neurons of each chunk.
    unit_start : uint32 (chunks + 1,); outputs : int32 (units, g), −1 for padding.
    entry_start : uint32 (units + 1,), in entries; local : uint8 (entries,), which of the chunk's inputs, their
    number for padding; weights : float32 (entries, g).
    """

    input_start: np.ndarray
    inputs: np.ndarray
    unit_start: np.ndarray
    outputs: np.ndarray
    entry_start: np.ndarray
    local: np.ndarray
    weights: np.ndarray

    def __len__(self) -> int:
        return self.input_start.size - 1

    def table(self) -> np.ndarray:
        """uint32 (chunks, 8): of a chunk the first input, their number, the same of units and entries, and zeros."""
        entry = self.entry_start[self.unit_start]
        columns = [c for start in (self.input_start, self.unit_start, entry) for c in (start[:-1], np.diff(start))]
        table = np.zeros((len(self), 8), np.uint32)
        table[:, :6] = np.stack(columns, axis=1)
        return table


def chunk_layer(layer: SparseLayer, g: int = 1) -> Chunks | None:
    """The chunks of a layer, or None where staging wouldn't pay.

    g : outputs of a unit; larger units than 1 are used where they take at most half as many weights again.
    """
    if layer.nnz == 0 or layer.nnz >= 2**31 or layer.fan_in.max(initial=0) > MOST_INPUTS:
        return None
    groups = input_groups(layer)
    if g > 1 and (-(-groups.sizes // g) * g).sum() > 1.5 * layer.outputs:
        g = 1
    begin, size = cut_groups(groups.starts, max(g, 16))
    heads, units = groups.order[begin], -(-size // g)
    entries = -(-layer.fan_in[heads] // STEP) * STEP * units
    limits = np.array([MOST_INPUTS, MOST_OUTPUTS, MOST_ENTRIES, MOST_WEIGHTS // g, MOST_PLACES])
    needs = np.stack([size, entries, entries, units * g], axis=1)
    most = layer.nnz / LEAST_REUSE
    order, chunk_start, total = assign(layer, heads, needs, limits, most)
    if total > most:
        return None
    outputs = np.full((int(units.sum()), g), -1, np.int32)
    unit_start = np.concatenate([np.zeros(1, np.int64), np.cumsum(units[order])])[chunk_start]
    _place(groups.order, begin[order], size[order], outputs)
    arrays = _fill(layer.indptr, layer.indices, layer.data, layer.inputs, outputs, unit_start, total, STEP)
    input_start, inputs, entry_start, local, weights = arrays
    u32 = np.uint32
    return Chunks(
        input_start.astype(u32), inputs, unit_start.astype(u32), outputs, entry_start.astype(u32), local, weights
    )


def cut_groups(starts: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Groups cut into pieces of at most `most` outputs: where each begins, and its size."""
    sizes = np.diff(starts)
    parts = -(-sizes // most)
    within = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
    begin = np.repeat(starts[:-1], parts) + within * most
    return begin, np.minimum(most, np.repeat(starts[1:], parts) - begin)


def walk(layer: SparseLayer, heads: np.ndarray) -> np.ndarray:
    """The numbers of the parts whose inputs are those of the outputs `heads`, each followed by one of those that share
    most inputs with it."""
    needs, limits = np.zeros((heads.size, 0), np.int64), np.array([layer.inputs])
    return assign(layer, heads, needs, limits, layer.nnz + 1)[0]


def assign(
    layer: SparseLayer, heads: np.ndarray, needs: np.ndarray, limits: np.ndarray, enough: float
) -> tuple[np.ndarray, np.ndarray, int]:
    """Parts of a layer (whose inputs are those of the output `heads[p]`) to chunks.

    A chunk has at most limits[0] inputs, and of what its parts need, needs[p, i], at most limits[1 + i] in all.
    Gives the parts chunk by chunk, where each chunk begins among them, and the number of inputs of all chunks; ends
    as soon as that is more than `enough`.
    """
    return _assign(layer.indptr, layer.indices, heads, needs, layer.inputs, limits, _SCAN, enough)


@nb.njit(cache=True, nogil=True)
def _assign(indptr, indices, heads, needs, inputs, limits, scan, enough):
    pieces = heads.size
    readers = np.zeros(inputs + 1, np.int64)
    for p in range(pieces):
        for k in range(indptr[heads[p]], indptr[heads[p] + 1]):
            readers[indices[k] + 1] += 1
    for n in range(inputs):
        readers[n + 1] += readers[n]
    fill = readers[:-1].copy()
    reader = np.empty(readers[-1], np.int32)
    for p in range(pieces):
        for k in range(indptr[heads[p]], indptr[heads[p] + 1]):
            reader[fill[indices[k]]] = p
            fill[indices[k]] += 1
    order = np.empty(pieces, np.int64)
    chunk_start = np.empty(pieces + 1, np.int64)
    placed = np.zeros(pieces, np.bool_)
    stamp = np.full(inputs, -1, np.int64)  # the chunk an input was last brought in for
    shared = np.zeros(pieces, np.int32)
    touched = np.empty(pieces, np.int64)
    taken = np.zeros(needs.shape[1], np.int64)
    done = chunks = total = waiting = 0
    following = -1
    while done < pieces and total <= enough:
        chunk_start[chunks] = done
        n_inputs = 0
        taken[:] = 0
        while done < pieces:
            if following < 0:
                while placed[waiting]:
                    waiting += 1
                following = waiting
            new = 0
            for k in range(indptr[heads[following]], indptr[heads[following] + 1]):
                new += stamp[indices[k]] != chunks
            full = n_inputs + new > limits[0]
            for i in range(taken.size):
                full |= taken[i] + needs[following, i] > limits[1 + i]
            if full and done > chunk_start[chunks]:
                break
            placed[following] = True
            order[done] = following
            done += 1
            n_inputs += new
            taken += needs[following]
            count = 0
            for k in range(indptr[heads[following]], indptr[heads[following] + 1]):
                n = indices[k]
                stamp[n] = chunks
                for r in range(readers[n], min(readers[n + 1], readers[n] + scan)):
                    p = reader[r]
                    if not placed[p]:
                        if shared[p] == 0:
                            touched[count] = p
                            count += 1
                        shared[p] += 1
            following = -1
            most = 0
            for t in range(count):
                p = touched[t]
                if shared[p] > most or (shared[p] == most and p < following):
                    most = shared[p]
                    following = p
                shared[p] = 0
        total += n_inputs
        chunks += 1
    chunk_start[chunks] = done
    return order, chunk_start[: chunks + 1].copy(), total


@nb.njit(cache=True, nogil=True)
def _place(members, begin, size, outputs):
    """The outputs of each piece into units."""
    unit = 0
    g = outputs.shape[1]
    for p in range(begin.size):
        for i in range(size[p]):
            outputs[unit + i // g, i % g] = members[begin[p] + i]
        unit += (size[p] + g - 1) // g


@nb.njit(cache=True, nogil=True)
def _fill(indptr, indices, data, n_inputs, outputs, unit_start, total, step):
    units, g = outputs.shape
    chunks = unit_start.size - 1
    entry_start = np.zeros(units + 1, np.int64)
    for c in range(chunks):
        for u in range(unit_start[c], unit_start[c + 1]):
            length = indptr[outputs[u, 0] + 1] - indptr[outputs[u, 0]]
            entry_start[u + 1] = entry_start[u] + (length + step - 1) // step * step
        last = unit_start[c + 1]
        entry_start[last] += entry_start[last] % (2 * step)  # a chunk's entries begin at 16 bytes
    input_start = np.zeros(chunks + 1, np.int64)
    inputs = np.empty(total, np.int32)
    local = np.empty(entry_start[-1], np.uint8)
    weights = np.zeros((entry_start[-1], g), np.float32)
    where = np.full(n_inputs, -1, np.int64)
    stamp = np.full(n_inputs, -1, np.int64)
    end = 0
    for c in range(chunks):
        begin = end
        for u in range(unit_start[c], unit_start[c + 1]):
            for k in range(indptr[outputs[u, 0]], indptr[outputs[u, 0] + 1]):
                n = indices[k]
                if stamp[n] != c:
                    stamp[n] = c
                    inputs[end] = n
                    end += 1
        sort(inputs[begin:end])
        input_start[c + 1] = end
        for i in range(begin, end):
            where[inputs[i]] = i - begin
        for u in range(unit_start[c], unit_start[c + 1]):
            at = entry_start[u]
            first = indptr[outputs[u, 0]]
            length = indptr[outputs[u, 0] + 1] - first
            for k in range(length):
                local[at + k] = where[indices[first + k]]
            for k in range(at + length, entry_start[u + 1]):
                local[k] = end - begin
            for m in range(g):
                if outputs[u, m] >= 0:
                    source = indptr[outputs[u, m]]
                    for k in range(length):
                        weights[at + k, m] = data[source + k]
    return input_start, inputs, entry_start, local, weights
