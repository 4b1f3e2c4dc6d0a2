"""Layers and features from parsed entries: duplicates and wrong shapes found, with the line they are on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from .. import memory
from ..errors import FileFormatError, InputError
from ..features import Features
from ..network import SparseLayer
from .entries import Entries, is_constant
from .source import content_of

_BITS_BYTES = 1 << 28
_BITS_BYTES_PER_ENTRY = 32
_CSR_BYTES_PER_ROW = 32


def layer_from_entries(path: Path, entries: Entries, inputs: int, outputs: int, **options: Any) -> SparseLayer:
    """A layer from entries (input, output, weight); entries of weight 0 are dropped.

    Weights are kept as float32 where that loses nothing, else as float64. `options` go to SparseLayer.
    """
    memory.expect_room(_CSR_BYTES_PER_ROW * outputs, f"a layer of {outputs:,} outputs ({path})")
    order = _order(path, entries, entries.second, entries.first, inputs)
    indices, owners, values = entries.first, entries.second, entries.values
    if order is not None:
        indices, owners = indices[order], owners[order]
        values = values if is_constant(values) else values[order]
    if (values[:1] if is_constant(values) else values).all():
        data = narrow(values)
    else:
        kept = values != 0
        indices, owners, data = indices[kept], owners[kept], narrow(values[kept])
    indptr = np.zeros(outputs + 1, np.int64)
    np.cumsum(np.bincount(owners, minlength=outputs), out=indptr[1:])
    with content_of(path):
        return SparseLayer(inputs, indptr, indices, data, **options)


def layer_from_matrix(path: Path, matrix: Any, inputs: int | None, outputs: int | None, **options: Any) -> SparseLayer:
    """A layer from a matrix read from `path`, inputs × outputs, of the shape asked for where one was."""
    expect_shape(path, matrix.shape, (inputs, outputs), "inputs × outputs")
    with content_of(path):
        weights = checked_matrix(matrix)
        return SparseLayer.from_matrix(weights.astype(narrow(weights.data).dtype), **options)


def features_from_matrix(path: Path, matrix: Any, rows: int | None, columns: int | None, name: str) -> Features:
    """Features from a matrix read from `path`, rows × columns; bit-packed where every value is 0 or 1."""
    expect_shape(path, matrix.shape, (rows, columns), "rows × columns")
    with content_of(path):
        if not sparse.issparse(matrix):
            return Features.from_dense(matrix, name=name)
        csr = checked_matrix(matrix).tocsr()
        features = Features.from_csr(csr.astype(narrow(csr.data).dtype), name=name)
    return packed(features)


def features_from_entries(
    path: Path, pieces: Iterable[Entries], rows: int | None, columns: int | None, name: str
) -> Features | None:
    """Bit-packed features from entries (row, column, value) that are all 1.

    `columns` None means the largest column id; `rows` likewise. Returns None once a value is not 1, or where the
    entries are so few that their bits would be mostly zeros and fill memory.
    """
    if columns is None:
        pieces = list(pieces)
        columns = 1 + max((int(piece.second.max()) for piece in pieces), default=-1)
    words = np.zeros((1, -(-columns // 64)), np.uint64)
    filled = count = 0
    for piece in pieces:
        if not piece.all_ones:
            return None
        filled = max(filled, int(piece.first.max()) + 1)
        count += piece.first.size
        if not _worth_packing(max(filled, len(words)), columns, count):
            return None
        if filled > len(words):
            words = _with_rows(words, max(filled, 2 * len(words)))
        again = _set_bits(words, piece)
        if again >= 0:
            raise _duplicate(path, piece.line + again, int(piece.first[again]), int(piece.second[again]))
    if not filled:
        raise empty(path)
    rows = filled if rows is None else rows
    memory.expect_room((rows - filled) * words[0].nbytes, f"{rows:,} rows of {columns:,} columns ({path})")
    return Features.from_bits(_with_rows(words, rows), columns, name=name)


def csr_features_from_entries(
    path: Path, pieces: Iterable[Entries], rows: int | None, columns: int | None, name: str
) -> Features:
    """CSR features from entries (row, column, value) of any value; zeros are dropped."""
    gathered = list(pieces)
    if not gathered:
        raise empty(path)
    entries = Entries.joined(gathered)
    rows = int(entries.first.max()) + 1 if rows is None else rows
    columns = int(entries.second.max()) + 1 if columns is None else columns
    memory.expect_room(_CSR_BYTES_PER_ROW * rows, f"{rows:,} rows ({path})")
    _order(path, entries, entries.first, entries.second, columns)
    coo = sparse.coo_matrix((narrow(entries.values), (entries.first, entries.second)), shape=(rows, columns))
    with content_of(path):
        return packed(Features.from_csr(coo, name=name))


def packed(features: Features) -> Features:
    """Bit-packed features where every value is 0 or 1 and few bits would be wasted, else what came."""
    if features.kind == "bits" or not features.is_binary or not _worth_packing(*features.shape, features.nnz):
        return features
    return Features.from_bits(features.to_bits(), features.columns, labels=features.labels, name=features.name)


def _with_rows(words: np.ndarray, rows: int) -> np.ndarray:
    """The first `rows` rows of an array, rows of zeros where it has fewer."""
    if rows == len(words):
        return words
    out = np.zeros((rows, words.shape[1]), words.dtype)
    out[: len(words)] = words[:rows]
    return out


def _worth_packing(rows: int, columns: int, count: int) -> bool:
    return rows * -(-columns // 64) * 8 <= max(_BITS_BYTES, _BITS_BYTES_PER_ENTRY * count)


def narrow(values: np.ndarray) -> np.ndarray:
    """Numbers as float32 where that loses nothing, else as float64."""
    with np.errstate(over="ignore"):
        small = values[:1] if is_constant(values) else values
        exact = (small.astype(np.float32) == small).all()
    return values.astype(np.float32 if exact else np.float64)


def checked_matrix(matrix: Any) -> Any:
    """A sparse or dense real matrix as COO, its structure checked, not trusted.

    Raises
    ------
    InputError : indices out of range, entries given twice, values that aren't real numbers, or not finite.
    """
    if matrix.dtype.kind not in "fiub":
        raise InputError(f"Expected real numbers, got {matrix.dtype}.")
    if sparse.issparse(matrix):
        try:
            if matrix.format in ("csr", "csc"):
                matrix.check_format(full_check=True)
            coo = sparse.coo_matrix(matrix)
        except ValueError as error:
            raise InputError(f"Expected a valid sparse matrix, got one with {error}.") from error
    else:
        coo = sparse.coo_matrix(np.atleast_2d(matrix))
    if not np.isfinite(coo.data).all():
        at = int(np.flatnonzero(~np.isfinite(coo.data))[0])
        raise InputError(
            f"Expected finite numbers, got {coo.data[at]} at row {coo.row[at] + 1}, column {coo.col[at] + 1}."
        )
    width = int(matrix.shape[-1])
    keys = np.sort(coo.row.astype(np.int64) * width + coo.col)
    again = np.flatnonzero(keys[1:] == keys[:-1])
    if again.size:
        row, column = divmod(int(keys[again[0]]), width)
        raise InputError(f"Expected every entry once, got ({row + 1}, {column + 1}) a second time.")
    return coo.astype(np.float64) if coo.dtype.kind != "f" else coo


def expect_shape(path: Path, shape: tuple[int, ...], asked: tuple[int | None, int | None], what: str) -> None:
    """Raise FileFormatError unless `shape` is 2-D and agrees with the numbers asked for."""
    if len(shape) != 2 or any(want not in (None, got) for want, got in zip(asked, shape, strict=True)):
        want = " × ".join("any" if n is None else str(n) for n in asked)
        raise FileFormatError(path, f"Expected a matrix of {want} ({what}), got {' × '.join(map(str, shape))}.")


def empty(path: Path) -> FileFormatError:
    return FileFormatError(path, "Expected at least one entry, but the file is empty.", 1)


def _set_bits(words: np.ndarray, piece: Entries) -> int:
    from . import kernels

    return int(kernels.set_bits(words, piece.first, piece.second))


def _order(path: Path, entries: Entries, major: np.ndarray, minor: np.ndarray, width: int) -> np.ndarray | None:
    """The order that sorts entries by (major, minor), None if they are sorted.

    Raises FileFormatError at the first line that repeats an earlier entry.
    """
    keys = major.astype(np.int64) * width + minor
    if (keys[1:] > keys[:-1]).all():
        return None
    order = np.argsort(keys, kind="stable")
    ranked = keys[order]
    again = order[1:][ranked[1:] == ranked[:-1]]
    if again.size:
        at = int(again.min())
        raise _duplicate(path, entries.line + at, int(entries.first[at]), int(entries.second[at]))
    return order


def _duplicate(path: Path, line: int, first: int, second: int) -> FileFormatError:
    return FileFormatError(path, f"Expected every entry once, got ({first + 1}, {second + 1}) a second time.", line)
