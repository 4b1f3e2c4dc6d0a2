"""Features: the rows a network reads, bit-packed, CSR or dense, in one type."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from scipy import sparse

from .errors import InputError

Kind = Literal["bits", "csr", "dense"]


@dataclass(frozen=True, eq=False)
class Features:
    """`rows` × `columns` feature values in one of three forms; immutable. Build it with a `from_` method.

    kind ``"bits"``: `store` is uint64 (rows, ceil(columns / 64)); column c of a row is bit ``c % 64``
    (least significant first) of word ``c // 64``; bits past the last column are zero.
    kind ``"csr"``: `store` is a SciPy CSR matrix with sorted, unique indices.
    kind ``"dense"``: `store` is float32 or float64 (rows, columns), C order.

    `labels`: int64 (rows,), the class of each row, or None.
    `name`: what the rows are, for reports.
    """

    kind: Kind
    store: Any
    columns: int
    labels: np.ndarray | None = None
    name: str = ""
    _cache: dict = field(default_factory=dict, repr=False)

    # -- building ------------------------------------------------------------------------------------------
    @classmethod
    def from_bits(cls, words: np.ndarray, columns: int, *, labels=None, name: str = "") -> Features:
        """Features from packed words, uint64 (rows, ceil(columns / 64)), least significant bit first."""
        words = np.ascontiguousarray(words)
        need = -(-columns // 64)
        if words.dtype != np.uint64 or words.ndim != 2 or words.shape[1] != need:
            raise InputError(
                f"Expected uint64 words of shape (rows, {need}) for {columns} columns, got {words.dtype} {words.shape}."
            )
        tail = columns % 64
        if tail and words.size and (words[:, -1] >> np.uint64(tail)).any():
            raise InputError(f"Expected the bits past column {columns - 1} to be zero.")
        return cls("bits", words, columns, _labels(labels, len(words)), name)

    @classmethod
    def from_bool(cls, array: np.ndarray, *, labels=None, name: str = "") -> Features:
        """Bit-packed features from a boolean (or 0/1) array of shape (rows, columns)."""
        array = np.asarray(array)
        if array.ndim != 2:
            raise InputError(f"Expected a 2-D array, rows × columns, got shape {array.shape}.")
        return cls.from_bits(pack_bits(array), array.shape[1], labels=labels, name=name)

    @classmethod
    def from_dense(cls, array: np.ndarray, *, labels=None, name: str = "") -> Features:
        """Dense features from a 2-D array; kept as float64 if that is what came, else as float32."""
        array = np.asarray(array)
        if array.ndim != 2:
            raise InputError(f"Expected a 2-D array, rows × columns, got shape {array.shape}.")
        array = np.ascontiguousarray(array, np.float64 if array.dtype == np.float64 else np.float32)
        if not np.isfinite(array).all():
            row, column = (int(i) for i in np.argwhere(~np.isfinite(array))[0])
            raise InputError(f"Expected finite features, got {array[row, column]} at row {row}, column {column}.")
        return cls("dense", array, array.shape[1], _labels(labels, len(array)), name)

    @classmethod
    def from_csr(cls, matrix: Any, *, labels=None, name: str = "") -> Features:
        """CSR features from any SciPy sparse matrix. Explicit zeros are dropped."""
        if not sparse.issparse(matrix):
            raise InputError(f"Expected a SciPy sparse matrix, got {type(matrix).__name__}; use from_dense.")
        csr: Any = sparse.csr_matrix(matrix, copy=True)
        csr.sum_duplicates()
        if not np.isfinite(csr.data).all():
            raise InputError("Expected finite features, got NaN or infinity.")
        csr.eliminate_zeros()
        if csr.dtype not in (np.float32, np.float64):
            csr = csr.astype(np.float32)
        return cls("csr", csr, csr.shape[1], _labels(labels, csr.shape[0]), name)

    # -- asking --------------------------------------------------------------------------------------------
    @property
    def rows(self) -> int:
        return self.store.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows, self.columns

    @property
    def nnz(self) -> int:
        """Number of values that are not zero."""
        if "nnz" not in self._cache:
            if self.kind == "bits":
                count = int(np.bitwise_count(self.store).sum(dtype=np.int64))
            elif self.kind == "csr":
                count = int(self.store.nnz)
            else:
                count = int(np.count_nonzero(self.store))
            self._cache["nnz"] = count
        return self._cache["nnz"]

    @property
    def is_binary(self) -> bool:
        """Whether every value is 0 or 1."""
        if "binary" not in self._cache:
            if self.kind == "bits":
                self._cache["binary"] = True
            else:
                values = self.store.data if self.kind == "csr" else self.store
                self._cache["binary"] = bool(((values == 1) | (values == 0)).all())
        return self._cache["binary"]

    @property
    def nbytes(self) -> int:
        if self.kind == "csr":
            return self.store.data.nbytes + self.store.indices.nbytes + self.store.indptr.nbytes
        return self.store.nbytes

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, rows: slice | np.ndarray) -> Features:
        """Some of the rows: a slice, or an array of 0-based ids."""
        labels = None if self.labels is None else self.labels[rows]
        store = self.store[rows]
        if self.kind != "csr":
            store = np.ascontiguousarray(store)
        return Features(self.kind, store, self.columns, labels, self.name)

    # -- converting ----------------------------------------------------------------------------------------
    def to_dense(self, dtype: Any = np.float32) -> np.ndarray:
        """(rows, columns) array of `dtype`, C order."""
        if self.kind == "dense":
            return self.store.astype(dtype, copy=False)
        if self.kind == "csr":
            return self.store.astype(dtype).toarray()
        return unpack_bits(self.store, self.columns).astype(dtype)

    def to_csr(self, dtype: Any = np.float32) -> sparse.csr_matrix:
        """SciPy CSR of `dtype`, sorted indices (int64 where there are 2**31 or more non-zeros)."""
        if self.kind == "csr":
            return self.store.astype(dtype)
        if self.kind == "dense":
            return sparse.csr_matrix(self.store.astype(dtype))
        counts = np.zeros(self.rows + 1, np.int64)
        parts = []
        step = max(1, (1 << 26) // max(1, self.columns))
        for start in range(0, self.rows, step):
            block = unpack_bits(self.store[start : start + step], self.columns)
            counts[start + 1 : start + 1 + len(block)] = block.sum(1)
            parts.append(np.nonzero(block)[1].astype(np.int32))
        indptr = np.cumsum(counts)
        indices = np.concatenate(parts) if parts else np.zeros(0, np.int32)
        if indptr[-1] < 2**31:
            indptr = indptr.astype(np.int32)
        else:
            indices = indices.astype(np.int64)
        data = np.ones(indices.size, dtype)
        return sparse.csr_matrix((data, indices, indptr), shape=self.shape)

    def to_bits(self) -> np.ndarray:
        """uint64 (rows, ceil(columns / 64)). Raises InputError unless every value is 0 or 1."""
        if self.kind == "bits":
            return self.store
        if not self.is_binary:
            raise InputError("Expected features of 0 and 1 only; these have other values and can't be bit-packed.")
        words = np.zeros((self.rows, -(-self.columns // 64)), np.uint64)
        step = max(1, (1 << 26) // max(1, self.columns))
        for start in range(0, self.rows, step):
            block = self.store[start : start + step]
            block = block.toarray() if self.kind == "csr" else block
            words[start : start + step] = pack_bits(block != 0)
        return words


def pack_bits(array: np.ndarray) -> np.ndarray:
    """Boolean (rows, columns) to uint64 words (rows, ceil(columns / 64)), least significant bit first."""
    array = np.asarray(array, bool)
    rows, columns = array.shape
    packed = np.packbits(array, axis=1, bitorder="little")
    out = np.zeros((rows, -(-columns // 64) * 8), np.uint8)
    out[:, : packed.shape[1]] = packed
    return out.view("<u8").astype(np.uint64, copy=False)


def unpack_bits(words: np.ndarray, columns: int) -> np.ndarray:
    """uint64 words (rows, ceil(columns / 64)) to uint8 0/1 (rows, columns)."""
    octets = np.ascontiguousarray(words).astype("<u8", copy=False).view(np.uint8)
    return np.unpackbits(octets, axis=1, count=columns, bitorder="little")


def _labels(labels: Any, rows: int) -> np.ndarray | None:
    if labels is None:
        return None
    labels = np.asarray(labels)
    if labels.shape != (rows,) or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"Expected {rows} integer labels, got {labels.dtype} {labels.shape}.")
    return labels.astype(np.int64)
