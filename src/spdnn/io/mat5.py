"""A reader of MATLAB's version 5 format (also 6 and 7) for matrices of numbers, full and sparse.

It trusts nothing it reads: `scipy.io.loadmat` can crash the interpreter on damaged files. The format is published
as "MAT-File Format" by The MathWorks.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import sparse

_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_INTEGERS = (5, 6)
_MATRIX, _COMPRESSED = 14, 15
_SPARSE, _FULL = 5, range(6, 16)
_CLASSES = {1: "cell", 2: "struct", 3: "object", 4: "char"}
_COMPLEX = 0x800
_HEADER = 128


def read_variables(content: bytes) -> dict[str, Any]:
    """By name every variable: a 2-D (or n-D) array, a CSC matrix, or the name of a class that holds no numbers.

    Raises
    ------
    ValueError, struct.error, zlib.error, UnicodeError : content that is not of this format, damaged or cut off.
    """
    mark = content[_HEADER - 2 : _HEADER]
    if mark not in (b"IM", b"MI"):
        raise ValueError("it has no version 5 header")
    order = "<" if mark == b"IM" else ">"
    variables = {}
    for kind, element in _elements(memoryview(content)[_HEADER:], order):
        if kind == _COMPRESSED:
            kind, element = next(_elements(memoryview(zlib.decompress(element)), order), (0, element))
        if kind == _MATRIX:
            name, value = _variable(element, order)
            variables[name] = value
    return variables


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    at = 0
    while at < len(data):
        kind, size = struct.unpack_from(order + "II", data, at)
        if kind >> 16:  # four bytes or less stand beside the tag
            kind, size, start, after = kind & 0xFFFF, kind >> 16, at + 4, at + 8
        else:
            start = at + 8
            after = start + size + (0 if kind == _COMPRESSED else -size % 8)
        if start + size > len(data) or (start == at + 4 and size > 4):
            raise ValueError("it is cut off or damaged")
        yield kind, data[start : start + size]
        at = after


def _variable(data: memoryview, order: str) -> tuple[str, Any]:
    parts = list(_elements(data, order))
    if len(parts) < 3 or len(parts[0][1]) < 8:
        raise ValueError("a variable lacks its description")
    flags, shape = int(_integers(*parts[0], order)[0]), _integers(*parts[1], order).tolist()
    name, kind = bytes(parts[2][1]).decode(), flags & 0xFF
    if kind in _FULL or kind == _SPARSE:
        if flags & _COMPLEX:
            return name, "complex"
        if len(shape) < 2 or min(shape) < 0:
            raise ValueError(f"{name!r} has the shape {shape}")
        if kind == _SPARSE and len(parts) == 6 and len(shape) == 2:
            rows, starts = (_integers(*part, order) for part in parts[3:5])
            return name, _sparse(shape, rows, starts, _numbers(*parts[5], order))
        if kind != _SPARSE and len(parts) == 4:
            return name, _numbers(*parts[3], order).reshape(shape, order="F")
        raise ValueError(f"{name!r} lacks its numbers")
    return name, _CLASSES.get(kind, "of an unknown class")


def _numbers(kind: int, content: memoryview, order: str) -> np.ndarray:
    if kind not in _TYPES:
        raise ValueError(f"it has numbers of an unknown type {kind}")
    numbers = np.frombuffer(content, order + _TYPES[kind])
    return numbers.astype(numbers.dtype.newbyteorder("="), copy=False)


def _integers(kind: int, content: memoryview, order: str) -> np.ndarray:
    if kind not in _INTEGERS:
        raise ValueError(f"it has numbers of type {kind} where there should be 32-bit integers")
    return _numbers(kind, content, order)


def _sparse(shape: list[int], rows: np.ndarray, starts: np.ndarray, values: np.ndarray) -> sparse.csc_matrix:
    count = int(starts[-1]) if starts.size else -1
    if not 0 <= count <= min(rows.size, values.size):
        raise ValueError("a sparse matrix lacks entries")
    return sparse.csc_matrix((values[:count], rows[:count], starts), shape=shape)
