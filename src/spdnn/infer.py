"""Any network on any features: other bounds, final rows as features, labels."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from .engine import Activations
from .errors import FileFormatError, InputError
from .features import Features
from .network import LazyLayers, SparseLayer, SparseNetwork


def with_activation(network: SparseNetwork, **given: Any) -> SparseNetwork:
    """The network with another bias, lower, upper or bias_rule in every layer; those given as None stay.

    Raises InputError as SparseLayer does.
    """
    changes = {name: value for name, value in given.items() if value is not None}
    if not changes:
        return network

    def change(layer: SparseLayer) -> SparseLayer:
        changed = dataclasses.replace(layer, **changes, validate=False)
        if not changed.lower <= changed.upper:
            raise InputError(f"Expected lower <= upper, got {changed.lower} and {changed.upper}.")
        return changed

    layers = network.layers
    if not isinstance(layers, LazyLayers):
        return SparseNetwork([change(layer) for layer in layers], network.name)
    return SparseNetwork(LazyLayers(lambda k: change(layers[k]), layers.widths, layers.edges), network.name)


def final_rows(result: Activations, *, name: str = "") -> Features:
    """The final rows of a run with `values=True` as features: CSR where most rows are dead, else dense."""
    if result.values is None or result.live is None or 2 * len(result.live) > result.rows:
        return Features.from_dense(result.to_dense(), name=name)
    live = sparse.coo_matrix(result.values)
    shape = (result.rows, result.outputs)
    return Features.from_csr(sparse.csr_matrix((live.data, (result.live[live.row], live.col)), shape=shape), name=name)


def load_labels(path: str | Path, rows: int) -> np.ndarray:
    """int64 (rows,): classes from 0, one a line of a text file or a 1-D .npy array.

    Raises
    ------
    InputError, FileFormatError : no such file, another number of labels than rows, anything but whole numbers >= 0.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"Expected a file of labels at {path}, but there is none.")
    if path.suffix == ".npy":
        try:
            labels = np.load(path, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise FileFormatError(path, f"Expected an array of labels in a .npy file: {error}") from error
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise FileFormatError(path, f"Expected a 1-D array of whole numbers, got {labels.dtype} {labels.shape}.")
    else:
        numbers = []
        for line, text in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if not text.strip().isdecimal():
                raise FileFormatError(path, f"Expected a class, a whole number >= 0, got {text.strip()[:40]!r}.", line)
            numbers.append(int(text))
        labels = np.array(numbers, np.int64)
    if len(labels) != rows:
        raise FileFormatError(path, f"Expected {rows} labels, one a row of the features, got {len(labels)}.")
    if labels.size and labels.min() < 0:
        raise FileFormatError(path, f"Expected classes >= 0, got {labels.min()}.")
    return labels.astype(np.int64)
