"""Which rows live and which are equal: compaction and lossless merging, for every engine.

A row that is all zero stays so in every layer that keeps zero (`SparseLayer.keeps_zero`) and need not be
computed. Two rows that are bitwise equal stay equal for ever, as long as an engine computes a row the same
way wherever it stands, so one of them is enough.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from .network import LazyLayers, SparseNetwork

_ODD = np.uint64(0x9E3779B97F4A7C15)


class RowMap:
    """Which computed row stands for each original row.

    `owner`: int64 (rows,), index of the computed row, or -1 for a dead row.
    """

    def __init__(self, rows: int):
        self.owner = np.arange(rows, dtype=np.int64)
        self.computed = rows

    @property
    def live(self) -> int:
        """How many original rows still live (merged ones counted each)."""
        return int((self.owner >= 0).sum())

    def keep(self, alive: np.ndarray) -> None:
        """Drop computed rows: `alive` is bool (computed,). The kept ones are renumbered in order."""
        new = np.where(alive, np.cumsum(alive) - 1, -1)
        self._renumber(new, int(alive.sum()))

    def merge(self, representative: np.ndarray) -> np.ndarray:
        """Join computed rows: `representative[i]` is the computed row (itself or an earlier one) equal to i.

        Returns the ids of the rows that stay, ascending.
        """
        representative = np.asarray(representative)
        stays = np.flatnonzero(representative == np.arange(representative.size))
        position = np.full(representative.size, -1, np.int64)
        position[stays] = np.arange(stays.size)
        self._renumber(position[representative], stays.size)
        return stays

    def _renumber(self, new: np.ndarray, computed: int) -> None:
        alive = self.owner >= 0
        self.owner[alive] = new[self.owner[alive]]
        self.computed = computed

    def rows_of(self, mask: np.ndarray) -> np.ndarray:
        """Ascending original ids of the rows whose computed row is in `mask` (bool, (computed,))."""
        alive = np.flatnonzero(self.owner >= 0)
        return alive[mask[self.owner[alive]]]


def droppable(network: SparseNetwork) -> np.ndarray:
    """bool (layers + 1,): whether a row that is zero before layer k (after the last: k = layers) may be dropped.

    It may where every layer from k on keeps zero. A lazy network is asked layer by layer.
    """
    flags = np.ones(len(network) + 1, bool)
    if isinstance(network.layers, LazyLayers) and network.layers.keeps_zero:
        return flags
    for k, layer in enumerate(network):
        if not layer.keeps_zero:
            flags[: k + 1] = False
    return flags


def equal_dense(rows: np.ndarray) -> np.ndarray:
    """int64 (n,): for each row of a C-order 2-D array the first row bitwise equal to it (hash, then compare)."""
    rows = np.ascontiguousarray(rows)
    n = rows.shape[0]
    if rows.size == 0:
        return np.zeros(n, np.int64)
    words = rows.view(np.uint32).reshape(n, -1)
    keys = _mix(np.arange(words.shape[1], dtype=np.uint64))
    hashes = np.empty(n, np.uint64)
    step = max(1, (1 << 22) // words.shape[1])
    for start in range(0, n, step):
        hashes[start : start + step] = (words[start : start + step].astype(np.uint64) * keys).sum(1, dtype=np.uint64)
    first = _first_with_hash(hashes)
    same = (words == words[first]).all(1)
    return np.where(same, first, np.arange(n))


def equal_csr(matrix: sparse.csr_matrix) -> np.ndarray:
    """int64 (n,): for each row of a CSR matrix (sorted indices) the first row bitwise equal to it."""
    n = matrix.indptr.size - 1
    counts = np.diff(matrix.indptr)
    data = np.ascontiguousarray(matrix.data)
    words = data.view(np.uint32 if data.itemsize == 4 else np.uint64).astype(np.uint64)
    entry = _mix(matrix.indices.astype(np.uint64)) * (words * _ODD + np.uint64(1))
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(entry, dtype=np.uint64)])
    hashes = sums[matrix.indptr[1:]] - sums[matrix.indptr[:-1]] + _mix(counts.astype(np.uint64))
    first = _first_with_hash(hashes)
    candidates = np.flatnonzero(first != np.arange(n))
    result = np.arange(n)
    if candidates.size == 0:
        return result
    same_length = counts[candidates] == counts[first[candidates]]
    candidates = candidates[same_length]
    lengths = counts[candidates]
    offsets = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    mine = np.repeat(matrix.indptr[candidates].astype(np.int64), lengths) + offsets
    theirs = np.repeat(matrix.indptr[first[candidates]].astype(np.int64), lengths) + offsets
    differs = (matrix.indices[mine] != matrix.indices[theirs]) | (words[mine] != words[theirs])
    wrong = np.zeros(candidates.size, np.int64)
    np.add.at(wrong, np.repeat(np.arange(candidates.size), lengths), differs)
    equal = candidates[wrong == 0]
    result[equal] = first[equal]
    return result


def _first_with_hash(hashes: np.ndarray) -> np.ndarray:
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    return first[inverse.reshape(-1)]


def _mix(keys: np.ndarray) -> np.ndarray:
    """Scramble uint64 keys (the finaliser of splitmix64), odd results so that products lose nothing."""
    x = (keys + np.uint64(1)) * _ODD
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))) | np.uint64(1)
