"""Layers in the form the kernels read: blocks of outputs that share their inputs."""

from __future__ import annotations

from dataclasses import dataclass

import numba as nb
import numpy as np

from ...groups import input_groups
from ...network import SparseLayer
from .kernels import LAYER_FIELDS


@dataclass(frozen=True, eq=False)
class Packed:
    """One layer. `arrays` own what `table` (a row of the kernels' layer table) points at.

    position : int64 (outputs,), where in a tile each output of the layer stands: outputs of one input set stand
        together, so that what they feed is found close together.
    groups : input sets. grouped : outputs that share theirs with another output.
    """

    table: np.ndarray
    bounds: np.ndarray
    arrays: tuple[np.ndarray, ...]
    position: np.ndarray
    groups: int
    grouped: int

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)


def pack(layer: SparseLayer, position: np.ndarray | None = None) -> Packed:
    """A layer in blocks of 4, 2 or 1 outputs of one input set; indices are kept once a set, uint16 where they fit.

    position : where in a tile each input stands, None for in order. Sums keep the order of the layer's indices.
    """
    sets = input_groups(layer)
    wide = layer.inputs > 1 << 16
    lists = layer.fan_in[sets.first]
    index = np.empty(int(lists.sum()), np.uint32 if wide else np.uint16)
    weight = np.empty(layer.nnz, np.float32)
    sizes = sets.sizes
    blocks = np.empty((int((sizes // 4 + (sizes % 4 >= 2) + sizes % 2).sum()), 2), np.int64)
    where = np.arange(layer.inputs) if position is None else position
    _fill(where, layer.indptr, layer.indices, layer.data, sets.order, sets.starts, blocks, index, weight)
    outputs = np.empty(layer.outputs, np.int64)
    outputs[sets.order] = np.arange(layer.outputs)
    bias = np.ascontiguousarray(layer.bias_vector[sets.order], np.float32)
    arrays = (blocks, index, weight, bias)
    table = np.zeros(LAYER_FIELDS, np.int64)
    table[0] = len(blocks)
    table[1:5] = [array.ctypes.data for array in arrays]
    table[5] = (layer.bias_rule == "all") + 2 * wide
    table[6] = layer.outputs
    bounds = np.array([layer.lower, layer.upper], np.float32)
    return Packed(table, bounds, arrays, outputs, len(sets), int(sizes[sizes > 1].sum()))


@nb.njit(cache=True, nogil=True)
def _fill(position, indptr, indices, data, order, starts, blocks, index, weight):
    row = place = used = 0
    for g in range(starts.size - 1):
        begin = indptr[order[starts[g]]]
        count = indptr[order[starts[g]] + 1] - begin
        for k in range(count):
            index[place + k] = position[indices[begin + k]]
        member = starts[g]
        while member < starts[g + 1]:
            left = starts[g + 1] - member
            group = 4 if left >= 4 else 2 if left >= 2 else 1
            blocks[row, 0] = place * index.itemsize
            blocks[row, 1] = count * 8 + group
            row += 1
            for j in range(group):
                source = indptr[order[member + j]]
                for k in range(count):
                    weight[used + k * group + j] = data[source + k]
            used += count * group
            member += group
        place += count
