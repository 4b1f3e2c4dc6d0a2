"""The official text files: byte for byte, and every mistake in them found."""

from __future__ import annotations

import gzip
import tarfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse

from spdnn import Features, FileFormatError, InputError, SparseLayer, challenge_network
from spdnn.io import load_categories, save_categories, tsv

LAYERS = (1, 6, 7, 60, 120)


@pytest.fixture(scope="module")
def official(mnist_dir) -> dict[int, bytes]:
    """Some official layer files, by number."""
    found = {}
    with tarfile.open(mnist_dir / "graphchallenge" / "neuron1024-l1-l120.tar.xz") as archive:
        for member in archive:
            number = member.name.partition("-l")[2].partition(".")[0]
            if number.isdigit() and int(number) in LAYERS:
                found[int(number)] = archive.extractfile(member).read()
    assert sorted(found) == sorted(LAYERS)
    return found


def same_layers(a: SparseLayer, b: SparseLayer) -> bool:
    return (
        a.inputs == b.inputs
        and a.data.dtype == b.data.dtype
        and all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("indptr", "indices", "data"))
    )


@pytest.mark.parametrize("number", LAYERS)
def test_official_layers_byte_for_byte(official, tmp_path, number):
    layer = challenge_network(1024, 120).layers[number - 1]
    assert tsv.write_layer(layer, tmp_path / "ours.tsv").read_bytes() == official[number]
    (tmp_path / "theirs.tsv").write_bytes(official[number])
    read = tsv.read_layer(tmp_path / "theirs.tsv", inputs=1024, outputs=1024)
    assert same_layers(read, layer)
    assert b"".join(tsv.layer_text(read)) == official[number]


def test_official_categories_byte_for_byte(mnist_dir, tmp_path):
    path = mnist_dir / "graphchallenge" / "neuron1024-l120-categories.tsv"
    ids = load_categories(path)
    assert ids.dtype == np.int64
    assert len(ids) == 1812
    save_categories(ids, tmp_path / "categories.tsv")
    assert (tmp_path / "categories.tsv").read_bytes() == path.read_bytes()


weights = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0625, 1.0, -0.1]),
).filter(bool)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.dictionaries(st.tuples(st.integers(0, 8), st.integers(0, 5)), weights, min_size=1),
    st.sampled_from(["l.tsv", "l.tsv.gz"]),
)
def test_layers_come_back_to_the_last_bit(tmp_path, entries, name):
    matrix = np.zeros((9, 6))
    for place, weight in entries.items():
        matrix[place] = weight
    with np.errstate(over="ignore"):
        exact = (matrix.astype(np.float32) == matrix).all()
    layer = SparseLayer.from_matrix(matrix.astype(np.float32 if exact else np.float64))
    path = tsv.write_layer(layer, tmp_path / name)
    assert same_layers(tsv.read_layer(path, inputs=9, outputs=6), layer)


def test_a_layer_in_any_order_is_sorted_and_zeros_are_dropped(tmp_path):
    path = tmp_path / "layer.tsv"
    path.write_text("3\t2\t0.5\n1\t1\t2\n2\t2\t0\n1\t2\t4\n")
    layer = tsv.read_layer(path)
    assert layer.weights.toarray().tolist() == [[2, 4], [0, 0], [0, 0.5]]
    assert layer.nnz == 3


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("", 1, "empty"),
        ("\n\n", 1, "empty"),
        ("1\t1\t1\n2\t2\t1\n1\t1\t3\n1\t1\t4\n", 3, r"\(1, 1\) a second time"),
        ("1\t1\t1\n1\t1\t1\n", 2, r"\(1, 1\) a second time"),
        ("1\t1\t1\n5\t1\t1\n", 2, "input ids from 1 to 4, got '5'"),
        ("1\t1\t1\n4\t4\t1\n", 2, "output ids from 1 to 3, got '4'"),
    ],
)
def test_wrong_layers(tmp_path, text, line, why):
    path = tmp_path / "layer.tsv"
    path.write_text(text)
    with pytest.raises(FileFormatError, match=why) as caught:
        tsv.read_layer(path, inputs=4, outputs=3)
    assert caught.value.line == line


