"""IDX files, the format of MNIST and its kin: one array, big-endian, plain or gzipped."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from ..errors import FileFormatError, InputError

_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str | Path) -> np.ndarray:
    """The array of an IDX file, in native byte order; gzip is recognised by its first bytes.

    Raises
    ------
    InputError : there is no such file, or it can't be read.
    FileFormatError : the file is not IDX, is cut short or goes on after the array.
    """
    return parse_idx(read_bytes(path), path)


def read_bytes(path: str | Path) -> bytes:
    """The content of a file, decompressed if it is gzipped."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"Can't read {path}: {error.strerror or error}.") from error
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise FileFormatError(path, f"Expected a complete gzip file, got a damaged one ({error}).") from error


def parse_idx(content: bytes, path: str | Path) -> np.ndarray:
    """The array of an IDX file's content; `path` is for messages."""
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _TYPES or content[3] == 0:
        raise FileFormatError(
            path,
            f"Expected an IDX file (00 00, type 08-0e, number of dimensions), got it to start {content[:4].hex()!r}.",
        )
    dtype, dimensions = np.dtype(_TYPES[content[2]]), content[3]
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise FileFormatError(path, f"Expected {dimensions} dimensions in {header} bytes, got {len(content)} bytes.")
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", dimensions, offset=4))
    expected = header + math.prod(shape) * dtype.itemsize
    if len(content) != expected:
        kind = "cut short" if len(content) < expected else "too long"
        raise FileFormatError(
            path, f"Expected {expected} bytes for an array of shape {shape}, got {len(content)}: the file is {kind}."
        )
    array = np.frombuffer(content, dtype, offset=header).reshape(shape)
    return array.astype(dtype.newbyteorder("="))
