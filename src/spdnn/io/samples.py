"""Features and categories from and to files of any format."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np

from ..errors import InputError, unknown_name
from ..features import Features
from . import tsv
from .names import suffix_of
from .source import check_file

FEATURE_FORMATS = {
    ".tsv": "tsv",
    ".tsv.gz": "tsv",
    ".mat": "mat",
    ".mtx": "mtx",
    ".mtx.gz": "mtx",
    ".npy": "npy",
    ".safetensors": "safetensors",
}
"""File name endings of features and the module that reads and writes them."""
_COMPRESSED = ("tsv", "mat", "mtx")


def load_features(path: str | Path, *, columns: int | None = None, rows: int | None = None) -> Features:
    """Read features from a `.tsv`, `.tsv.gz`, `.mat`, `.mtx`, `.mtx.gz`, `.npy` or `.safetensors` file.

    Features of 0 and 1 from sparse files come bit-packed. `.tsv` files hold no shape: columns are N where the
    name is `sparse-images-N`, else the largest id, rows the largest id; `columns` and `rows` override that. For
    the other formats they are what is expected.

    Raises
    ------
    InputError : no such file, an unknown ending, a negative size.
    FileFormatError : a damaged or malformed file, or one of another shape; says where and why.
    """
    path = Path(path)
    for name, size in (("columns", columns), ("rows", rows)):
        if size is not None and not 1 <= size < 2**31:
            raise InputError(f"Expected a number of {name} from 1 to 2**31 - 1, got {size}.")
    check_file(path)
    return _module(path, None).read_features(path, columns=columns, rows=rows)


def save_features(features: Features, path: str | Path, *, format: str | None = None, gzip: bool = False) -> Path:
    """Write features in the format of the file's ending, or in `format` whatever the ending.

    Only `.safetensors` holds everything (labels, name); `.tsv` and `.mtx` hold no labels and are compressed with
    `gzip` or where the name ends in .gz; `.mat` is compressed with `gzip`. The file appears whole or not at all.

    Raises
    ------
    InputError : an unknown ending or format, or one that can't be compressed.
    """
    path = Path(path)
    module = _module(path, format)
    name = module.__name__.rpartition(".")[2]
    if name in _COMPRESSED:
        return module.write_features(features, path, gzip=gzip)
    if gzip:
        raise InputError(f"Expected a format that is compressed with gzip ({', '.join(_COMPRESSED)}), got {name}.")
    return module.write_features(features, path)


def load_categories(path: str | Path) -> np.ndarray:
    """int64: the ascending 1-based ids in a categories file, plain or gzipped.

    Raises
    ------
    InputError, FileFormatError : no such file; a malformed line, an id twice.
    """
    return tsv.read_categories(path)


def save_categories(ids: np.ndarray, path: str | Path) -> Path:
    """Write 1-based category ids, ascending, one a line. Raises InputError for ids that are none."""
    return tsv.write_categories(ids, path)


def _module(path: Path, format: str | None):
    if format is None:
        name = FEATURE_FORMATS[suffix_of(path, tuple(FEATURE_FORMATS))]
    elif format in FEATURE_FORMATS.values():
        name = format
    else:
        raise unknown_name("features format", format, set(FEATURE_FORMATS.values()))
    return importlib.import_module(f".{name}", __package__)
