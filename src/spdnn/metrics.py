"""How well final rows classify: softmax, accuracy, cross entropy."""

from __future__ import annotations

from typing import Any

import numpy as np

from .errors import InputError


def softmax(values: Any) -> np.ndarray:
    """float64 (rows, classes): each row's values as probabilities, `exp(v) / sum(exp(v))`, however large they are.

    Raises
    ------
    InputError : not a 2-D array of real numbers, no column, NaN or infinity.
    """
    shifted = _shifted(values)
    np.exp(shifted, out=shifted)
    shifted /= shifted.sum(1, keepdims=True)
    return shifted


def cross_entropy(values: Any, labels: Any) -> float:
    """Cross entropy in nats, the mean over the rows of −log q(label), with q the softmax of the row's values.

    This is H(p, q) of Wang et al. 2019, §III-C, equation 2, where p is 1 for the label and 0 for other classes.
    Computed as logsumexp(v) − v[label] in float64, so it is finite for any finite values.

    Parameters
    ----------
    values : float (rows, classes), the final values of the network, for example `Activations.to_dense()`.
    labels : integers (rows,), the class of each row, from 0.

    Raises
    ------
    InputError : shapes that don't fit, no row, NaN or infinity, labels that aren't integers or out of range.
    """
    shifted = _shifted(values)
    classes = _classes(labels, shifted.shape)
    at_label = shifted[np.arange(len(shifted)), classes]
    np.exp(shifted, out=shifted)
    return float((np.log(shifted.sum(1)) - at_label).mean())


def accuracy(values: Any, labels: Any) -> float:
    """The share of rows whose largest value stands at the label; of equal largest values the first counts.

    A row that is all zero is therefore taken for class 0. Parameters and errors as for `cross_entropy`.
    """
    array = _finite(values)
    return float((array.argmax(1) == _classes(labels, array.shape)).mean())


def _finite(values: Any) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 2 or array.shape[1] == 0 or array.dtype.kind not in "fiub":
        raise InputError(
            f"Expected a 2-D array of real numbers, rows × classes, got {array.dtype} of shape {array.shape}."
        )
    finite = np.isfinite(array)
    if not finite.all():
        row, column = (int(i) for i in np.argwhere(~finite)[0])
        raise InputError(f"Expected finite values, got {array[row, column]} at row {row}, class {column}.")
    return array


def _shifted(values: Any) -> np.ndarray:
    """float64, a new array: each row less its largest value, so that its exponentials are at most 1."""
    array = _finite(values).astype(np.float64)
    array -= array.max(1, keepdims=True)
    return array


def _classes(labels: Any, shape: tuple[int, ...]) -> np.ndarray:
    rows, classes = shape
    array = np.asarray(labels)
    if array.shape != (rows,):
        raise InputError(f"Expected {rows} labels, one for each row, got shape {array.shape}.")
    if rows == 0:
        raise InputError("Expected at least one row to average over, got none.")
    if array.dtype.kind not in "iu":
        raise InputError(f"Expected labels that are integers, got {array.dtype}.")
    wrong = np.flatnonzero((array < 0) | (array >= classes))
    if wrong.size:
        row = int(wrong[0])
        raise InputError(f"Expected labels in 0..{classes - 1}, one per class, got {int(array[row])} at row {row}.")
    return array
