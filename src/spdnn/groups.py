"""Input-set groups: outputs of a layer that read exactly the same inputs, found from the pattern alone.

Such outputs form a small dense block: every activation loaded serves all of them. Index lists are hashed and
then compared entry by entry, so groups are exact; a layer without any costs one pass over its indices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba as nb
import numpy as np

from .network import SparseLayer


@dataclass(frozen=True, eq=False)
class Groups:
    """The outputs of a layer by input set.

    order : int64 (outputs,), the outputs with the members of each group together, ascending within a group;
        groups stand in the order of their first members.
    starts : int64 (groups + 1,), group g is `order[starts[g]:starts[g + 1]]`.
    """

    order: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return self.starts.size - 1

    @property
    def sizes(self) -> np.ndarray:
        """int64 (groups,): members of each group."""
        return np.diff(self.starts)

    @property
    def first(self) -> np.ndarray:
        """int64 (groups,): the first member of each group, whose indices are those of all."""
        return self.order[self.starts[:-1]]


def input_groups(layer: SparseLayer) -> Groups:
    """The input-set groups of a layer; outputs that share their inputs with no other are groups of one."""
    empty = np.zeros(0, np.uint64)
    first = equal_lists(layer.indptr, layer.indices, empty, empty)
    order = np.argsort(first, kind="stable")
    leaders = np.flatnonzero(first == np.arange(first.size))
    sizes = np.bincount(first, minlength=first.size)[leaders]
    return Groups(order, np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]))


def equal_lists(indptr: np.ndarray, indices: np.ndarray, payload: np.ndarray, extra: np.ndarray) -> np.ndarray:
    """int64 (n,): for each list of a CSR pattern the first list equal to it (itself if there is none).

    Lists are equal where their `indices` agree, and where given (not empty) also `payload`, uint32 or uint64
    (nnz,), entry by entry, and `extra`, uint64 (n,), one for each list.
    """
    return _first_equal(indptr, indices, payload, extra, _hashes(indptr, indices, payload, extra))


_ODD = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)


@nb.njit(cache=True, nogil=True)
def _hashes(indptr, indices, payload, extra):
    n = indptr.size - 1
    out = np.empty(n, np.uint64)
    for i in range(n):
        h = np.uint64(indptr[i + 1] - indptr[i]) * _MIX
        if payload.size:
            for k in range(indptr[i], indptr[i + 1]):
                x = (np.uint64(indices[k]) + np.uint64(1)) * _ODD
                h += (x ^ (x >> np.uint64(29))) * (np.uint64(payload[k]) * _MIX + np.uint64(1))
        else:
            for k in range(indptr[i], indptr[i + 1]):
                x = (np.uint64(indices[k]) + np.uint64(1)) * _ODD
                h += (x ^ (x >> np.uint64(29))) * _MIX
        if extra.size:
            h ^= extra[i] * _ODD
        out[i] = h ^ (h >> np.uint64(31))
    return out


@nb.njit(cache=True, nogil=True)
def _first_equal(indptr, indices, payload, extra, hashes):
    n = indptr.size - 1
    slots = 4
    while slots < 2 * n:
        slots *= 2
    table = np.full(slots, -1, np.int64)
    first = np.empty(n, np.int64)
    mask = np.uint64(slots - 1)
    for i in range(n):
        place = hashes[i] & mask
        length = indptr[i + 1] - indptr[i]
        while True:
            j = table[place]
            if j < 0:
                table[place] = i
                first[i] = i
                break
            if hashes[j] == hashes[i] and indptr[j + 1] - indptr[j] == length:
                a, b = indptr[i], indptr[j]
                differ = False
                for k in range(length):
                    differ |= indices[a + k] != indices[b + k]
                if payload.size:
                    for k in range(length):
                        differ |= payload[a + k] != payload[b + k]
                if extra.size:
                    differ |= extra[i] != extra[j]
                if not differ:
                    first[i] = j
                    break
            place = (place + np.uint64(1)) & mask
    return first
