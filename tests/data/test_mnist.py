"""Where MNIST is looked for, and that it is checked."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from spdnn.data import mnist, read_idx
from spdnn.errors import FileFormatError, InputError, UnavailableError

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")


@pytest.mark.parametrize(("split", "rows"), [("train", 60000), ("test", 10000)])
def test_both_splits(mnist_dir, cache, split, rows):
    images, labels = mnist(split)
    assert images.shape == (rows, 28, 28)
    assert images.dtype == labels.dtype == np.uint8
    assert set(labels) == set(range(10))
    assert len(labels) == rows
    assert not cache.exists()


@pytest.mark.parametrize("place", ["folder", "cache"])
def test_plain_files_in_the_folder_itself_or_the_cache(mnist_dir, offline, tmp_path, monkeypatch, place):
    folder = offline if place == "cache" else tmp_path / "mine"
    folder.mkdir()
    for name in NAMES:
        (folder / name).write_bytes(gzip.decompress((mnist_dir / "mnist" / f"{name}.gz").read_bytes()))
    if place == "folder":
        monkeypatch.setenv("SPDNN_DATA", str(folder))
    images, labels = mnist()
    np.testing.assert_array_equal(images, read_idx(folder / NAMES[0]))
    np.testing.assert_array_equal(labels, read_idx(folder / NAMES[1]))


@pytest.mark.parametrize("place", ["folder", "cache"])
def test_a_file_with_the_wrong_hash_is_refused_and_left_alone(offline, tmp_path, monkeypatch, place):
    folder = offline if place == "cache" else tmp_path / "mine"
    folder.mkdir()
    path = folder / f"{NAMES[0]}.gz"
    content = gzip.compress(b"\0\0\x08\x03" + bytes(12))
    path.write_bytes(content)
    if place == "folder":
        monkeypatch.setenv("SPDNN_DATA", str(folder))
    with pytest.raises(FileFormatError, match="SHA-256 ba891046") as caught:
        mnist()
    assert str(path) in str(caught.value)
    assert path.read_bytes() == content


def test_the_offline_error_names_file_hash_path_and_variable(offline):
    with pytest.raises(UnavailableError) as caught:
        mnist()
    message = str(caught.value)
    for part in (f"{NAMES[0]}.gz", "SHA-256 440fcabf", str(offline / f"{NAMES[0]}.gz"), "SPDNN_DATA", "127.0.0.1"):
        assert part in message
    assert list(offline.iterdir()) == []


def test_a_folder_that_does_not_exist_is_named(offline, tmp_path, monkeypatch):
    monkeypatch.setenv("SPDNN_DATA", str(tmp_path / "gone"))
    with pytest.raises(InputError, match="gone"):
        mnist()


def test_unknown_splits_are_refused(offline):
    with pytest.raises(InputError, match=r"'trian'.*'train'"):
        mnist("trian")  # pyright: ignore[reportArgumentType]
