"""The Graph Challenge's input pixels from 28 × 28 images: interpolation and threshold, exact to the pixel.

The official pixels come from two Fourier interpolations: every image along its rows' axis, 28 to s samples,
then all images side by side, as s long signals, along the columns' axis; each keeps the Nyquist coefficient
whole on the negative side, which makes the result complex. A pixel is 1 where its absolute value exceeds half
of the largest one.

Both steps are linear and commute, so the long signals are interpolated first, while there are only 28 of them
and real. The Nyquist coefficient of a real signal x of n samples is the real number c = Σ (−1)^k x_k; kept on
the negative side it contributes (c/n)·(cos − i·sin)(π n t / m) to sample t of m. So either interpolation is
a real one minus i times a known sine, and a block of pixels takes two small real products:

    Re z = D a − v (w·b) u        Im z = −(v (w·a) + (D b) u)

with a the 28 interpolated signals, b their c/n, u and v the two sines, w = (−1)^k and D the real interpolation
of one column. The sines repeat with every image, since each has a whole number of their periods.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from scipy import fft

from ..features import pack_bits

SIDE = 28
_FFT_THREADS = 8  # each transform takes up to 300 MB
_BLOCK_BYTES = 1 << 20  # of one block of pixels in float64: stays in a core's cache


def challenge_words(
    images: np.ndarray, side: int, *, rows: int | None = None, progress: Callable[[int, int], None] | None = None
) -> np.ndarray:
    """The challenge's pixels of all images, or of the first `rows`, bit-packed.

    images : uint8 (n, 28, 28), in the order of the data set: neighbours ring into each other. side : s > 28.
    progress : called with (steps done, steps in all) from time to time.

    Returns uint64 (rows, ceil(s² / 64)) as `Features.from_bits` reads them; pixel (row, column) is number
    column·s + row. Takes about 8·28·s·n bytes.
    """
    n = len(images)
    rows = n if rows is None else min(rows, n)
    words = np.zeros((rows, -(-side * side // 64)), np.uint64)
    if rows == 0:
        return words
    step = max(1, _BLOCK_BYTES // (8 * side * side))
    blocks = [(start, min(start + step, n)) for start in range(0, n, step)]
    wanted = [(start, min(stop, rows)) for start, stop in blocks if start < rows]
    total = SIDE + len(blocks) + len(wanted)
    done = 0

    def count(items: Iterable[Any]) -> Iterator[Any]:
        nonlocal done
        for item in items:
            done += 1
            if progress:
                progress(done, total)
            yield item

    with _pool(_FFT_THREADS) as pool:
        signals = np.empty((SIDE, n * side))
        nyquist = np.empty(SIDE)

        def widen(k: int) -> None:
            signals[k], nyquist[k] = _interpolate(images[:, k, :].reshape(-1), n * side)

        for _ in count(pool.map(widen, range(SIDE))):
            pass
    power = _Power(signals, nyquist, side)
    with _pool(os.cpu_count() or 1) as pool:
        top = max(count(pool.map(lambda block: float(power(*block).max()), blocks)))

        def threshold(block: tuple[int, int]) -> None:
            words[slice(*block)] = pack_bits(power(*block) > top / 4)

        for _ in count(pool.map(threshold, wanted)):
            pass
    return words


@contextlib.contextmanager
def _pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that, after an exception or Ctrl-C, don't first finish what is waiting."""
    pool = ThreadPoolExecutor(min(threads, os.cpu_count() or 1))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _interpolate(signal: np.ndarray, samples: int) -> tuple[np.ndarray, float]:
    """The real part of the Fourier interpolation of a real signal of even length, and c/n of its Nyquist term."""
    n = signal.size
    spectrum = np.asarray(fft.rfft(signal.astype(np.float64)))
    spectrum *= samples / n
    nyquist = spectrum[-1].real / samples
    spectrum[-1] /= 2  # irfft adds the conjugate
    return np.asarray(fft.irfft(spectrum, samples, overwrite_x=True)), nyquist


class _Power:
    """|z|² of the pixels of images start … stop − 1, float64 (images, s²)."""

    def __init__(self, signals: np.ndarray, nyquist: np.ndarray, side: int):
        self._signals, self._side = signals, side
        alternating = 1.0 - 2.0 * (np.arange(SIDE) % 2)
        sine = np.sin(np.pi * SIDE * np.arange(side) / side)
        interpolation = np.array([_interpolate(unit, side)[0] for unit in np.eye(SIDE)])
        # the factors to be multiplied with the block's rows: 28 signals, u, w·a
        self._sine, self._alternating = sine, alternating
        self._real = np.vstack([interpolation, -(alternating @ nyquist) * sine / SIDE])
        self._imaginary = np.vstack([nyquist @ interpolation, sine / SIDE])

    def __call__(self, start: int, stop: int) -> np.ndarray:
        images = stop - start
        block = np.empty((SIDE + 2, images * self._side))
        block[:SIDE] = self._signals[:, start * self._side : stop * self._side]
        block[SIDE].reshape(images, -1)[:] = self._sine
        np.matmul(self._alternating, block[:SIDE], out=block[SIDE + 1])
        real = block[: SIDE + 1].T @ self._real
        imaginary = block[SIDE:].T @ self._imaginary
        real *= real
        imaginary *= imaginary
        real += imaginary
        return real.reshape(images, -1)
