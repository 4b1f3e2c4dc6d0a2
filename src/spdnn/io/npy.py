"""NumPy `.npy` files of dense features; never pickled objects."""

from __future__ import annotations

import tokenize
from pathlib import Path

import numpy as np

from ..errors import FileFormatError
from ..features import Features
from .atomic import atomic_write
from .build import expect_shape, features_from_matrix
from .source import Source


def read_features(source: str | Path | Source, *, columns: int | None = None, rows: int | None = None) -> Features:
    """Read a 2-D array of numbers, rows × columns; booleans become bit-packed features.

    Raises
    ------
    FileFormatError : pickled objects, a damaged file, another shape than asked for, values not finite.
    """
    source = Source.of(source)
    with source.open() as stream:
        try:
            array = np.lib.format.read_array(stream, allow_pickle=False)
        except FileFormatError:
            raise
        except (ValueError, TypeError, SyntaxError, EOFError, OSError, tokenize.TokenError) as error:
            raise FileFormatError(source.path, f"Expected an array of numbers in a .npy file: {error}.") from error
    if array.dtype.kind not in "fiub":
        raise FileFormatError(source.path, f"Expected real numbers, got {array.dtype}.")
    if array.dtype == bool and array.ndim == 2:
        expect_shape(source.path, array.shape, (rows, columns), "rows × columns")
        return Features.from_bool(array, name=source.path.stem)
    return features_from_matrix(source.path, array, rows, columns, source.path.stem)


def write_features(features: Features, path: str | Path) -> Path:
    """Write features as a dense array: bool where they are bit-packed, else as they are (labels aren't held)."""
    path = Path(path)
    dtype = np.dtype(bool) if features.kind == "bits" else features.store.dtype
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array(file, features.to_dense(dtype), allow_pickle=False)
    return path
