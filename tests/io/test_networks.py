"""load_network and save_network over all formats, folders and archives."""

from __future__ import annotations

import io
import itertools
import json
import os
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from scipy import sparse

from spdnn import FileFormatError, InputError, LazyLayers, SparseLayer, SparseNetwork, load_network, save_network
from spdnn.io import layers as layer_files
from spdnn.io import mat, mtx, tsv


def random_layer(seed: int, inputs: int, outputs: int, **options) -> SparseLayer:
    random = np.random.default_rng(seed)
    dense = random.normal(size=(inputs, outputs)) * (random.random((inputs, outputs)) < 0.4)
    dense[0, 0] = 1
    dtype = options.pop("dtype", np.float64)
    return SparseLayer.from_matrix(dense.astype(dtype), **options)


@pytest.fixture
def network() -> SparseNetwork:
    return SparseNetwork([random_layer(k, 8, 8, bias=-0.25, upper=2.0) for k in range(3)], "three")


def same(a: SparseNetwork, b: SparseNetwork) -> bool:
    scalars = ("inputs", "lower", "upper", "bias_rule")
    arrays = ("indptr", "indices", "data", "bias")
    return len(a) == len(b) and all(
        all(getattr(x, name) == getattr(y, name) for name in scalars)
        and all(np.array_equal(getattr(x, name), getattr(y, name)) for name in arrays)
        and x.data.dtype == y.data.dtype
        for x, y in zip(a, b, strict=True)
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=5),
    st.sampled_from([np.float32, np.float64]),
    st.sampled_from([(0.0, np.inf), (-np.inf, np.inf), (-1.5, 32.0)]),
    st.sampled_from(["nonzero", "all"]),
    st.booleans(),
)
def test_safetensors_hold_everything(tmp_path, widths, dtype, bounds, rule, per_neuron):
    made = []
    for k, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        bias = np.linspace(-1, 1, outputs).astype(dtype) if per_neuron else 0.1
        options = {"lower": bounds[0], "upper": bounds[1], "bias_rule": rule, "dtype": dtype}
        made.append(random_layer(k, inputs, outputs, bias=bias, **options))
    network = SparseNetwork(made, "käse")
    save_network(network, tmp_path / "n.safetensors")
    read = load_network(tmp_path / "n.safetensors")
    assert same(read, network)
    assert read.name == "käse"
    assert load_network(tmp_path / "n.safetensors", layers=1).widths == network.widths[:2]


def test_safetensors_take_what_is_given_instead(tmp_path, network):
    save_network(network, tmp_path / "n.safetensors")
    layer = load_network(tmp_path / "n.safetensors", bias=0.5, upper=7, lower=-1, bias_rule="all").layers[2]
    assert (layer.bias, layer.lower, layer.upper, layer.bias_rule) == (0.5, -1, 7, "all")
    with pytest.raises(InputError, match="levels"):
        load_network(tmp_path / "n.safetensors", neurons=9)
    with pytest.raises(InputError, match="1 to 3 layers"):
        load_network(tmp_path / "n.safetensors", layers=4)


def damage(path, change) -> None:
    tensors = load_file(path)
    metadata = json.loads(path.read_bytes()[8:].split(b'"__metadata__":')[1].split(b"}}")[0].split(b'},"')[0] + b"}")
    change(tensors, metadata)
    save_file(tensors, path, metadata)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda t, m: t["layers.1.indices"].__setitem__(0, 99), r"Layer 2: .*0\.\.7, got 99"),
        (lambda t, m: t["layers.1.data"].__setitem__(0, np.nan), "Layer 2: .*finite"),
        (lambda t, m: t["layers.0.indptr"].__setitem__(-1, 10**9), "Layer 1"),
        (lambda t, m: t.pop("layers.2.bias"), "'layers.2.bias', but there is none"),
        (lambda t, m: t.update({"layers.0.indices": t["layers.0.indices"].astype(np.int64)}), "I32, got I64"),
        (lambda t, m: m.update(version="9"), "version 1 .*'9'"),
        (lambda t, m: m.update(format="other"), "got 'other'"),
        (lambda t, m: m.pop("format"), "got 'none'"),
        (lambda t, m: m.update(layers="[1, 2, 3]"), "description"),
        (lambda t, m: m.update(layers="nonsense"), "description"),
        (lambda t, m: m.update(layers=m["layers"].replace('"nonzero"', '"never"')), "bias_rule"),
        (lambda t, m: m.update(layers=m["layers"].replace('"inputs": 8', '"inputs": -8')), "Layer 1"),
    ],
)
def test_damaged_safetensors(tmp_path, network, change, why):
    path = save_network(network, tmp_path / "n.safetensors")
    damage(path, change)
    with pytest.raises(FileFormatError, match=why):
        load_network(path)


