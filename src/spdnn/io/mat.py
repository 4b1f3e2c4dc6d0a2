"""MATLAB files up to version 7 (the official `.mat` forms): `layersScaledj` holds a layer, `z` the images."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FileFormatError, InputError
from ..features import Features
from ..network import SparseLayer
from .atomic import atomic_write
from .build import features_from_matrix, layer_from_matrix
from .mat5 import read_variables
from .source import Source

LAYER, IMAGES = "layersScaledj", "z"
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"


def read_layer(
    source: str | Path | Source, *, inputs: int | None = None, outputs: int | None = None, **options: Any
) -> SparseLayer:
    """Read one layer, inputs × outputs: the variable `layersScaledj`, or the only one there is.

    `options` (bias, lower, upper, bias_rule) go to SparseLayer.

    Raises
    ------
    FileFormatError : no such variable, version 7.3, damaged, another shape than asked for, bad weights.
    """
    source = Source.of(source)
    return layer_from_matrix(source.path, _read(source, LAYER), inputs, outputs, **options)


def read_features(source: str | Path | Source, *, columns: int | None = None, rows: int | None = None) -> Features:
    """Read images, rows × columns: the variable `z`, or the only one there is. Errors as for `read_layer`."""
    source = Source.of(source)
    return features_from_matrix(source.path, _read(source, IMAGES), rows, columns, source.path.stem)


def write_layer(layer: SparseLayer, path: str | Path, *, gzip: bool = False) -> Path:
    """Write the weights of one layer, version 5 (compressed if `gzip`; bias and bounds aren't held)."""
    return _write(LAYER, layer.weights.tocsc().astype(np.float64), path, gzip)


def write_features(features: Features, path: str | Path, *, gzip: bool = False) -> Path:
    """Write features as the variable `z`, version 5 (compressed if `gzip`; labels aren't held)."""
    dense = features.kind == "dense"
    return _write(IMAGES, features.to_dense(np.float64) if dense else features.to_csr(np.float64).tocsc(), path, gzip)


def _read(source: Source, wanted: str) -> Any:
    with source.open() as stream:
        content = stream.read()
    if not content:
        raise FileFormatError(source.path, "Expected a MATLAB file, but it is empty.")
    if content.startswith(b"MATLAB 7.3") or _HDF5_MAGIC in content[:520]:
        raise FileFormatError(
            source.path,
            "Expected a MATLAB file up to version 7, got version 7.3 (HDF5). "
            "In MATLAB or Octave, load it and save it again with save(..., '-v7').",
        )
    try:
        variables = read_variables(content)
    except (ValueError, struct.error, zlib.error) as error:
        raise FileFormatError(source.path, f"Expected a MATLAB file, but it can't be read: {error}.") from error
    if wanted not in variables and len(variables) != 1:
        there = ", ".join(sorted(variables)) or "none"
        raise FileFormatError(source.path, f"Expected a variable {wanted!r}, or a single one, got: {there}.")
    name = wanted if wanted in variables else next(iter(variables))
    value = variables[name]
    if isinstance(value, str):
        raise FileFormatError(source.path, f"Expected {name!r} to be a matrix of real numbers, got {value}.")
    return value


def _write(name: str, matrix: Any, path: str | Path, gzip: bool) -> Path:
    from scipy.io import savemat
    from scipy.io.matlab import MatWriteError

    path = Path(path)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        try:
            savemat(file, {name: matrix}, do_compression=gzip)
        except MatWriteError:
            raise InputError(f"Can't write {path}: the format holds up to 4 GiB. Write .tsv or .safetensors.") from None
    return path
