"""The official file sets: right names, right bytes, resumable, nothing half-written."""

from __future__ import annotations

import os
import tarfile

import numpy as np
import pytest

from spdnn import Features, InputError, SparseLayer, SparseNetwork, challenge_network, load_features, load_network
from spdnn.generate import generate_categories, generate_images, generate_network
from spdnn.io import load_categories


@pytest.fixture
def images() -> Features:
    random = np.random.default_rng(0)
    dense = random.random((9000, 1024)) < 0.02
    dense[-1, -1] = True
    return Features.from_bool(dense)


@pytest.mark.parametrize("gzip", [False, True])
def test_images(tmp_path, images, gzip):
    seen = []
    path = generate_images(images, tmp_path, gzip=gzip, progress=lambda done, of: seen.append((done, of)))
    assert path == tmp_path / ("sparse-images-1024.tsv" + ".gz" * gzip)
    assert seen[-1] == (9000, 9000)
    read = load_features(path)
    assert read.shape == (9000, 1024)
    assert np.array_equal(read.to_bits(), images.to_bits())
    if not gzip:
        rows, columns = np.nonzero(images.to_dense())
        lines = [f"{i + 1}\t{j + 1}\t1" for i, j in zip(rows.tolist(), columns.tolist(), strict=True)]
        assert path.read_text() == "\n".join(lines) + "\n"


@pytest.mark.parametrize("gzip", [False, True])
def test_images_are_kept_only_if_they_are_the_same(tmp_path, images, gzip):
    path = generate_images(images, tmp_path, gzip=gzip)
    content, first = path.read_bytes(), path.stat().st_ino
    generate_images(images, tmp_path, gzip=gzip)
    assert path.stat().st_ino == first
    generate_images(images, tmp_path, gzip=gzip, resume=False)
    assert path.stat().st_ino != first
    for damaged in (b"", content[:-5], content[:3000] + b"9" + content[3001:], content + b"1\t1\t1\n"):
        path.write_bytes(damaged)
        generate_images(images, tmp_path, gzip=gzip)
        assert path.read_bytes() == content


def test_an_interrupted_run_leaves_nothing_half_written(tmp_path, images):
    def interrupt(done, of):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_images(images, tmp_path, progress=interrupt)
    assert os.listdir(tmp_path) == []
    with pytest.raises(KeyboardInterrupt):
        generate_network(challenge_network(1024, 120), tmp_path, progress=interrupt)
    assert os.listdir(tmp_path / "neuron1024") == ["n1024-l1.tsv"]


def test_the_official_network_byte_for_byte(tmp_path, mnist_dir):
    network = SparseNetwork([challenge_network(1024, 120).layers[k] for k in range(14)])
    folder = generate_network(network, tmp_path)
    assert folder == tmp_path / "neuron1024"
    assert len(os.listdir(folder)) == 14
    compared = 0
    with tarfile.open(mnist_dir / "graphchallenge" / "neuron1024-l1-l120.tar.xz") as archive:
        for member in archive:
            ours = tmp_path / member.name
            if member.isfile() and ours.exists():
                assert ours.read_bytes() == archive.extractfile(member).read(), member.name
                compared += 1
    assert compared == 14
    assert load_network(tmp_path).layers[13].bias == -0.3


def test_a_network_goes_on_where_it_stopped(tmp_path):
    network = SparseNetwork([SparseLayer.from_matrix(np.eye(5) * (k + 1)) for k in range(4)])
    folder = generate_network(network, tmp_path)
    files = [folder / f"n5-l{k}.tsv" for k in (1, 2, 3, 4)]
    content, before = [f.read_bytes() for f in files], [f.stat().st_ino for f in files]
    files[1].write_bytes(content[1][:-3])
    files[2].unlink()
    files[3].write_bytes(content[0])
    seen = []
    generate_network(network, tmp_path, progress=lambda done, of: seen.append((done, of)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [f.read_bytes() for f in files] == content
    assert files[0].stat().st_ino == before[0]
    packed = generate_network(network, tmp_path / "packed", gzip=True)
    assert sorted(os.listdir(packed)) == [f"n5-l{k}.tsv.gz" for k in (1, 2, 3, 4)]
    assert (load_network(packed, bias=0).layers[3].data == 4).all()


def test_categories(tmp_path):
    path = generate_categories(np.array([4, 2]), 1024, 120, tmp_path)
    assert path == tmp_path / "neuron1024-l120-categories.tsv"
    assert path.read_text() == "2\n4\n"
    assert load_categories(path).tolist() == [2, 4]


def test_what_cannot_be_written(tmp_path, images):
    with pytest.raises(InputError, match="nothing to write"):
        generate_images(Features.from_bool(np.zeros((3, 16))), tmp_path)
    with pytest.raises(InputError, match="same number of neurons"):
        generate_network(SparseNetwork([SparseLayer.from_matrix(np.ones((2, 3)))]), tmp_path)
    with pytest.raises(InputError, match="with weights"):
        generate_network(SparseNetwork([SparseLayer.from_matrix(np.zeros((3, 3)))]), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="Can't write"):
        generate_images(images, tmp_path / "file")
