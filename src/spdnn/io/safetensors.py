"""safetensors files of whole networks (weights, biases, bounds) and of features with their labels.

A network has the tensors `layers.K.indptr` (int64), `.indices` (int32), `.data` and `.bias` (float32 or float64;
the bias a single number or one per output), K from 0, and the metadata `format` = `spdnn.network`, `version`,
`name` and `layers`: JSON, per layer the inputs, the bounds (null: none) and the bias rule. Features have
`format` = `spdnn.features`, `kind`, `columns`, `name` and their arrays.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from ..errors import FileFormatError, InputError, MemoryLimitError
from ..features import Features
from ..network import SparseLayer, SparseNetwork
from .atomic import atomic_write
from .source import check_file, content_of

NETWORK_FORMAT, FEATURES_FORMAT = "spdnn.network", "spdnn.features"
VERSION = "1"


def read_network(path: str | Path, *, layers: int | None = None) -> SparseNetwork:
    """Read a network, or its first `layers` layers.

    Raises
    ------
    FileFormatError : damaged, not a network of spdnn, or holding something that is no network.
    """
    path = Path(path)
    with _opened(path, NETWORK_FORMAT) as (file, metadata):
        try:
            described = json.loads(metadata["layers"])
            count = len(described)
            if layers is not None and not 1 <= layers <= count:
                raise InputError(f"Expected 1 to {count} layers (what {path} holds), got {layers}.")
            made = [_layer(path, file, k, described[k]) for k in range(count if layers is None else layers)]
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise FileFormatError(path, f"Expected a description of each layer, but it is damaged: {error}.") from error
    with content_of(path):
        return SparseNetwork(made, metadata.get("name", ""))


def write_network(network: SparseNetwork, path: str | Path) -> Path:
    """Write a network. It has to fit in memory, lazy or not: MemoryLimitError if it doesn't."""
    import psutil
    from safetensors.numpy import save_file

    path = Path(path)
    if network.is_lazy:
        needed, limit = network.edges * 8, psutil.virtual_memory().available
        if needed > limit:
            raise MemoryLimitError(
                f"Writing {network.name or 'the network'} as one file needs {needed / 2**30:.1f} GiB of memory, "
                f"{limit / 2**30:.1f} GiB are free. Write a folder of layer files instead.",
                needed=needed,
                limit=limit,
            )
    tensors, described = {}, []
    for k, layer in enumerate(network):
        arrays = {"indptr": layer.indptr, "indices": layer.indices, "data": layer.data, "bias": np.asarray(layer.bias)}
        tensors |= {f"layers.{k}.{name}": array for name, array in arrays.items()}
        bounds = {"lower": _bound(layer.lower), "upper": _bound(layer.upper)}
        described.append({"inputs": layer.inputs, **bounds, "bias_rule": layer.bias_rule})
    metadata = {"format": NETWORK_FORMAT, "version": VERSION, "name": network.name, "layers": json.dumps(described)}
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata)
    return path


def read_features(path: str | Path, *, columns: int | None = None, rows: int | None = None) -> Features:
    """Read features of any kind with their labels.

    Raises
    ------
    FileFormatError : damaged, not features of spdnn, or of another shape than asked for.
    """
    path = Path(path)
    with _opened(path, FEATURES_FORMAT) as (file, metadata):
        try:
            kind, width, name = metadata["kind"], int(metadata["columns"]), metadata.get("name", "")
        except (KeyError, ValueError) as error:
            raise FileFormatError(path, f"Expected the kind and the columns of the features: {error}.") from error
        keys = set(file.keys())
        with content_of(path):
            labels = _tensor(path, file, "labels", ("I64",)) if "labels" in keys else None
            if kind == "bits":
                features = Features.from_bits(_tensor(path, file, "words", ("U64",)), width, labels=labels, name=name)
            elif kind == "dense":
                features = Features.from_dense(_tensor(path, file, "values", _FLOATS), labels=labels, name=name)
            elif kind == "csr":
                features = Features.from_csr(_csr(path, file, width), labels=labels, name=name)
            else:
                raise InputError(f"Expected features of kind bits, csr or dense, got {kind!r}.")
    for what, want, got in (("rows", rows, features.rows), ("columns", columns, features.columns)):
        if want not in (None, got):
            raise FileFormatError(path, f"Expected {want} {what}, got {got}.")
    return features


