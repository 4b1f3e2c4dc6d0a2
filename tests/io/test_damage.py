"""Whatever is done to the bytes of a file, reading it works or raises InputError; nothing else, no crash."""

from __future__ import annotations

import contextlib
import tarfile
import warnings

import numpy as np
import pytest

from spdnn import Features, InputError, SparseLayer, SparseNetwork, load_features, load_network

from spdnn import save_features, save_network  # isort: skip

FILES = ("n.safetensors", "n.mat", "packed.mat", "n.mtx", "n.tsv", "n.tsv.gz", "n.tar.gz", "x.npy", "x.safetensors")


def write(folder, name):
    random = np.random.default_rng(0)
    dense = random.normal(size=(20, 20)) * (random.random((20, 20)) < 0.3)
    path = folder / name
    network = SparseNetwork([SparseLayer.from_matrix(dense)])
    if name.startswith("x"):
        return save_features(Features.from_dense(dense), path)
    if name != "n.tar.gz":
        return save_network(network, path, gzip=name == "packed.mat")
    layers = save_network(network, folder / "layers")
    with tarfile.open(path, "w:gz") as archive:
        archive.add(layers, "layers")
    return path


@pytest.mark.parametrize("name", FILES)
def test_damaged_bytes(tmp_path, name):
    path = write(tmp_path, name)
    good = path.read_bytes()
    random = np.random.default_rng(1)

    def read():
        if name.startswith("x"):
            return load_features(path)
        return load_network(path) if name == "n.safetensors" else load_network(path, bias=0.0)

    read()
    for k in range(200):
        text = bytearray(good)
        for place in random.integers(0, min(len(good), 300) if k % 2 else len(good), 3):
            text[place] = random.integers(0, 256)
        if k % 5 == 0:
            text = text[: random.integers(0, len(text))]
        path.write_bytes(text)
        with contextlib.suppress(InputError), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            read()