def test_cut_off_safetensors(tmp_path, network):
    path = save_network(network, tmp_path / "n.safetensors")
    content = path.read_bytes()
    for text in (b"", content[:5], content[:-1], content[: len(content) // 2], b"\xff" * 100):
        path.write_bytes(text)
        with pytest.raises(FileFormatError, match="safetensors"):
            load_network(path)


@pytest.mark.parametrize("format", ["tsv", "mat", "mtx"])
@pytest.mark.parametrize("gzip", [False, True])
def test_folders(tmp_path, network, format, gzip):
    folder = save_network(network, tmp_path / "net", format=format, gzip=gzip)
    ending = format + (".gz" if gzip and format != "mat" else "")
    assert sorted(os.listdir(folder)) == [f"n8-l{k}.{ending}" for k in (1, 2, 3)]
    read = load_network(folder, bias=-0.25, upper=2)
    assert same(read, network)
    assert load_network(folder, bias=0, layers=2).widths == (8, 8, 8)
    assert same(load_network(folder / f"n8-l1.{ending}", bias=-0.25, upper=2), SparseNetwork(network.layers[:1]))


def test_official_names_have_the_official_bias(tmp_path):
    folder = tmp_path / "neuron4096"
    tsv.write_layer(SparseLayer.from_matrix(sparse.eye(4096, format="csr", dtype=np.float32)), folder / "n4096-l1.tsv")
    for path in (folder, tmp_path, folder / "n4096-l1.tsv"):
        layer = load_network(path).layers[0]
        assert (layer.bias, layer.lower, layer.upper, layer.bias_rule) == (-0.35, 0, 32, "nonzero")
    layer = load_network(folder, bias=1.0, upper=5.0).layers[0]
    assert (layer.bias, layer.upper) == (1.0, 5.0)


def test_other_names_need_a_bias(tmp_path, network):
    folder = save_network(network, tmp_path / "net")
    for path in (folder, folder / "n8-l1.tsv"):
        with pytest.raises(InputError, match=r"Expected a bias.*bias=0\.0"):
            load_network(path)
    assert load_network(folder, bias=0.0).layers[0].upper == np.inf


def test_missing_layers_are_named(tmp_path, network):
    folder = save_network(network, tmp_path / "net")
    with pytest.raises(InputError, match=r"layers 1 to 5 .* 2 of them are missing: 4, 5"):
        load_network(folder, bias=0, layers=5)
    (folder / "n8-l2.tsv").unlink()
    with pytest.raises(InputError, match="1 of them are missing: 2"):
        load_network(folder, bias=0)
    assert len(load_network(folder, bias=0, layers=1)) == 1


def test_which_network(tmp_path, network):
    save_network(network, tmp_path / "neuron8")
    five = SparseNetwork([random_layer(9, 5, 5)])
    save_network(five, tmp_path / "neuron5")
    with pytest.raises(InputError, match="neuron5, neuron8"):
        load_network(tmp_path, bias=0)
    assert load_network(tmp_path, bias=0, neurons=5).widths == (5, 5)
    save_network(five, tmp_path / "neuron8")
    with pytest.raises(InputError, match="5, 8 neurons"):
        load_network(tmp_path / "neuron8", bias=0)
    assert load_network(tmp_path / "neuron8", bias=0, neurons=8).widths == (8,) * 4
    with pytest.raises(InputError, match="n7-lK"):
        load_network(tmp_path / "neuron8", bias=0, neurons=7)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="got none"):
        load_network(tmp_path / "empty", bias=0)


def test_levels_of_different_widths(tmp_path):
    for k, (inputs, outputs) in enumerate([(6, 4), (4, 7)]):
        tsv.write_layer(random_layer(k, inputs, outputs), tmp_path / f"n6-l{k + 1}.tsv")
    assert load_network(tmp_path, bias=0, neurons=[6, 4, 7]).widths == (6, 4, 7)
    for neurons in ([6, 4], [6, 4, 7, 8]):
        with pytest.raises(InputError, match="levels"):
            load_network(tmp_path, bias=0, neurons=neurons)
    with pytest.raises(FileFormatError, match="output ids from 1 to 6, got '7'"):
        load_network(tmp_path, bias=0)
    mtx.write_layer(random_layer(0, 6, 4), tmp_path / "layer.mtx")
    assert load_network(tmp_path / "layer.mtx", bias=0).widths == (6, 4)
    with pytest.raises(FileFormatError, match="Expected a matrix of 6 × 5"):
        load_network(tmp_path / "layer.mtx", bias=0, neurons=(6, 5))
    with pytest.raises(InputError, match="same number of neurons"):
        save_network(SparseNetwork([random_layer(0, 6, 4)]), tmp_path / "folder")


def test_large_folders_are_lazy(tmp_path, network, monkeypatch):
    folder = save_network(network, tmp_path / "net")
    monkeypatch.setattr(layer_files, "LAZY_BYTES", 10)
    read = load_network(folder, bias=-0.25, upper=2)
    assert isinstance(read.layers, LazyLayers)
    assert read.widths == network.widths
    assert read.edges == network.edges
    assert read.layers.keeps_zero
    assert same(read, network)
    assert not load_network(folder, bias=0.5, bias_rule="all").layers.keeps_zero
    save_network(read, tmp_path / "net.safetensors")
    assert same(load_network(tmp_path / "net.safetensors"), network)


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tgz", "tar.xz"])
def test_archives(tmp_path, network, ending):
    folder = save_network(network, tmp_path / "neuron8", gzip=ending == "tar")
    path = tmp_path / f"net.{ending}"
    with tarfile.open(path, "w:" + {"tar": "", "tar.gz": "gz", "tgz": "gz", "tar.xz": "xz"}[ending]) as archive:
        archive.add(folder, "neuron8")
    assert same(load_network(path, bias=-0.25, upper=2), network)
    assert len(load_network(path, bias=0, layers=2)) == 2
    with pytest.raises(InputError, match="missing: 4"):
        load_network(path, bias=0, layers=4)
    with pytest.raises(InputError, match="Expected a bias"):
        load_network(path)
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"no archive"):
        path.write_bytes(damaged)
        with pytest.raises(FileFormatError, match="tar archive"):
            load_network(path, bias=0)


