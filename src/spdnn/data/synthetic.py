"""Synthetic handwritten digits, drawn by the program: the stand-in where MNIST can't be had."""

from __future__ import annotations

import numpy as np

from ..errors import InputError

VERSION = 1
"""Raise it with any change to what is drawn: computed inputs are cached under it."""

_SIDE = 28
_CHUNK = 256  # images drawn at a time
_STROKES: tuple[tuple[tuple[float, float], ...], ...] = (
    ((0.5, 0), (0.8, 0.12), (0.92, 0.5), (0.8, 0.88), (0.5, 1), (0.2, 0.88), (0.08, 0.5), (0.2, 0.12), (0.5, 0)),
    ((0.3, 0.2), (0.55, 0), (0.55, 1)),
    ((0.1, 0.25), (0.3, 0.03), (0.65, 0), (0.88, 0.22), (0.75, 0.5), (0.1, 1), (0.92, 1)),
    ((0.12, 0.1), (0.5, 0), (0.85, 0.2), (0.7, 0.44), (0.4, 0.48), (0.8, 0.55), (0.92, 0.78), (0.6, 1), (0.1, 0.9)),
    ((0.65, 1), (0.65, 0), (0.08, 0.68), (0.95, 0.68)),
    ((0.88, 0), (0.2, 0), (0.15, 0.45), (0.6, 0.4), (0.9, 0.65), (0.75, 0.93), (0.4, 1), (0.08, 0.88)),
    (
        (0.75, 0),
        (0.35, 0.25),
        (0.1, 0.65),
        (0.25, 0.95),
        (0.6, 1),
        (0.88, 0.78),
        (0.7, 0.52),
        (0.35, 0.52),
        (0.12, 0.72),
    ),
    ((0.08, 0), (0.92, 0), (0.4, 1)),
    ((0.5, 0.47), (0.18, 0.25), (0.5, 0), (0.82, 0.25), (0.5, 0.47), (0.1, 0.75), (0.5, 1), (0.9, 0.75), (0.5, 0.47)),
    ((0.88, 0.28), (0.6, 0.5), (0.2, 0.42), (0.12, 0.15), (0.5, 0), (0.85, 0.12), (0.88, 0.28), (0.8, 0.65), (0.6, 1)),
)
"""Each digit as one line through points (x, y), y downwards, in the unit square."""
_POINTS = max(map(len, _STROKES))


def digits(rows: int = 60000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 (rows, 28, 28), and labels, uint8 (rows,), of digits with random shape, pen and placing.

    Every digit is one line whose points are shifted at random, put through a random affine map (size, slant,
    rotation, place) and drawn with a pen of random width and unsteady ink. The same seed draws the same pixels
    on every machine, and fewer rows are the beginning of more: only operations that IEEE 754 rounds exactly
    are used, element by element.

    Raises InputError for a negative number of rows or seed.
    """
    if rows < 0 or seed < 0:
        raise InputError(f"Expected rows and seed >= 0, got {rows} and {seed}.")
    of_label, of_shape, of_ink = (np.random.default_rng([seed, stream]) for stream in range(3))
    labels = of_label.integers(10, size=rows, dtype=np.int64).astype(np.uint8)
    shape = of_shape.random((rows, 7 + 2 * _POINTS), np.float32) * 2 - 1  # uniform in -1..1
    images = np.empty((rows, _SIDE, _SIDE), np.uint8)
    for start in range(0, rows, 16 * _CHUNK):
        stop = min(start + 16 * _CHUNK, rows)
        ink = of_ink.integers(256, size=(stop - start, _SIDE, _SIDE), dtype=np.uint8)
        for digit, stroke in enumerate(_STROKES):
            chosen = np.flatnonzero(labels[start:stop] == digit)
            for part in range(0, chosen.size, _CHUNK):
                some = chosen[part : part + _CHUNK]
                images[start + some] = _draw(np.array(stroke, np.float32), shape[start + some], ink[some])
    return images, labels


def _draw(stroke: np.ndarray, shape: np.ndarray, ink: np.ndarray) -> np.ndarray:
    """uint8 (n, 28, 28): one digit n times. `shape`: float32 (n, 7 + 2·points) in −1..1, `ink`: uint8 (n, 28, 28)."""
    width, height, slant, turn, right, down, pen = (shape[:, k : k + 1] for k in range(7))
    jitter = shape[:, 7:].reshape(-1, 2, _POINTS)[:, :, : len(stroke)]
    f = np.float32
    x = (stroke[:, 0] - f(0.5) + f(0.06) * jitter[:, 0]) * (f(13) + f(3) * width)
    y = (stroke[:, 1] - f(0.5) + f(0.05) * jitter[:, 1]) * (f(18.5) + f(1.5) * height)
    x = x - f(0.25) * slant * y
    t = f(0.12) * turn  # tan of half the angle
    cosine, sine = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
    x, y = cosine * x - sine * y, sine * x + cosine * y
    x = x + f(13.5) + f(1.5) * right
    y = y + f(13.5) + f(1.5) * down

    rows = np.arange(_SIDE, dtype=f)[:, None]
    columns = np.arange(_SIDE, dtype=f)
    nearest = np.full(ink.shape, np.inf, f)
    for k in range(len(stroke) - 1):
        ax, ay, ex, ey = (v[:, None, None] for v in (x[:, k], y[:, k], x[:, k + 1] - x[:, k], y[:, k + 1] - y[:, k]))
        length = np.maximum(ex * ex + ey * ey, f(1e-6))
        px, py = columns - ax, rows - ay
        along = np.clip(px * (ex / length) + py * (ey / length), 0, 1)
        dx, dy = px - along * ex, py - along * ey
        np.minimum(nearest, dx * dx + dy * dy, out=nearest)
    edge = f(1.9) + f(0.5) * pen[:, :, None]
    level = np.clip((edge - np.sqrt(nearest)) * f(200), 0, 255)
    return (level * (1 - ink * f(0.0008))).astype(np.uint8)
