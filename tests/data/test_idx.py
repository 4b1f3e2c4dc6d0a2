"""IDX files."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from spdnn.data import read_idx
from spdnn.data.idx import parse_idx
from spdnn.errors import FileFormatError, InputError

CODES = {"uint8": 0x08, "int8": 0x09, "int16": 0x0B, "int32": 0x0C, "float32": 0x0D, "float64": 0x0E}


def encode(array: np.ndarray) -> bytes:
    header = bytes([0, 0, CODES[array.dtype.name], array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


@given(
    st.sampled_from(sorted(CODES)).flatmap(
        lambda name: arrays.arrays(name, arrays.array_shapes(max_dims=4, min_side=0, max_side=5))
    )
)
def test_every_type_and_shape_is_read(array):
    found = parse_idx(encode(array), "x")
    assert found.dtype == array.dtype
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, array)


def test_plain_and_gzipped_files_are_read_whatever_their_name(tmp_path):
    array = np.arange(24, dtype=np.int32).reshape(2, 3, 4)
    (tmp_path / "plain.gz").write_bytes(encode(array))
    (tmp_path / "zipped").write_bytes(gzip.compress(encode(array)))
    np.testing.assert_array_equal(read_idx(tmp_path / "plain.gz"), array)
    np.testing.assert_array_equal(read_idx(tmp_path / "zipped"), array)


GOOD = encode(np.arange(12, dtype=np.uint8).reshape(3, 4))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Expected an IDX file"),
        (b"\x89PNG" + GOOD, "Expected an IDX file"),
        (b"\0\0\x0a" + GOOD[3:], "Expected an IDX file"),
        (b"\0\0\x08\0", "Expected an IDX file"),
        (GOOD[:9], "2 dimensions in 12 bytes, got 9"),
        (GOOD[:-1], r"24 bytes for an array of shape \(3, 4\), got 23: the file is cut short"),
        (GOOD + b"\0", "too long"),
        (gzip.compress(GOOD)[:-6], "complete gzip file"),
        (gzip.compress(GOOD)[:12] + b"\xff" * 20, "complete gzip file"),
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path, content, message):
    path = tmp_path / "some-file"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=message) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="nothing-here"):
        read_idx(tmp_path / "nothing-here")