def write_features(features: Features, path: str | Path) -> Path:
    """Write features of any kind with their labels."""
    from safetensors.numpy import save_file

    path = Path(path)
    store = features.store
    if features.kind == "csr":
        tensors = {"indptr": store.indptr.astype(np.int64), "indices": store.indices.astype(np.int32)}
        tensors["data"] = store.data
    else:
        tensors = {"words" if features.kind == "bits" else "values": store}
    if features.labels is not None:
        tensors["labels"] = features.labels
    metadata = {"format": FEATURES_FORMAT, "version": VERSION, "kind": features.kind, "name": features.name}
    metadata["columns"] = str(features.columns)
    with atomic_write(path) as temporary:
        save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, temporary, metadata)
    return path


_FLOATS = ("F32", "F64")


@contextlib.contextmanager
def _opened(path: Path, wanted: str) -> Iterator[tuple[Any, dict[str, str]]]:
    from safetensors import SafetensorError, safe_open

    check_file(path)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != wanted:
                got = metadata.get("format", "none")
                raise FileFormatError(path, f"Expected a safetensors file of format {wanted!r}, got {got!r}.")
            if metadata.get("version") != VERSION:
                raise FileFormatError(
                    path,
                    f"Expected version {VERSION} of {wanted!r}, got {metadata.get('version')!r}. Update spdnn.",
                )
            yield file, metadata
    except SafetensorError as error:
        raise FileFormatError(path, f"Expected a safetensors file, but it can't be read: {error}.") from error
    except OSError as error:
        raise InputError(f"Can't read {path}: {error.strerror or error}.") from error


def _tensor(path: Path, file: Any, name: str, dtypes: tuple[str, ...]) -> np.ndarray:
    if name not in file.keys():  # noqa: SIM118 - a safetensors file is no mapping
        raise FileFormatError(path, f"Expected a tensor {name!r}, but there is none.")
    dtype = file.get_slice(name).get_dtype()
    if dtype not in dtypes:
        raise FileFormatError(path, f"Expected {name!r} as {' or '.join(dtypes)}, got {dtype}.")
    return file.get_tensor(name)


def _layer(path: Path, file: Any, k: int, described: dict[str, Any]) -> SparseLayer:
    dtypes = {"indptr": ("I64",), "indices": ("I32",), "data": _FLOATS, "bias": _FLOATS}
    arrays = (_tensor(path, file, f"layers.{k}.{name}", allowed) for name, allowed in dtypes.items())
    low, high = described["lower"], described["upper"]
    try:
        return SparseLayer(
            int(described["inputs"]),
            *arrays,
            lower=-math.inf if low is None else low,
            upper=math.inf if high is None else high,
            bias_rule=described["bias_rule"],
        )
    except (InputError, ValueError) as error:
        raise FileFormatError(path, f"Layer {k + 1}: {error}") from error


def _csr(path: Path, file: Any, columns: int) -> sparse.csr_matrix:
    data = _tensor(path, file, "data", _FLOATS)
    indices, indptr = _tensor(path, file, "indices", ("I32",)), _tensor(path, file, "indptr", ("I64",))
    if indptr.ndim != 1 or not indptr.size:
        raise InputError(f"Expected indptr to be 1-D, got shape {indptr.shape}.")
    try:
        csr = sparse.csr_matrix((data, indices, indptr), shape=(indptr.size - 1, columns))
        csr.check_format(full_check=True)
    except ValueError as error:
        raise InputError(f"Expected a valid CSR matrix: {error}.") from error
    if not csr.has_canonical_format:
        raise InputError("Expected the columns of each row to ascend strictly, got duplicate or unsorted ones.")
    return csr


def _bound(value: float) -> float | None:
    return value if math.isfinite(value) else None
