"""MNIST (LeCun, Cortes, Burges) from the user's folder, the cache or its public mirror, always checked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import FileFormatError, UnavailableError, unknown_name
from .folders import cache_folder, user_folder
from .idx import parse_idx, read_bytes

MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_TIMEOUT = 15  # seconds without an answer

Split = Literal["train", "test"]


@dataclass(frozen=True)
class _File:
    """sha256: of the IDX file itself; archive: of the .gz on the mirror."""

    name: str
    sha256: str
    archive: str


_FILES = {
    "train": (
        _File(
            "train-images-idx3-ubyte",
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        ),
        _File(
            "train-labels-idx1-ubyte",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        ),
    ),
    "test": (
        _File(
            "t10k-images-idx3-ubyte",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        ),
        _File(
            "t10k-labels-idx1-ubyte",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    ),
}


def mnist(split: Split = "train") -> tuple[np.ndarray, np.ndarray]:
    """MNIST's images, uint8 (n, 28, 28), and labels, uint8 (n,), in file order; n = 60000 (train) or 10000 (test).

    Each of the two IDX files, plain or .gz, is looked for in the folder SPDNN_DATA and its sub-folder `mnist`,
    then in the cache, and is else downloaded into the cache. Wherever it came from, its SHA-256 is checked.

    Raises
    ------
    InputError : an unknown split, or SPDNN_DATA is no folder.
    FileFormatError : a file is damaged or isn't MNIST's. It is left as it is.
    UnavailableError : a file is nowhere and can't be downloaded.
    """
    if split not in _FILES:
        raise unknown_name("MNIST split", str(split), _FILES)
    images, labels = (_read(file) for file in _FILES[split])
    return images, labels


def find_mnist() -> Path | None:
    """The folder MNIST's training images are in, or None where they would have to be downloaded."""
    path = _find(_FILES["train"][0])
    return None if path is None else path.parent


def _read(file: _File) -> np.ndarray:
    path = _find(file) or _download(file)
    content = read_bytes(path)
    found = hashlib.sha256(content).hexdigest()
    if found != file.sha256:
        raise FileFormatError(
            path,
            f"Expected MNIST's {file.name} with SHA-256 {file.sha256} (uncompressed), got {found}. "
            "Remove or replace this file.",
        )
    return parse_idx(content, path)


def _find(file: _File) -> Path | None:
    own = user_folder()
    folders = [cache_folder()] if own is None else [own, own / "mnist", cache_folder()]
    for folder in folders:
        for path in (folder / f"{file.name}.gz", folder / file.name):
            if path.is_file():
                return path
    return None


def _download(file: _File) -> Path:
    import pooch

    folder, name = cache_folder(), f"{file.name}.gz"
    try:
        download: Any = pooch.HTTPDownloader(timeout=_TIMEOUT)
        return Path(pooch.retrieve(MIRROR + name, f"sha256:{file.archive}", name, folder, downloader=download))
    except (OSError, ValueError) as error:
        raise UnavailableError(
            f"MNIST's {name} (SHA-256 {file.archive}) is neither in a folder named by SPDNN_DATA nor at "
            f"{folder / name}, and downloading {MIRROR}{name} failed: {_first_line(error)}. "
            "Put the file in a folder and set SPDNN_DATA to it."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(".")