def test_wrong_archives(tmp_path):
    def pack(*members: tuple[str, bytes]):
        with tarfile.open(tmp_path / "x.tar", "w") as archive:
            for name, text in members:
                info = tarfile.TarInfo(name)
                info.size = len(text)
                archive.addfile(info, io.BytesIO(text))
        return tmp_path / "x.tar"

    with pytest.raises(FileFormatError, match="got none"):
        load_network(pack(("readme", b"x")), bias=0)
    with pytest.raises(FileFormatError, match="second time"):
        load_network(pack(("a/n2-l1.tsv", b"1\t1\t1\n"), ("b/n2-l1.tsv", b"1\t1\t1\n")), bias=0)
    with pytest.raises(InputError, match="2, 3 neurons"):
        load_network(pack(("n2-l1.tsv", b"1\t1\t1\n"), ("n3-l1.tsv", b"1\t1\t1\n")), bias=0)
    with pytest.raises(FileFormatError, match=r"x\.tar/n2-l1\.tsv:1: .*'3'"):
        load_network(pack(("n2-l1.tsv", b"3\t1\t1\n")), bias=0)
    with pytest.raises(InputError, match="missing: 1, 2"):
        load_network(pack(("n2-l3.tsv", b"1\t1\t1\n")), bias=0)


def test_paths_that_are_no_networks(tmp_path):
    with pytest.raises(InputError, match="there is none"):
        load_network(tmp_path / "missing.tsv")
    (tmp_path / "n1024-l1.tvs").write_text("1\t1\t1\n")
    with pytest.raises(InputError, match=r"'\.tvs'. Did you mean '\.tsv'"):
        load_network(tmp_path / "n1024-l1.tvs")
    (tmp_path / "n1024-l1.tsv").write_text("1\t1\t1\n")
    with pytest.raises(InputError, match="file of one layer"):
        load_network(tmp_path / "n1024-l1.tsv", layers=2)
    for wrong in ({"layers": 0}, {"layers": -1}, {"layers": 1.5}, {"neurons": 0}, {"neurons": [4, -4]}):
        with pytest.raises(InputError, match="Expected a whole number"):
            load_network(tmp_path / "n1024-l1.tsv", **wrong)


