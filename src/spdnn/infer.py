"""What running any network on any features takes besides an engine: final rows as features, labels from files."""

from __future__ import annotations

import tokenize
from pathlib import Path

import numpy as np
from scipy import sparse

from .engine import Activations
from .errors import FileFormatError, InputError
from .features import Features

_LARGEST = 2**63 - 1


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
        except (ValueError, TypeError, SyntaxError, EOFError, OSError, tokenize.TokenError) as error:
            raise FileFormatError(path, f"Expected an array of labels in a .npy file: {error}") from error
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise FileFormatError(path, f"Expected a 1-D array of whole numbers, got {labels.dtype} {labels.shape}.")
    else:
        numbers = []
        for line, text in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if not text.strip().isdecimal():
                raise FileFormatError(path, f"Expected a class, a whole number >= 0, got {text.strip()[:40]!r}.", line)
            numbers.append(min(int(text), _LARGEST))
        labels = np.array(numbers, np.int64)
    if len(labels) != rows:
        raise FileFormatError(path, f"Expected {rows} labels, one a row of the features, got {len(labels)}.")
    if labels.size and labels.min() < 0:
        raise FileFormatError(path, f"Expected classes >= 0, got {labels.min()}.")
    return labels.astype(np.int64)
