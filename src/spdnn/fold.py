"""Folding: neurons that are equal by construction are computed once.

Two neurons of a layer with the same inputs, weights and bias have the same value for every row, in any network.
Going through the layers in order, such neurons become one; where a later neuron reads several that became one,
it reads the one with their weights added up. What is left out is found in the weights alone, before any row is
seen, and every value of the original network can be read off the folded one (`expand`). Values differ from the
original's by the order of summation only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numba as nb
import numpy as np

from .groups import equal_lists
from .network import SparseLayer, SparseNetwork


class Folder:
    """Folds the layers of one network, given to `fold` one after the other.

    expand : int64 (neurons of the current level,), which distinct neuron each original neuron became; None while
        all are distinct. distinct : how many distinct neurons the current level has.
    """

    def __init__(self, inputs: int):
        self.expand: np.ndarray | None = None
        self.distinct = inputs

    def fold(self, layer: SparseLayer) -> SparseLayer:
        """The next layer, reading and giving distinct neurons only; the layer itself where nothing folds.

        Distinct neurons stand in the order in which they first occur. Weights are added up in float64 and keep
        the layer's dtype; a sum that comes to zero stays as an explicit zero.
        """
        leaders, alias = _distinct(layer.indptr, layer.indices, layer.data, layer)
        if self.expand is None and leaders is None:
            self.distinct = layer.outputs
            return layer
        indptr, indices, data = _take(layer, leaders)
        bias = layer.bias if np.ndim(layer.bias) == 0 or leaders is None else np.asarray(layer.bias)[leaders]
        if self.expand is not None:
            indptr, indices, data = _rename(indptr, indices, data, self.expand, self.distinct)
            folded = _layer(layer, self.distinct, indptr, indices, data, bias)
            again, alias_again = _distinct(indptr, indices, data, folded)
            if again is not None:
                indptr, indices, data = _take(folded, again)
                bias = bias if np.ndim(bias) == 0 else np.asarray(bias)[again]
                alias = alias_again[alias]
        folded = _layer(layer, self.distinct, indptr, indices, data, bias)
        self.expand = alias if folded.outputs < layer.outputs else None
        self.distinct = folded.outputs
        return folded


@dataclass(frozen=True, eq=False)
class Folded:
    """A folded network and how to read the original's outputs off it.

    expand : int64 (original outputs,), the folded output each original output equals; None where all are distinct.
    """

    network: SparseNetwork
    expand: np.ndarray | None

    @property
    def multiplicity(self) -> np.ndarray:
        """int64 (folded outputs,): how many original outputs each folded output stands for."""
        return multiplicity(self.expand, self.network.outputs)


def fold(network: SparseNetwork) -> Folded:
    """Fold a network that fits memory. For larger ones see `folded_layers`."""
    folder = Folder(network.inputs)
    layers = [folder.fold(layer) for layer in network]
    return Folded(SparseNetwork(layers, network.name), folder.expand)


def folded_layers(network: SparseNetwork) -> Iterator[tuple[SparseLayer, np.ndarray | None]]:
    """Each layer folded, with the `expand` map of its outputs (None: all distinct); one layer in memory at a time."""
    folder = Folder(network.inputs)
    for layer in network:
        folded = folder.fold(layer)
        yield folded, folder.expand


def multiplicity(expand: np.ndarray | None, distinct: int) -> np.ndarray:
    """int64 (distinct,): how many original neurons each distinct one stands for."""
    return np.ones(distinct, np.int64) if expand is None else np.bincount(expand, minlength=distinct)


def _distinct(indptr, indices, data, layer: SparseLayer) -> tuple[np.ndarray | None, np.ndarray]:
    """(ids of the distinct outputs ascending, alias of every output), or (None, identity) where all are distinct."""
    bits = data.view(np.uint32 if data.itemsize == 4 else np.uint64)
    bias = np.asarray(layer.bias, np.float64)
    extra = np.ascontiguousarray(bias).view(np.uint64) if bias.ndim else np.zeros(0, np.uint64)
    first = equal_lists(indptr, indices, bits, extra)
    own = first == np.arange(first.size)
    if own.all():
        return None, first
    return np.flatnonzero(own), (np.cumsum(own) - 1)[first]


def _take(layer: SparseLayer, outputs: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if outputs is None:
        return layer.indptr, layer.indices, layer.data
    return _take_lists(layer.indptr, layer.indices, layer.data, outputs)


def _layer(like: SparseLayer, inputs: int, indptr, indices, data, bias) -> SparseLayer:
    return SparseLayer(
        inputs, indptr, indices, data, bias, like.lower, like.upper, bias_rule=like.bias_rule, validate=False
    )


@nb.njit(cache=True, nogil=True)
def _take_lists(indptr, indices, data, outputs):
    starts = np.zeros(outputs.size + 1, np.int64)
    for i in range(outputs.size):
        starts[i + 1] = starts[i] + indptr[outputs[i] + 1] - indptr[outputs[i]]
    new_indices = np.empty(starts[-1], indices.dtype)
    new_data = np.empty(starts[-1], data.dtype)
    for i in range(outputs.size):
        source = indptr[outputs[i]]
        for k in range(starts[i + 1] - starts[i]):
            new_indices[starts[i] + k] = indices[source + k]
            new_data[starts[i] + k] = data[source + k]
    return starts, new_indices, new_data


@nb.njit(cache=True, nogil=True)
def _rename(indptr, indices, data, alias, distinct):
    """Inputs renamed by `alias`, weights of the same input added up, inputs ascending."""
    n = indptr.size - 1
    sums = np.zeros(distinct, np.float64)
    seen = np.full(distinct, -1, np.int64)
    starts = np.zeros(n + 1, np.int64)
    new_indices = np.empty(indices.size, indices.dtype)
    new_data = np.empty(data.size, data.dtype)
    end = 0
    for i in range(n):
        begin = end
        for k in range(indptr[i], indptr[i + 1]):
            j = alias[indices[k]]
            if seen[j] == i:
                sums[j] += data[k]
            else:
                seen[j] = i
                sums[j] = data[k]
                new_indices[end] = j
                end += 1
        new_indices[begin:end].sort()
        for k in range(begin, end):
            new_data[k] = sums[new_indices[k]]
        starts[i + 1] = end
    return starts, new_indices[:end].copy(), new_data[:end].copy()
