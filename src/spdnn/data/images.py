"""The challenge's inputs as Features, from MNIST or the synthetic digits, computed once and cached."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..errors import FileFormatError, InputError, UnavailableError, unknown_name
from ..features import Features
from ..io.atomic import atomic_write
from ..radixnet import CHALLENGE_NEURONS, CHALLENGE_ROWS
from . import challenge_gpu, synthetic
from .folders import cache_folder, user_folder
from .mnist_files import mnist
from .pixels import challenge_words

Source = Literal["auto", "mnist", "digits"]

_TITLES = {"mnist": "MNIST (official)", "digits": "synthetic digits (not official)"}
_VERSIONS = {"mnist": 1, "digits": synthetic.VERSION}


def challenge_features(
    neurons: int,
    *,
    source: Source = "auto",
    rows: int | None = None,
    cache: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Features:
    """The Graph Challenge's 60,000 input images at 1024, 4096, 16384 or 65536 pixels, bit-packed, with labels.

    source : ``"mnist"``, the official inputs, exact to the pixel; ``"digits"``, synthetic digits put through the
        same transform; ``"auto"``, MNIST where it can be had, else the digits. The name of the result says which.
    rows : only the first rows of those 60,000 (the transform still is that of all); None for all.
    cache : keep the pixels in the cache folder (SPDNN_CACHE; 128 to 8192 bytes a row), and read them from there.
    progress : called with (steps done, steps in all) while pixels are computed.

    Computing takes about 13.5 MB of memory per unit of the images' side, 3.5 GB for 65536 pixels. With CuPy and room
    for it on a GPU, it takes about as much there, and a second instead of minutes; the pixels are the same.

    Raises
    ------
    InputError : another number of neurons, an unknown source, rows out of range, a cache that can't be written.
    UnavailableError : ``source="mnist"`` and MNIST can't be had.
    FileFormatError : a damaged MNIST or cache file; it is left as it is.
    """
    if neurons not in CHALLENGE_NEURONS:
        raise InputError(f"Expected 1024, 4096, 16384 or 65536 neurons, got {neurons!r}.")
    if rows is not None and not 0 <= rows <= CHALLENGE_ROWS:
        raise InputError(f"Expected rows in 0..{CHALLENGE_ROWS}, got {rows}.")
    user_folder()  # a misspelt SPDNN_DATA is said even where the cache has the pixels: it may hold categories too
    if source == "auto":
        try:
            return challenge_features(neurons, source="mnist", rows=rows, cache=cache, progress=progress)
        except UnavailableError:
            source = "digits"
    if source not in _TITLES:
        raise unknown_name("source", str(source), ["auto", *_TITLES])

    path = cache_folder() / f"challenge-{source}-v{_VERSIONS[source]}-{neurons}.safetensors"
    if cache and path.exists():
        words, labels = _load(path, neurons)
    else:
        images, labels = mnist() if source == "mnist" else synthetic.digits(CHALLENGE_ROWS)
        side = int(neurons**0.5)
        wanted = None if cache else rows
        words = challenge_gpu.try_gpu(images, side, rows=wanted, progress=progress)
        if words is None:
            words = challenge_words(images, side, rows=wanted, progress=progress)
        if cache:
            _save(path, words, labels)
    name = f"{_TITLES[source]}, {CHALLENGE_ROWS if rows is None else rows} × {neurons}"
    return Features.from_bits(words[:rows], neurons, labels=labels[:rows], name=name)


def _save(path: Path, words: np.ndarray, labels: np.ndarray) -> None:
    try:
        with atomic_write(path) as temporary:
            save_file({"words": words, "labels": labels}, temporary, {"sha256": _checksum(words, labels)})
    except InputError as error:
        raise InputError(f"{error} Set SPDNN_CACHE to a folder that can be written to.") from error


def _load(path: Path, neurons: int) -> tuple[np.ndarray, np.ndarray]:
    try:
        with safe_open(path, framework="numpy") as file:
            words, labels = file.get_tensor("words"), file.get_tensor("labels")
            expected = (file.metadata() or {}).get("sha256")
    except (SafetensorError, OSError) as error:
        raise FileFormatError(
            path, f"This cache file is damaged ({error}). Delete it; it will be made anew."
        ) from error
    if words.shape != (CHALLENGE_ROWS, neurons // 64) or _checksum(words, labels) != expected:
        raise FileFormatError(path, "This cache file is damaged (wrong checksum). Delete it; it will be made anew.")
    return words, labels


def _checksum(words: np.ndarray, labels: np.ndarray) -> str:
    """SHA-256 of the types, shapes and little-endian bytes."""
    digest = hashlib.sha256()
    for array in (words, labels):
        array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        digest.update(json.dumps([array.dtype.str, array.shape]).encode())
        digest.update(array.data)
    return digest.hexdigest()
