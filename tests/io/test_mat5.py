"""Our reader of MATLAB files against SciPy's, on whole files, and on files that are none."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from scipy.io import loadmat, savemat

from spdnn.errors import FileFormatError
from spdnn.io import mat
from spdnn.io.mat5 import read_variables

DTYPES = ("f4", "f8", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")


def saved(compressed: bool = False, **variables) -> bytes:
    stream = io.BytesIO()
    savemat(stream, variables, do_compression=compressed)
    return stream.getvalue()


def assert_same(content: bytes) -> None:
    """What we read is what SciPy reads."""
    found, expected = read_variables(content), loadmat(io.BytesIO(content))
    expected = {name: value for name, value in expected.items() if not name.startswith("__")}
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].shape == value.shape
        if sparse.issparse(value):
            assert (abs(found[name].astype(float) - value.astype(float))).nnz == 0
        else:
            np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("compressed", [False, True])
@given(
    shape=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    density=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 99),
    dtype=st.sampled_from(DTYPES),
)
def test_matrices_are_those_of_scipy(compressed, shape, density, seed, dtype):
    random = np.random.default_rng(seed)
    dense = (random.integers(0, 100, shape) * (random.random(shape) < density)).astype(dtype)
    content = saved(compressed, d=dense, longer_name=dense.T, one=np.array([[dense.sum()]]))
    assert_same(content)
    if dense.size:
        assert_same(saved(compressed, s=sparse.csc_matrix(dense.astype(float)), t=sparse.csc_matrix(dense > 50)))


def element(order: str, kind: int, content: bytes) -> bytes:
    return struct.pack(order + "II", kind, len(content)) + content + bytes(-len(content) % 8)


def handmade(order: str, *, numbers: tuple[int, str] = (9, "f8"), integers: tuple[int, str] = (5, "i4")) -> bytes:
    """A sparse matrix [[0, 5], [7, 0], [0, 9]] and a full one, in any byte order and storage."""

    def numbered(kind: tuple[int, str], *values: float) -> bytes:
        return element(order, kind[0], np.array(values, order + kind[1]).tobytes())

    def matrix(class_: int, name: bytes, shape: tuple[int, int], *parts: bytes) -> bytes:
        head = element(order, 6, struct.pack(order + "II", class_, 3)) + numbered((5, "i4"), *shape)
        return element(order, 14, head + element(order, 1, name) + b"".join(parts))

    header = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack(order + "HH", 0x0100, 0x4D49)
    values = numbered(numbers, 7, 5, 9)
    return (
        header
        + matrix(5, b"layersScaledj", (3, 2), numbered(integers, 1, 0, 2), numbered(integers, 0, 1, 3), values)
        + matrix(6, b"full", (1, 3), values)
    )


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("numbers", [(9, "f8"), (7, "f4"), (2, "u1"), (3, "i2"), (12, "i8")])
def test_byte_orders_and_compact_storage(order, numbers):
    content = handmade(order, numbers=numbers)
    assert_same(content)
    found = read_variables(content)
    assert found["layersScaledj"].toarray().tolist() == [[0, 5], [7, 0], [0, 9]]
    assert found["full"].tolist() == [[7, 5, 9]]


def test_shapes_and_indices_must_be_integers():
    for integers in ((9, "f8"), (7, "f4"), (13, "u8")):
        with pytest.raises(ValueError, match="32-bit integers"):
            read_variables(handmade("<", integers=integers))


@pytest.mark.parametrize("compressed", [False, True])
def test_every_cut_is_said(tmp_path, compressed):
    matrix = sparse.random(20, 20, 0.3, "csc", random_state=1)
    content = saved(compressed, layersScaledj=matrix)
    path = tmp_path / "cut.mat"
    for size in range(len(content)):
        path.write_bytes(content[:size])
        with pytest.raises(FileFormatError, match=r"cut\.mat: Expected a"):
            mat.read_layer(path, bias=0.0)


def test_other_versions_are_named(tmp_path):
    path = tmp_path / "new.mat"
    hdf5 = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512) + b"\x89HDF\r\n\x1a\n"
    for content in (hdf5, b"\x89HDF\r\n\x1a\n" + bytes(600)):
        path.write_bytes(content)
        with pytest.raises(FileFormatError, match=r"version 7\.3.*save\(\.\.\., '-v7'\)"):
            mat.read_features(path)
    stream = io.BytesIO()
    savemat(stream, {"z": np.eye(3)}, format="4")
    path.write_bytes(stream.getvalue())
    with pytest.raises(FileFormatError, match="no version 5 header"):
        mat.read_features(path)


def test_indices_out_of_range_are_refused(tmp_path):
    content = handmade("<").replace(np.array([1, 0, 2], "<i4").tobytes(), np.array([1, 0, 3], "<i4").tobytes())
    path = tmp_path / "wrong.mat"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=r"wrong\.mat: Expected a valid sparse matrix"):
        mat.read_layer(path)