def test_saving_refuses_what_a_format_cannot_hold(tmp_path, network):
    with pytest.raises(InputError, match="one layer"):
        save_network(network, tmp_path / "net.tsv")
    with pytest.raises(InputError, match="Did you mean 'safetensors'"):
        save_network(network, tmp_path / "net", format="safetensor")
    with pytest.raises(InputError, match=r"Did you mean '\.safetensors'"):
        save_network(network, tmp_path / "net.safetensor")
    with pytest.raises(InputError, match=r"format 'tsv'"):
        save_network(network, tmp_path / "net.safetensors", format="tsv")
    save_network(network, tmp_path / "net")
    with pytest.raises(InputError, match=r"n8-l2\.tsv"):
        save_network(SparseNetwork(network.layers[:1]), tmp_path / "net")
    save_network(network, tmp_path / "net")


def test_a_failing_writer_leaves_the_old_network(tmp_path, network, monkeypatch):
    path = save_network(network, tmp_path / "n.safetensors")
    before = path.read_bytes()

    def fail(tensors, name, metadata):
        name.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("safetensors.numpy.save_file", fail)
    with pytest.raises(KeyboardInterrupt):
        save_network(network, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["n.safetensors"]


def test_mat_layers(tmp_path):
    matrix = sparse.csc_matrix(np.array([[0.0, 2], [0.5, 0], [0, 1]]))
    path = tmp_path / "layer.mat"
    scipy.io.savemat(path, {"layersScaledj": matrix, "other": 3})
    assert mat.read_layer(path).weights.toarray().tolist() == matrix.toarray().tolist()
    scipy.io.savemat(path, {"W": matrix.toarray()})
    assert mat.read_layer(path).nnz == 3
    for variables, why in (
        ({"a": matrix, "b": matrix}, "'layersScaledj', or a single one, got: a, b"),
        ({}, "got: none"),
        ({"layersScaledj": "text"}, "matrix of real numbers"),
        ({"layersScaledj": {"a": 1}}, "matrix of real numbers"),
        ({"layersScaledj": np.ones((2, 2, 2))}, "Expected a matrix of any × any"),
        ({"layersScaledj": matrix * np.nan}, "finite"),
        ({"layersScaledj": matrix * 1j}, "real numbers"),
    ):
        scipy.io.savemat(path, variables)
        with pytest.raises(FileFormatError, match=why):
            mat.read_layer(path)
    scipy.io.savemat(path, {"layersScaledj": matrix})
    with pytest.raises(FileFormatError, match="Expected a matrix of 5 × any"):
        mat.read_layer(path, inputs=5)


def test_damaged_mat_files(tmp_path):
    path = tmp_path / "layer.mat"
    scipy.io.savemat(path, {"layersScaledj": sparse.eye(50, format="csc")})
    content = path.read_bytes()
    indices = content.index(np.arange(50, dtype=np.int32).tobytes())
    out_of_range = content[:indices] + np.full(50, 99, np.int32).tobytes() + content[indices + 200 :]
    hdf5 = b"MATLAB 7.3 MAT-file".ljust(512) + b"\x89HDF\r\n\x1a\n"
    for text, why in (
        (b"", "empty"),
        (content[:60], "can't be read"),
        (content[:-100], "can't be read"),
        (b"x" * 500, "can't be read"),
        (out_of_range, "valid sparse matrix"),
        (hdf5, r"version 7\.3 .*save\(\.\.\., '-v7'\)"),
    ):
        path.write_bytes(text)
        with pytest.raises(FileFormatError, match=why):
            mat.read_layer(path)


HEADER = "%%MatrixMarket matrix coordinate real general\n% a comment\n"


def test_matrix_market_forms(tmp_path):
    path = tmp_path / "layer.mtx"
    for text, expected in (
        (HEADER + "\n2 3 2\n1 3 0.5\n2 1 -1\n", [[0, 0, 0.5], [-1, 0, 0]]),
        (HEADER.replace("real", "integer") + "2 2 1\n2 1 7\n", [[0, 0], [7, 0]]),
        (HEADER.replace("real", "pattern") + "2 2 1\n2 1\n", [[0, 0], [1, 0]]),
        (HEADER.replace("general", "symmetric") + "2 2 2\n1 1 3\n2 1 5\n", [[3, 5], [5, 0]]),
        (HEADER.replace("general", "skew-symmetric") + "2 2 1\n2 1 5\n", [[0, -5], [5, 0]]),
        (HEADER.replace("coordinate", "array") + "2 2\n1\n0\n0.5\n4\n", [[1, 0.5], [0, 4]]),
        (HEADER + "2 2 0\n", [[0, 0], [0, 0]]),
    ):
        path.write_text(text)
        assert mtx.read_layer(path).weights.toarray().tolist() == expected


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("", 1, "starts with %%MatrixMarket"),
        ("1\t1\t1\n", 1, "starts with %%MatrixMarket"),
        ("%%MatrixMarket matrix coordinate complex general\n1 1 1\n1 1 1 1\n", 1, "got .*complex"),
        ("%%MatrixMarket matrix\n", 1, "coordinate|array"),
        (HEADER, 2, "got none"),
        (HEADER + "2 2\n", 3, "rows, columns and entries"),
        (HEADER + "-2 2 1\n", 3, "rows, columns and entries"),
        (HEADER + "2 2 5\n", 3, "fits 5 entries"),
        (HEADER + "2 2 2\n1 1 1\n", 4, "Expected 2 entries, got 1"),
        (HEADER + "2 2 1\n1 1 1\n1 2 1\n", 4, "Expected 1 entries, got 2"),
        (HEADER + "2 2 2\n1 1 1\n3 1 1\n", 5, "row ids from 1 to 2, got '3'"),
        (HEADER + "2 2 2\n1 1 1\n1 1 2\n", 5, "second time"),
        (HEADER + "2 2 1\n1 1 nan\n", 4, "finite value"),
        (HEADER.replace("general", "symmetric") + "2 2 1\n1 2 1\n", 4, "lower triangle"),
        (HEADER.replace("coordinate", "array") + "2 2\n1\n2\n", 5, "Expected 4 numbers, got 2"),
        (HEADER.replace("coordinate", "array") + "2 1\n1\n2\n3\n", 6, "Expected 2 numbers, got 3"),
        (HEADER.replace("coordinate", "array") + "2 1\n1\ntwo\n", 5, "Expected a number, got 'two'"),
        (HEADER.replace("coordinate", "array") + "2 1\n1\n2.5", 5, "cut off"),
        (HEADER.replace("coordinate", "array") + "2 1 2\n1\n2\n", 3, "rows and columns"),
        (HEADER.replace("coordinate", "array") + "99999999999 1\n1\n", 3, "at most 2147483647"),
        (HEADER.replace("coordinate", "array") + "2000000000 2000000000\n1\n", 4, "got 1"),
        (HEADER.replace("coordinate", "array") + "2 1\n1\nnan\n", None, "finite"),
        (HEADER.replace("coordinate", "array").replace("general", "symmetric") + "2 1\n1\n2\n", None, "square"),
    ],
)
def test_wrong_matrix_market_files(tmp_path, text, line, why):
    path = tmp_path / "layer.mtx"
    path.write_text(text)
    with pytest.raises(FileFormatError, match=why) as caught:
        mtx.read_layer(path)
    assert caught.value.line == line


@pytest.mark.parametrize("symmetry", ["general", "symmetric", "skew-symmetric"])
@pytest.mark.parametrize("rows", [1, 2, 7])
def test_matrix_market_arrays_are_those_of_scipy(tmp_path, symmetry, rows):
    dense = np.random.default_rng(rows).normal(size=(rows, 5 if symmetry == "general" else rows))
    if symmetry != "general":
        dense = dense + dense.T if symmetry == "symmetric" else dense - dense.T
    path = tmp_path / "array.mtx"
    with path.open("wb") as file:
        scipy.io.mmwrite(file, dense, comment="of numbers", symmetry=symmetry)
    found = mtx.read_features(path).to_dense(np.float64)
    np.testing.assert_array_equal(found, scipy.io.mmread(path))
    np.testing.assert_allclose(found, dense, rtol=1e-14)


def test_numba_is_imported_only_to_parse(tmp_path):
    check = "import sys, spdnn.io; assert 'numba' not in sys.modules; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)
