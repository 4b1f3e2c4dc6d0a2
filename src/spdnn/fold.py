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

from .ahead import map_ahead
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

    def fold(self, layer: SparseLayer, own: Own | None = None) -> SparseLayer:
        """The next layer, reading and giving distinct neurons only; the layer itself where nothing folds.

        Distinct neurons stand in the order in which they first occur. Weights are added up in float64 and keep
        the layer's dtype; a sum that comes to zero stays as an explicit zero. own : `own_copies(layer)`, which may be
        found ahead, for several layers at a time.
        """
        leaders, alias, (indptr, indices, data) = own or own_copies(layer)
        if self.expand is None and leaders is None:
            self.distinct = layer.outputs
            return layer
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


Own = tuple[np.ndarray | None, np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]


def own_copies(layer: SparseLayer) -> Own:
    """What folding a layer takes from that layer alone, most of its cost: the ids of its distinct outputs (None: all),
    the alias of every output, and the distinct outputs' (indptr, indices, weights)."""
    leaders, alias = _distinct(layer.indptr, layer.indices, layer.data, layer)
    return leaders, alias, _take(layer, leaders)


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
    layers, expands = zip(*folded_layers(network), strict=True)
    return Folded(SparseNetwork(layers, network.name), expands[-1])


def fold_within(network: SparseNetwork, limit: int, *, threads: int = 1) -> Folded | None:
    """As `fold`, or None where the folded layers take more than `limit` bytes."""
    layers, expand, used = [], None, 0
    for layer, latest in folded_layers(network, threads=threads):
        layers.append(layer)
        expand = latest
        used += layer.indptr.nbytes + layer.indices.nbytes + layer.data.nbytes + np.asarray(layer.bias).nbytes
        if used > limit:
            return None
    return Folded(SparseNetwork(layers, network.name), expand)


def folded_layers(network: SparseNetwork, *, threads: int = 1) -> Iterator[tuple[SparseLayer, np.ndarray | None]]:
    """Each layer folded, with the `expand` map of its outputs (None: all distinct); few layers in memory at a time.

    threads : how many layers are made, and looked at each by itself, ahead.
    """
    folder = Folder(network.inputs)

    def make(k: int) -> tuple[SparseLayer, Own]:
        layer = network.layers[k]
        return layer, own_copies(layer)

    depth = range(len(network))
    for layer, own in map_ahead(make, depth, threads) if threads > 1 else map(make, depth):
        folded = folder.fold(layer, own)
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
    seen = np.full(distinct, -1, np.int32)
    starts = np.zeros(n + 1, np.int64)
    new_indices = np.empty(indices.size, indices.dtype)
    new_data = np.empty(data.size, data.dtype)
    readers = np.zeros(distinct + 1, np.int64)
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
        for k in range(begin, end):
            readers[new_indices[k] + 1] += 1
            new_data[k] = sums[new_indices[k]]
        starts[i + 1] = end
    # ascending: by input, then by output again
    for j in range(distinct):
        readers[j + 1] += readers[j]
    output = np.empty(end, np.int32)
    value = np.empty(end, data.dtype)
    place = readers[:-1].copy()
    for i in range(n):
        for k in range(starts[i], starts[i + 1]):
            at = place[new_indices[k]]
            place[new_indices[k]] = at + 1
            output[at] = i
            value[at] = new_data[k]
    fill = starts[:-1].copy()
    for j in range(distinct):
        for at in range(readers[j], readers[j + 1]):
            k = fill[output[at]]
            fill[output[at]] = k + 1
            new_indices[k] = j
            new_data[k] = value[at]
    return starts, new_indices[:end].copy(), new_data[:end].copy()