def test_an_empty_layer_is_refused(tmp_path):
    with pytest.raises(InputError, match="with weights"):
        tsv.write_layer(SparseLayer.from_matrix(np.zeros((3, 3))), tmp_path / "layer.tsv")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.integers(1, 20), st.integers(1, 130), st.floats(0.01, 1), st.booleans(), st.integers(0, 9))
def test_images_come_back(tmp_path, rows, columns, density, binary, seed):
    random = np.random.default_rng(seed)
    dense = (random.random((rows, columns)) < density) * (1.0 if binary else random.normal(size=(rows, columns)))
    dense[0, 0] = 1
    features = Features.from_bool(dense != 0) if binary else Features.from_csr(sparse.csr_matrix(dense))
    path = tsv.write_features(features, tmp_path / f"sparse-images-{columns}.tsv")
    read = tsv.read_features(path, rows=rows)
    assert read.shape == features.shape
    assert (read.kind == "bits") == features.is_binary
    assert np.array_equal(read.to_dense(np.float64), dense)


def test_the_text_of_images(tmp_path):
    dense = np.zeros((3, 1024))
    dense[[0, 0, 2], [5, 1023, 0]] = 1
    path = tsv.write_features(Features.from_bool(dense), tmp_path / "sparse-images-1024.tsv")
    assert path.read_text() == "1\t6\t1\n1\t1024\t1\n3\t1\t1\n"
    assert tsv.read_features(path).shape == (3, 1024)
    assert tsv.read_features(path, rows=10, columns=2000).shape == (10, 2000)
    other = path.rename(tmp_path / "other.tsv")
    assert tsv.read_features(other).shape == (3, 1024)


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("", 1, "empty"),
        ("1\t1\t1\n1\t2\t1\n1\t1\t1\n", 3, "second time"),
        ("1\t1\t1\n1\t2\t0.5\n1\t1\t1\n", 3, "second time"),
        ("1\t1\t1\n1\t17\t1\n", 2, "pixel ids from 1 to 16, got '17'"),
        ("1\t1\t1\n4\t1\t1\n", 2, "image ids from 1 to 3, got '4'"),
        ("1\t1\t1\n1\t2\tnan\n", 2, "finite value"),
    ],
)
def test_wrong_images(tmp_path, text, line, why):
    path = tmp_path / "sparse-images-16.tsv"
    path.write_text(text)
    with pytest.raises(FileFormatError, match=why) as caught:
        tsv.read_features(path, rows=3)
    assert caught.value.line == line


def test_few_entries_far_apart_are_not_bit_packed(tmp_path):
    path = tmp_path / "far.tsv"
    path.write_text("1\t1\t1\n1000000\t1000000\t1\n")
    features = tsv.read_features(path)
    assert features.kind == "csr"
    assert features.shape == (1_000_000, 1_000_000)
    assert features.nnz == 2


def test_categories(tmp_path):
    path = tmp_path / "categories.tsv"
    save_categories(np.array([3, 1, 2]), path)
    assert path.read_text() == "1\n2\n3\n"
    save_categories([], path)
    assert load_categories(path).tolist() == []
    path.write_bytes(gzip.compress(b"5\n2\n"))
    assert load_categories(path).tolist() == [2, 5]
    for text, line in (("1\n2\n1\n", 3), ("1\n0\n", 2), ("1\nx\n", 2), ("1\t2\n", 1), ("1\n\n2\n", 2), ("1.5\n", 1)):
        path.write_text(text)
        with pytest.raises(FileFormatError) as caught:
            load_categories(path)
        assert caught.value.line == line


@pytest.mark.parametrize("ids", [[0, 1], [1, 1], [1.5], [[1]], [2**31]])
def test_wrong_category_ids_leave_the_file_alone(tmp_path, ids):
    path = tmp_path / "categories.tsv"
    path.write_text("7\n")
    with pytest.raises(InputError):
        save_categories(np.array(ids), path)
    assert path.read_text() == "7\n"
