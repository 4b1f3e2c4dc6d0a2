"""Matrix Market files, plain or gzipped: layers as inputs × outputs, features as rows × columns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import FileFormatError, InputError
from ..features import Features
from ..network import SparseLayer
from .atomic import atomic_write
from .build import csr_features_from_entries, expect_shape, features_from_matrix, layer_from_entries, layer_from_matrix
from .entries import MAX_ID, Entries, read_entries
from .source import Source, gzip_writer

_SYMMETRY = {"general": 0, "symmetric": 1, "skew-symmetric": -1}


def read_layer(
    source: str | Path | Source, *, inputs: int | None = None, outputs: int | None = None, **options: Any
) -> SparseLayer:
    """Read one layer, inputs × outputs; `options` (bias, lower, upper, bias_rule) go to SparseLayer.

    Raises
    ------
    FileFormatError : with the line number; complex matrices, another shape than asked for, bad weights.
    """
    source = Source.of(source)
    found = _read(source)
    if not isinstance(found, tuple):
        return layer_from_matrix(source.path, found, inputs, outputs, **options)
    entries, shape = found
    expect_shape(source.path, shape, (inputs, outputs), "inputs × outputs")
    return layer_from_entries(source.path, entries, *shape, **options)


def read_features(source: str | Path | Source, *, columns: int | None = None, rows: int | None = None) -> Features:
    """Read features, rows × columns: bit-packed where every value is 0 or 1. Errors as for `read_layer`."""
    source = Source.of(source)
    name = source.path.name.split(".")[0]
    found = _read(source)
    if not isinstance(found, tuple):
        return features_from_matrix(source.path, found, rows, columns, name)
    entries, shape = found
    expect_shape(source.path, shape, (rows, columns), "rows × columns")
    return csr_features_from_entries(source.path, [entries], *shape, name)


def write_layer(layer: SparseLayer, path: str | Path, *, gzip: bool = False) -> Path:
    """Write the weights of one layer (bias and bounds aren't held)."""
    return _write(layer.weights.astype(np.float64), path, gzip)


def write_features(features: Features, path: str | Path, *, gzip: bool = False) -> Path:
    """Write features (labels aren't held)."""
    dense = features.kind == "dense"
    return _write(features.to_dense(np.float64) if dense else features.to_csr(np.float64), path, gzip)


def _read(source: Source) -> tuple[Entries, tuple[int, int]] | np.ndarray:
    with source.open() as stream:
        header = stream.readline(4096)
        layout, number, symmetry = _header(source.path, header)
        if layout == "array":
            return _read_array(source.path, stream, symmetry)
        line, (rows, columns, count) = _size(source.path, stream, "rows, columns and entries")
        shape = rows, columns
        if count > rows * columns:
            message = f"Expected a shape that fits {count} entries, got {rows} × {columns}."
            raise FileFormatError(source.path, message, line)
        names = ("row", "column") if number == "pattern" else ("row", "column", "value")
        pieces = list(read_entries(stream, source.path, names, shape, line=line + 1))
    nothing = Entries(line + 1, np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0))
    entries = Entries.joined(pieces) if pieces else nothing
    if entries.first.size != count:
        at = line + min(entries.first.size, count)
        raise FileFormatError(source.path, f"Expected {count} entries, got {entries.first.size}.", at)
    return (_unfolded(source.path, entries, shape, symmetry) if symmetry else entries), shape


def _header(path: Path, header: bytes) -> tuple[str, str, int]:
    words = header.decode("ascii", "replace").lower().split()
    if not words or words[0] != "%%matrixmarket":
        raise FileFormatError(path, "Expected a first line that starts with %%MatrixMarket.", 1)
    form = "matrix coordinate|array real|integer|pattern general|symmetric|skew-symmetric"
    if len(words) != 5 or any(w not in known.split("|") for w, known in zip(words[1:], form.split(), strict=True)):
        raise FileFormatError(path, f"Expected %%MatrixMarket {form}, got {' '.join(words)}.", 1)
    if (words[2], words[3]) == ("array", "pattern"):
        raise FileFormatError(path, "Expected values in an array, got a pattern.", 1)
    return words[2], words[3], _SYMMETRY[words[4]]


