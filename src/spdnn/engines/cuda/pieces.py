"""Pieces: outputs of a layer whose inputs, taken together, fit shared memory for 32 rows (`kernels/pieces.cu`).

A piece is what a thread block computes at a time, an output two lanes; it grows by the outputs that share most inputs
with those added last, as chunks do (`chunks.py`), which are smaller, and for more rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba as nb
import numpy as np

from ...groups import input_groups
from ...network import SparseLayer
from ...sorting import sort
from .chunks import LEAST_REUSE, assign, cut_groups
from .places import loads

MOST_OUTPUTS = 512
"""Of a piece: two lanes each, in the warps of a block."""
MOST_INPUTS = 576
"""Of a piece: those of two fit a multiprocessor of 228 KiB."""
LEAST_OUTPUTS = 256
"""That pieces have on average where there are more than one; else warps would have nothing to do."""
MOST_LOADS = 1.25
"""Times its weights, padding and waiting for banks included, that a layer in pieces may load."""
UNITS, STEP = 32, 4
"""Outputs of a slice, a lane of a warp each, and entries of a step."""
NUMBERS = 4
"""In front of the inputs of a piece: how many they are, its first slice, its slices, and 0."""
PITCH = 36
"""Floats from an input of a piece to the next in shared memory: 32 rows, and 4 so that banks differ."""


def shared_bytes(stages: int) -> int:
    """What a block takes with room for the inputs of so many pieces, and for those of three in numbers."""
    return 4 * (stages * (MOST_INPUTS + 1) * PITCH + 3 * (NUMBERS + MOST_INPUTS))


@dataclass(frozen=True, eq=False)
class Pieces:
    """A layer cut into pieces.

    table : uint32 (pieces, NUMBERS + MOST_INPUTS). outputs : int32 (slices · UNITS,), −1 for padding. steps : int64
    (slices,). words : uint32, of all steps, coded (steps, 1, UNITS, 4), a bfloat16 above an index, else (steps, 2,
    UNITS, 4), pairs of an index and a float; an index is of the piece's inputs, MOST_INPUTS for padding.
    """

    table: np.ndarray
    outputs: np.ndarray
    steps: np.ndarray
    words: np.ndarray

    def __len__(self) -> int:
        return len(self.table)

    @property
    def coded(self) -> bool:
        return self.words.shape[1] == 1


def cut_layer(layer: SparseLayer) -> Pieces | None:
    """The pieces of a layer, or None where they wouldn't pay."""
    if layer.nnz == 0 or layer.nnz >= 2**31 or layer.fan_in.max(initial=0) > MOST_INPUTS:
        return None
    groups = input_groups(layer)
    begin, size = cut_groups(groups.starts, 16)
    limits = np.array([MOST_INPUTS, MOST_OUTPUTS])
    most = layer.nnz / LEAST_REUSE
    order, piece_start, total = assign(layer, groups.order[begin], size[:, None], limits, most)
    pieces = piece_start.size - 1
    if total > most or (pieces > 1 and layer.outputs < LEAST_OUTPUTS * pieces):
        return None
    begin, size = begin[order], size[order]
    ids = groups.order[np.repeat(begin - np.cumsum(size) + size, size) + np.arange(layer.outputs)]
    piece = np.repeat(np.repeat(np.arange(pieces), np.diff(piece_start)), size)
    ids = ids[np.lexsort((-layer.fan_in[ids], piece))]  # alike in length within a slice
    count = np.bincount(piece, minlength=pieces)
    slices = -(-count // UNITS)
    first = np.concatenate([[0], np.cumsum(slices)])
    outputs = np.full(int(first[-1]) * UNITS, -1, np.int32)
    outputs[np.arange(layer.outputs) + np.repeat(first[:-1] * UNITS - np.cumsum(count) + count, count)] = ids
    longest = np.where(outputs >= 0, layer.fan_in[outputs], 0).reshape(-1, UNITS).max(axis=1)
    steps = -(-longest // STEP)
    if steps.sum() * UNITS * STEP > MOST_LOADS * layer.nnz:
        return None
    table = np.zeros((pieces, NUMBERS + MOST_INPUTS), np.uint32)
    table[:, 1], table[:, 2] = first[:-1], slices
    data = layer.data.astype(np.float32, copy=False).view(np.uint32)
    slots = np.full((int(steps.sum()), UNITS, STEP), MOST_INPUTS, np.int32)
    coded = not (data & 0xFFFF).any()
    words = np.zeros((len(slots), 1 if coded else 2, UNITS, 4), np.uint32)
    _fill(layer.indptr, layer.indices, data, layer.inputs, outputs, first, steps, table, slots, words, coded)
    if slots.size * loads(slots) > MOST_LOADS * layer.nnz:
        return None
    return Pieces(table, outputs, steps, words)


@nb.njit(cache=True, nogil=True)
def _fill(indptr, indices, data, n_inputs, outputs, first, steps, table, slots, words, coded):
    where = np.zeros(n_inputs, np.int32)
    stamp = np.full(n_inputs, -1, np.int64)
    step = 0
    for p in range(first.size - 1):
        inputs = 0
        for u in range(first[p] * 32, first[p + 1] * 32):
            if outputs[u] < 0:
                continue
            for k in range(indptr[outputs[u]], indptr[outputs[u] + 1]):
                n = indices[k]
                if stamp[n] != p:
                    stamp[n] = p
                    table[p, 4 + inputs] = n
                    inputs += 1
        table[p, 0] = inputs
        sort(table[p, 4 : 4 + inputs])
        for i in range(inputs):
            where[table[p, 4 + i]] = i
        for s in range(first[p], first[p + 1]):
            for lane in range(32):
                output = outputs[s * 32 + lane]
                begin, length = 0, 0
                if output >= 0:
                    begin, length = indptr[output], indptr[output + 1] - indptr[output]
                for k in range(4 * steps[s]):
                    t, e = step + k // 4, k % 4
                    slot = slots[t, lane, e]
                    weight = np.uint32(0)
                    if k < length:
                        slot = where[indices[begin + k]]
                        weight = data[begin + k]
                        slots[t, lane, e] = slot
                    if coded:
                        words[t, 0, lane, e] = weight | np.uint32(slot)
                    else:
                        words[t, e // 2, lane, e % 2 * 2] = slot
                        words[t, e // 2, lane, e % 2 * 2 + 1] = weight
            step += steps[s]
