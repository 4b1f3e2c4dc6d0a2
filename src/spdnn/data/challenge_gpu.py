"""`pixels.challenge_words` on an NVIDIA GPU, through CuPy: a second instead of minutes for the largest size.

The same two interpolations in double precision, with cuFFT for the long signals; the pixels are the same. What is
computed and why it is exact is told in `pixels`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from ..features import pack_bits
from .pixels import SIDE

_BLOCK_BYTES = 1 << 28  # of one block of pixels in float64; some four of them are alive at a time


def try_gpu(
    images: np.ndarray, side: int, *, rows: int | None = None, progress: Callable[[int, int], None] | None = None
) -> np.ndarray | None:
    """`challenge_words_gpu`, or None where there is no CuPy, no GPU, or too little room on it."""
    try:
        cupy: Any = importlib.import_module("cupy")
        if cupy.cuda.runtime.getDeviceCount() < 1:
            return None
        free = cupy.cuda.runtime.memGetInfo()[0]
    except Exception:
        return None
    if free < needed_bytes(len(images), side):
        return None
    try:
        return challenge_words_gpu(images, side, rows=rows, progress=progress)
    except (ImportError, MemoryError, RuntimeError):  # cuFFT or cuBLAS is missing; others use the GPU, too
        return None


def needed_bytes(images: int, side: int) -> int:
    """About what `challenge_words_gpu` takes on the device."""
    signals = 8 * SIDE * images * side
    transform = 6 * 8 * images * side
    return signals + transform + 5 * _BLOCK_BYTES


def challenge_words_gpu(
    images: np.ndarray, side: int, *, rows: int | None = None, progress: Callable[[int, int], None] | None = None
) -> np.ndarray:
    """As `pixels.challenge_words`: the same arguments, the same words."""
    cupy: Any = importlib.import_module("cupy")
    try:
        return _words(cupy, images, side, len(images) if rows is None else min(rows, len(images)), progress)
    finally:
        cupy.fft.config.get_plan_cache().clear()
        cupy.get_default_memory_pool().free_all_blocks()


def _words(
    cupy: Any, images: np.ndarray, side: int, rows: int, progress: Callable[[int, int], None] | None
) -> np.ndarray:
    n = len(images)
    words = np.zeros((rows, -(-side * side // 64)), np.uint64)
    if rows == 0:
        return words
    step = max(1, _BLOCK_BYTES // (8 * side * side))
    blocks = [(start, min(start + step, n)) for start in range(0, n, step)]
    wanted = [(start, min(stop, rows)) for start, stop in blocks if start < rows]
    total, done = SIDE + len(blocks) + len(wanted), 0

    def count() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total)

    signals = cupy.empty((SIDE, n * side))
    nyquist = cupy.empty(SIDE)
    for k in range(SIDE):
        signal = cupy.asarray(np.ascontiguousarray(images[:, k, :]).reshape(-1)).astype(cupy.float64)
        signals[k], nyquist[k] = _interpolate(cupy, signal, n * side)
        count()
    alternating = 1.0 - 2.0 * (cupy.arange(SIDE) % 2)
    sine = cupy.sin(np.pi * SIDE * cupy.arange(side) / side)
    unit = cupy.stack([_interpolate(cupy, row, side)[0] for row in cupy.eye(SIDE)])
    real = cupy.vstack([unit, -(alternating @ nyquist) * sine[None] / SIDE])
    imaginary = cupy.vstack([(nyquist @ unit)[None], sine[None] / SIDE])

    def power(start: int, stop: int) -> Any:
        block = signals[:, start * side : stop * side]
        u = cupy.tile(sine, stop - start)
        z = cupy.vstack([block, u[None]]).T @ real
        z *= z
        i = cupy.stack([u, alternating @ block]).T @ imaginary
        i *= i
        z += i
        return z.reshape(stop - start, side * side)

    top = 0.0
    for block in blocks:
        top = max(top, float(power(*block).max()))
        count()
    for start, stop in wanted:
        bits = power(start, stop) > top / 4
        if side * side % 64 == 0:
            octets = cupy.packbits(bits.reshape(-1), bitorder="little").get()
            words[start:stop] = octets.view("<u8").reshape(stop - start, -1)
        else:
            words[start:stop] = pack_bits(bits.get())
        count()
    return words


def _interpolate(cupy: Any, signal: Any, samples: int) -> tuple[Any, Any]:
    n = signal.size
    spectrum = cupy.fft.rfft(signal)
    spectrum *= samples / n
    nyquist = spectrum[-1].real / samples
    spectrum[-1] /= 2  # irfft adds the conjugate
    return cupy.fft.irfft(spectrum, samples), nyquist
