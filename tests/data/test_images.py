"""The challenge's inputs: the official pixels, the choice of source, the cache."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from spdnn.data import challenge_features, digits, images
from spdnn.data.pixels import challenge_words
from spdnn.engine import prepare
from spdnn.errors import FileFormatError, InputError, UnavailableError
from spdnn.radixnet import CHALLENGE_NONZEROS, challenge_network

WORDS_1024 = "69f31eec86f4a859def2738f8e71cca3898e7d109da52b1cf281a2ec8fab6211"


@pytest.fixture(scope="module")
def official(mnist_dir):
    return challenge_features(1024, source="mnist", cache=False)


def test_the_official_pixels_of_1024_neurons(official):
    assert official.shape == (60000, 1024)
    assert official.kind == "bits"
    assert official.nnz == CHALLENGE_NONZEROS[1024]
    assert hashlib.sha256(official.store.astype("<u8").tobytes()).hexdigest() == WORDS_1024
    assert official.labels is not None
    assert list(official.labels[:5]) == [5, 0, 4, 1, 9]
    assert official.name == "MNIST (official), 60000 × 1024"


@pytest.mark.parametrize("neurons", [4096, pytest.param(16384, marks=pytest.mark.slow)])
def test_the_official_number_of_pixels_of_larger_sizes(mnist_dir, neurons):
    assert challenge_features(neurons, source="mnist", cache=False).nnz == CHALLENGE_NONZEROS[neurons]


def test_the_official_categories_come_out(official, mnist_dir):
    expected = np.loadtxt(mnist_dir / "graphchallenge" / "neuron1024-l120-categories.tsv", dtype=np.int64)
    plan = prepare(challenge_network(1024, 120), rows=60000, engine="scipy")
    np.testing.assert_array_equal(plan.run(official).categories, expected)


@pytest.fixture
def small(offline, monkeypatch):
    """Data sets of 200 rows and no MNIST, so that computing takes no time; the cache folder."""
    monkeypatch.setattr(images, "CHALLENGE_ROWS", 200)
    return offline


def test_digits_stand_in_and_say_so(small):
    features = challenge_features(1024, cache=False)
    pictures, labels = digits(200)
    np.testing.assert_array_equal(features.store, challenge_words(pictures, 32))
    np.testing.assert_array_equal(features.labels, labels)
    assert features.name == "synthetic digits (not official), 200 × 1024"
    with pytest.raises(UnavailableError, match="SPDNN_DATA"):
        challenge_features(1024, source="mnist")


def test_a_damaged_mnist_is_an_error_and_not_replaced_by_digits(small):
    small.mkdir()
    (small / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03")
    with pytest.raises(FileFormatError, match="train-images"):
        challenge_features(1024)


def test_the_cache_gives_back_what_was_computed(small, monkeypatch):
    first = challenge_features(1024, source="digits", rows=50)
    assert [path.name for path in small.iterdir()] == ["challenge-digits-v1-1024.safetensors"]
    monkeypatch.setattr(images, "challenge_words", None)  # not computed again
    again = challenge_features(1024, source="digits")
    np.testing.assert_array_equal(again.store[:50], first.store)
    np.testing.assert_array_equal(again[:50].labels, first.labels)
    assert (first.shape, again.shape) == ((50, 1024), (200, 1024))


@pytest.mark.parametrize("damage", ["label", "pixel", "truncate", "empty", "foreign"])
def test_a_damaged_cache_file_is_named_and_left(small, damage):
    challenge_features(1024, source="digits")
    (path,) = small.iterdir()
    content = bytearray(path.read_bytes())
    if damage == "label":
        content[-5] ^= 1
    elif damage == "pixel":
        content[len(content) - 200 * 16 * 8 - 3] ^= 1
    else:
        content = {"truncate": content[:-100], "empty": b"", "foreign": b"something else" * 10}[damage]
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match="Delete it") as caught:
        challenge_features(1024, source="digits")
    assert str(path) in str(caught.value)
    assert path.read_bytes() == content


def test_a_cache_folder_that_cannot_be_made_is_named_with_the_way_out(small, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SPDNN_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(InputError, match="SPDNN_CACHE"):
        challenge_features(1024, source="digits")


def test_an_interrupted_computation_leaves_nothing(small, monkeypatch):
    def stop(*_) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        challenge_features(1024, source="digits", progress=stop)
    monkeypatch.setattr(images, "save_file", stop)
    with pytest.raises(KeyboardInterrupt):
        challenge_features(1024, source="digits")
    assert not small.exists() or list(small.iterdir()) == []


@pytest.mark.parametrize(
    ("neurons", "options", "message"),
    [
        (1000, {}, "1024, 4096, 16384 or 65536"),
        (1024, {"rows": -1}, "rows"),
        (1024, {"rows": 60001}, "rows"),
        (1024, {"source": "minst"}, "Did you mean 'mnist'"),
    ],
)
def test_bad_arguments_are_refused(offline, neurons, options, message):
    with pytest.raises(InputError, match=message):
        challenge_features(neurons, **options)