def _size(path: Path, stream: BinaryIO, what: str) -> tuple[int, tuple[int, ...]]:
    """The line number of the size line and its numbers, as many as `what` names."""
    line, expected = 1, 3 if "entries" in what else 2
    while text := stream.readline():
        line += 1
        if not text.strip() or text.startswith(b"%"):
            continue
        fields = text.split()
        if len(fields) != expected or not all(field.isdigit() for field in fields):
            raise FileFormatError(path, f"Expected a line with the numbers of {what}.", line)
        numbers = tuple(map(int, fields))
        if max(numbers[:2]) > MAX_ID:
            raise FileFormatError(path, f"Expected at most {MAX_ID} rows and columns, got {max(numbers[:2])}.", line)
        return line, numbers
    raise FileFormatError(path, f"Expected a line with the numbers of {what}, got none.", line)


def _unfolded(path: Path, entries: Entries, shape: tuple[int, int], symmetry: int) -> Entries:
    """A symmetric matrix from its lower triangle."""
    if shape[0] != shape[1]:
        raise FileFormatError(path, f"Expected a symmetric matrix to be square, got {shape[0]} × {shape[1]}.")
    above = np.flatnonzero(entries.first < entries.second)
    if above.size:
        raise FileFormatError(
            path, "Expected entries of the lower triangle only (symmetric).", entries.line + int(above[0])
        )
    below = entries.first != entries.second
    return replace(
        entries,
        first=np.concatenate([entries.first, entries.second[below]]),
        second=np.concatenate([entries.second, entries.first[below]]),
        values=np.concatenate([entries.values, symmetry * entries.values[below]]),
    )


def _read_array(path: Path, stream: BinaryIO, symmetry: int) -> np.ndarray:
    """A dense matrix: its numbers by column; of a symmetric one the lower triangle, without the diagonal if skew."""
    line, (rows, columns) = _size(path, stream, "rows and columns")
    if symmetry and rows != columns:
        raise FileFormatError(path, f"Expected a symmetric matrix to be square, got {rows} × {columns}.")
    content = stream.read()
    fields = content.split()
    count = rows * columns if not symmetry else rows * (rows + symmetry) // 2
    if len(fields) != count:
        at = line + content.rstrip().count(b"\n") + bool(fields)
        raise FileFormatError(path, f"Expected {count} numbers, got {len(fields)}.", at)
    try:
        values = np.array(list(map(float, fields)))
    except ValueError:
        raise _no_number(path, content, line) from None
    if content[-1:] not in (b"", b"\n") and fields[-1:] != fields[-2:-1]:
        message = f"Expected a line end after {fields[-1].decode()!r}: the file may be cut off. "
        message += "If it is whole, end its last line."
        raise FileFormatError(path, message, line + content.count(b"\n") + 1)
    if not symmetry:
        return values.reshape((rows, columns), order="F")
    matrix = np.zeros((rows, rows))
    second, first = np.triu_indices(rows, 0 if symmetry > 0 else 1)
    matrix[second, first] = symmetry * values
    matrix[first, second] = values
    return matrix


def _no_number(path: Path, content: bytes, line: int) -> FileFormatError:
    """The error for the first field of `content`, which follows line `line`, that isn't a number."""
    for number, text in enumerate(content.split(b"\n"), line + 1):
        for field in text.split():
            try:
                float(field)
            except ValueError:
                shown = field[:40].decode("ascii", "backslashreplace")
                return FileFormatError(path, f"Expected a number, got {shown!r}.", number)
    raise AssertionError("one of the fields is no number")


def _write(matrix: Any, path: str | Path, gzip: bool) -> Path:
    from scipy.io import mmwrite

    path = Path(path)
    if 0 in matrix.shape:
        raise InputError(f"Expected a matrix with rows and columns, got shape {matrix.shape} ({path}).")
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        if gzip or path.suffix.lower() == ".gz":
            with gzip_writer(file) as stream:
                mmwrite(stream, matrix, symmetry="general")
        else:
            mmwrite(file, matrix, symmetry="general")
    return path
