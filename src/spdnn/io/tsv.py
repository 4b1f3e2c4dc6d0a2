"""The Graph Challenge's text files: layers, images and categories, plain or gzipped.

A layer has lines `input<TAB>output<TAB>weight`, sorted by output, then input; images have
`image<TAB>pixel<TAB>1`; categories one image id a line. All ids are 1-based.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FileFormatError, InputError
from ..features import Features
from ..network import SparseLayer
from .atomic import atomic_write
from .build import csr_features_from_entries, empty, features_from_entries, layer_from_entries
from .entries import MAX_ID, Entries, format_entries, read_entries
from .names import columns_of
from .source import Source, gzip_writer

_ROWS_BITS = 1 << 24


def read_layer(
    source: str | Path | Source, *, inputs: int | None = None, outputs: int | None = None, **options: Any
) -> SparseLayer:
    """Read one layer; `options` (bias, lower, upper, bias_rule) go to SparseLayer.

    The format holds no shape: where `inputs` or `outputs` is not given it is the largest id in the file.

    Raises
    ------
    FileFormatError : with the line number; ids past `inputs` and `outputs`, duplicates, weights not finite.
    """
    source = Source.of(source)
    with source.open() as stream:
        limits = (_limit(inputs), _limit(outputs))
        pieces = list(read_entries(stream, source.path, ("input", "output", "weight"), limits))
    if not pieces:
        raise empty(source.path)
    entries = Entries.joined(pieces)
    inputs = int(entries.first.max()) + 1 if inputs is None else inputs
    outputs = int(entries.second.max()) + 1 if outputs is None else outputs
    return layer_from_entries(source.path, entries, inputs, outputs, **options)


def layer_text(layer: SparseLayer) -> Iterator[memoryview]:
    """The file of a layer, in pieces: byte for byte the official one for an official layer.

    Weights have six decimals where that is exact (`6.250000e-02`), elsewhere the digits it takes to read them back.
    """
    values, which = _distinct(layer.data)
    tails = [f"\t{text}\n".encode() for text in _weights(values.tolist())]
    outputs = np.repeat(np.arange(layer.outputs, dtype=np.int32), layer.fan_in)
    return format_entries(layer.indices, outputs, which, tails)


def write_layer(layer: SparseLayer, path: str | Path, *, gzip: bool = False) -> Path:
    """Write the weights of one layer (the format holds neither shape nor bias nor bounds)."""
    if not layer.nnz:
        raise InputError(f"Expected a layer with weights: a file of lines can't hold an empty one ({path}).")
    return write_text(layer_text(layer), path, gzip=gzip)


def read_features(source: str | Path | Source, *, columns: int | None = None, rows: int | None = None) -> Features:
    """Read images: bit-packed where every value is 1, else CSR.

    The format holds no shape: `columns` is N where the name is `sparse-images-N`, else the largest id in the
    file; `rows` is the largest id.

    Raises
    ------
    FileFormatError : with the line number.
    """
    source = Source.of(source)
    if columns is None:
        columns = columns_of(source.path.name)
    name = source.path.name.split(".")[0]
    for build in (features_from_entries, csr_features_from_entries):
        with source.open() as stream:
            limits = (_limit(rows), _limit(columns))
            pieces = read_entries(stream, source.path, ("image", "pixel", "value"), limits)
            features = build(source.path, pieces, rows, columns, name)
        if features is not None:
            return features
    raise AssertionError("CSR features hold any value")


def features_text(features: Features, *, first_row: int = 0) -> Iterator[memoryview]:
    """The file of some images, in pieces, sorted by image, then pixel. Values 1 are spelt `1`.

    `first_row` (0-based) is the number of the first of them.
    """
    step = max(1, _ROWS_BITS // max(1, features.columns))
    for start in range(0, features.rows, step):
        block = features[start : start + step].to_csr(np.float64)
        if not block.nnz:
            continue
        values, which = _distinct(block.data)
        tails = [b"\t%s\n" % _value(value) for value in values.tolist()]
        counts = np.diff(block.indptr)
        rows = np.repeat(np.arange(counts.size, dtype=np.int32) + np.int32(first_row + start), counts)
        yield from format_entries(rows, block.indices, which, tails)


def write_features(features: Features, path: str | Path, *, gzip: bool = False) -> Path:
    """Write images (the format holds neither shape nor labels)."""
    if not features.nnz:
        raise InputError(f"Expected features that are not all 0: a file of lines can't hold them ({path}).")
    return write_text(features_text(features), path, gzip=gzip)


def read_categories(source: str | Path | Source) -> np.ndarray:
    """int64: ascending 1-based ids from a categories file; an empty file means no category.

    Raises
    ------
    FileFormatError : with the line number; an id twice, or a last line that seems cut off.
    """
    source = Source.of(source)
    with source.open() as stream:
        pieces = list(read_entries(stream, source.path, ("category",)))
    ids = np.concatenate([piece.first for piece in pieces]).astype(np.int64) + 1 if pieces else np.zeros(0, np.int64)
    order = np.argsort(ids, kind="stable")
    ranked = ids[order]
    again = order[1:][ranked[1:] == ranked[:-1]]
    if again.size:
        at = int(again.min())
        raise FileFormatError(source.path, f"Expected every category once, got {ids[at]} a second time.", at + 1)
    return ranked


def categories_text(ids: Iterable[int] | np.ndarray) -> bytes:
    """The categories file of 1-based ids: one a line, ascending.

    Raises
    ------
    InputError : ids that are no integers from 1 to 2**31 - 1, or not 1-D, or some twice.
    """
    array = np.asarray(ids if isinstance(ids, np.ndarray) else list(ids))
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise InputError(f"Expected a 1-D array of integer ids, got {array.dtype} of shape {array.shape}.")
    array = np.sort(array)
    if array.size and not (array[0] >= 1 and array[-1] <= MAX_ID):
        raise InputError(f"Expected ids from 1 to {MAX_ID}, got {array[0]} to {array[-1]}.")
    if (array[1:] == array[:-1]).any():
        raise InputError(f"Expected every category once, got {array[1:][array[1:] == array[:-1]][0]} twice.")
    return b"".join(b"%d\n" % i for i in array.tolist())


def write_categories(ids: Iterable[int] | np.ndarray, path: str | Path) -> Path:
    """Write 1-based category ids."""
    return write_text([categories_text(ids)], path)


def write_text(pieces: Iterable[memoryview | bytes], path: str | Path, *, gzip: bool = False) -> Path:
    """Write pieces of text atomically, gzipped if `gzip` or if the name ends in .gz."""
    path = Path(path)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        if gzip or path.suffix.lower() == ".gz":
            with gzip_writer(file) as stream:
                for piece in pieces:
                    stream.write(piece)
        else:
            for piece in pieces:
                file.write(piece)
    return path


def _distinct(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    if (values == values[0]).all():
        return values[:1], None
    distinct, which = np.unique(values, return_inverse=True)
    return distinct, which.reshape(-1)


def _weights(values: list[float]) -> list[str]:
    short = [f"{value:.6e}" for value in values]
    return [
        text if back == value else repr(value)
        for text, back, value in zip(short, map(float, short), values, strict=True)
    ]


def _value(value: float) -> bytes:
    return re.sub(r"\.0$", "", repr(value)).encode()


def _limit(size: int | None) -> int:
    return MAX_ID if size is None else min(size, MAX_ID)
