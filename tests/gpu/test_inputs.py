"""The challenge's inputs computed on the GPU are those computed on the CPU, and the official ones."""

from __future__ import annotations

import numpy as np
import pytest

from spdnn.data import challenge_gpu, digits, mnist
from spdnn.data.challenge_gpu import challenge_words_gpu
from spdnn.data.pixels import challenge_words
from spdnn.radixnet import CHALLENGE_NONZEROS


@pytest.mark.parametrize(("side", "n"), [(32, 150), (64, 37), (128, 9), (256, 3), (37, 5), (32, 1)])
def test_the_pixels_are_the_same(side, n):
    images, _ = digits(n, seed=side)
    np.testing.assert_array_equal(challenge_words_gpu(images, side), challenge_words(images, side))


def test_fewer_rows_are_the_first_rows_of_all(monkeypatch):
    monkeypatch.setattr(challenge_gpu, "_BLOCK_BYTES", 1 << 19)
    images, _ = digits(300)
    calls = []
    few = challenge_words_gpu(images, 32, rows=70, progress=lambda done, total: calls.append((done, total)))
    np.testing.assert_array_equal(few, challenge_words(images, 32)[:70])
    assert [done for done, _ in calls] == list(range(1, calls[-1][1] + 1))
    assert challenge_words_gpu(images, 32, rows=0).shape == (0, 16)


@pytest.mark.parametrize("neurons", CHALLENGE_NONZEROS)
def test_official_numbers_of_pixels(neurons, mnist_dir):
    words = challenge_gpu.try_gpu(mnist()[0], int(neurons**0.5))
    assert words is not None
    assert int(np.bitwise_count(words).sum(dtype=np.int64)) == CHALLENGE_NONZEROS[neurons]
