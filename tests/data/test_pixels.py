"""The fast pixel algorithm against the definition."""

from __future__ import annotations

import numpy as np
import pytest

from spdnn.data import digits
from spdnn.data.pixels import challenge_words
from spdnn.features import unpack_bits


def interpolate(x: np.ndarray, samples: int) -> np.ndarray:
    """Complex Fourier interpolation along the last axis, the Nyquist coefficient whole on the negative side."""
    n = x.shape[-1]
    spectrum = np.fft.fft(x)
    wide = np.zeros((*x.shape[:-1], samples), complex)
    wide[..., : n // 2] = spectrum[..., : n // 2]
    wide[..., samples - n // 2 :] = spectrum[..., n // 2 :]
    return np.fft.ifft(wide) * (samples / n)


def by_definition(images: np.ndarray, side: int) -> np.ndarray:
    """bool (n, side²), step by step as the data set's description says."""
    n = len(images)
    tall = interpolate(images.astype(float).swapaxes(1, 2), side)  # image, column, row
    signals = tall.transpose(2, 0, 1).reshape(side, 28 * n)
    level = np.abs(interpolate(signals, side * n))  # row, image·side + column
    pixels = level > level.max() / 2
    return pixels.reshape(side, n, side).transpose(1, 2, 0).reshape(n, side * side)


@pytest.mark.parametrize(("side", "n"), [(32, 150), (64, 37), (128, 9), (256, 3), (37, 5), (32, 1)])
def test_the_fast_algorithm_equals_the_definition(side, n):
    images, _ = digits(n, seed=side)
    expected = by_definition(images, side)
    words = challenge_words(images, side)
    np.testing.assert_array_equal(unpack_bits(words, side * side), expected)
    assert 0.02 < expected.mean() < 0.5


@pytest.mark.parametrize("side", [32, 64])
def test_images_with_strong_nyquist_terms_equal_the_definition(side):
    random = np.random.default_rng(side)
    stripes = 255 * (np.arange(28)[:, None] + np.arange(28)) % 2
    images = (stripes * 200 + random.integers(55, size=(20, 28, 28))).astype(np.uint8)
    images[::2] = np.where(np.arange(28)[:, None] % 2, images[::2], images[::2] // 3)
    words = challenge_words(images, side)
    np.testing.assert_array_equal(unpack_bits(words, side * side), by_definition(images, side))


def test_fewer_rows_are_the_first_rows_of_all():
    images, _ = digits(300)
    calls = []
    few = challenge_words(images, 32, rows=7, progress=lambda done, total: calls.append((done, total)))
    np.testing.assert_array_equal(few, challenge_words(images, 32)[:7])
    assert [done for done, _ in calls] == list(range(1, calls[-1][1] + 1))
    assert challenge_words(images, 32, rows=0).shape == (0, 16)


def test_an_exception_in_progress_ends_the_computation():
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        challenge_words(digits(300)[0], 32, progress=stop)
