"""load_features and save_features over all formats."""

from __future__ import annotations

import os

import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from scipy import sparse

from spdnn import Features, FileFormatError, InputError, load_features, save_features

ENDINGS = ("tsv", "tsv.gz", "mat", "mtx", "mtx.gz", "npy", "safetensors")


def features_of(kind: str, seed: int = 0, rows: int = 7, columns: int = 70, dtype=np.float32) -> Features:
    random = np.random.default_rng(seed)
    dense = (random.normal(size=(rows, columns)) * (random.random((rows, columns)) < 0.3)).astype(dtype)
    dense[-1, -1] = 2.5
    labels = random.integers(0, 10, rows)
    if kind == "bits":
        return Features.from_bool(dense != 0, labels=labels, name="some")
    if kind == "csr":
        return Features.from_csr(sparse.csr_matrix(dense), labels=labels, name="some")
    return Features.from_dense(dense, labels=labels, name="some")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    st.sampled_from(ENDINGS),
    st.sampled_from(["bits", "csr", "dense"]),
    st.sampled_from([np.float32, np.float64]),
    st.integers(0, 99),
    st.integers(1, 9),
    st.integers(1, 130),
)
def test_features_come_back_to_the_last_bit(tmp_path, ending, kind, dtype, seed, rows, columns):
    features = features_of(kind, seed, rows, columns, dtype)
    path = save_features(features, tmp_path / f"x.{ending}")
    read = load_features(path, rows=rows, columns=columns)
    assert np.array_equal(read.to_dense(np.float64), features.to_dense(np.float64))
    if kind == "bits":
        assert read.kind == "bits"
    if ending == "safetensors":
        assert (read.kind, read.name) == (kind, "some")
        assert read.store.dtype == features.store.dtype
        assert np.array_equal(read.labels, features.labels)


@pytest.mark.parametrize("ending", ["mat", "mtx", "npy", "safetensors"])
def test_shapes_are_checked(tmp_path, ending):
    path = save_features(features_of("csr"), tmp_path / f"x.{ending}")
    for wrong in ({"rows": 8}, {"columns": 69}):
        with pytest.raises(FileFormatError, match="Expected"):
            load_features(path, **wrong)


def test_a_format_may_be_named(tmp_path):
    features = features_of("bits")
    path = save_features(features, tmp_path / "x.dat", format="safetensors")
    assert path.read_bytes()[8:9] == b"{"
    with pytest.raises(InputError, match="Did you mean 'safetensors'"):
        save_features(features, tmp_path / "x", format="safetensor")
    with pytest.raises(InputError, match="compressed"):
        save_features(features, tmp_path / "x.npy", gzip=True)
    packed = save_features(features, tmp_path / "y.tsv", gzip=True)
    assert packed.read_bytes()[:2] == b"\x1f\x8b"
    assert load_features(packed, columns=70).nnz == features.nnz


def test_paths_that_are_no_features(tmp_path):
    with pytest.raises(InputError, match="there is none"):
        load_features(tmp_path / "x.tsv")
    with pytest.raises(InputError, match="is a folder"):
        load_features(tmp_path)
    (tmp_path / "x.np").write_text("")
    with pytest.raises(InputError, match=r"Did you mean '\.npy'"):
        load_features(tmp_path / "x.np")
    for wrong in ({"rows": 0}, {"columns": -3}):
        with pytest.raises(InputError, match="from 1 to"):
            load_features(tmp_path / "x.np", **wrong)


def test_official_mat_images(tmp_path):
    z = sparse.csc_matrix(np.array([[0.0, 1, 1], [0, 0, 1]]))
    scipy.io.savemat(tmp_path / "sparse-images-3.mat", {"z": z, "other": 1})
    features = load_features(tmp_path / "sparse-images-3.mat")
    assert features.kind == "bits"
    assert features.to_dense().tolist() == z.toarray().tolist()


def test_wrong_npy_files(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.array([[{"code": 1}]], object), allow_pickle=True)
    with pytest.raises(FileFormatError, match="allow_pickle"):
        load_features(path)
    for array, why in (
        (np.ones(3), "Expected a matrix of any × any"),
        (np.array([[1, np.nan]]), "finite"),
        (np.array([[1j]]), "real numbers"),
        (np.array([["a"]]), "real numbers"),
    ):
        np.save(path, array)
        with pytest.raises(FileFormatError, match=why):
            load_features(path)
    np.save(path, np.ones((4, 4)))
    content = path.read_bytes()
    for text in (b"", b"no array", content[:-1], content[:20]):
        path.write_bytes(text)
        with pytest.raises(FileFormatError, match=r"\.npy"):
            load_features(path)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda t, m: m.update(kind="other"), "got 'other'"),
        (lambda t, m: m.update(columns="many"), "columns"),
        (lambda t, m: m.update(columns="-1"), "Expected"),
        (lambda t, m: m.pop("kind"), "kind"),
        (lambda t, m: t["indices"].__setitem__(0, 1000), "valid CSR"),
        (lambda t, m: t["indptr"].__setitem__(-1, 10**6), "valid CSR"),
        (lambda t, m: t["indices"].__setitem__(0, t["indices"][1]), "ascend"),
        (lambda t, m: t["data"].__setitem__(0, np.inf), "finite"),
        (lambda t, m: t["labels"].resize(3), "labels"),
        (lambda t, m: t.pop("data"), "'data', but there is none"),
    ],
)
def test_damaged_safetensors(tmp_path, change, why):
    features = features_of("csr")
    path = save_features(features, tmp_path / "x.safetensors")
    tensors = {name: array.copy() for name, array in load_file(path).items()}
    metadata = {"format": "spdnn.features", "version": "1", "kind": "csr", "name": "some", "columns": "70"}
    save_file(tensors, path, metadata)
    assert load_features(path).nnz == features.nnz
    change(tensors, metadata)
    save_file(tensors, path, metadata)
    with pytest.raises(FileFormatError, match=why):
        load_features(path)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_failing_writer_leaves_the_old_file(tmp_path, monkeypatch, ending):
    path = save_features(features_of("csr"), tmp_path / f"x.{ending}")
    before = path.read_bytes()
    monkeypatch.setattr("os.fsync", lambda handle: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        save_features(features_of("csr", seed=1), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]
