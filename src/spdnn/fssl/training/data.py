"""Labelled images for training: MNIST, a folder of IDX files, or the program's own digits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ...errors import InputError, UnavailableError

HELD_OUT = 5000
"""Training images held out to choose hyperparameters by: the last ones of the training set."""


@dataclass(frozen=True, eq=False)
class ImageData:
    """Images as uint8 (n, side, side) and labels as int64 (n,), split three ways. `name` is that of the data set."""

    name: str
    train: tuple[torch.Tensor, torch.Tensor]
    held_out: tuple[torch.Tensor, torch.Tensor]
    test: tuple[torch.Tensor, torch.Tensor]
    classes: int

    @property
    def side(self) -> tuple[int, int]:
        height, width = self.train[0].shape[1:]
        return height, width

    @property
    def inputs(self) -> int:
        return self.side[0] * self.side[1]

    def to(self, device: str | torch.device) -> ImageData:
        splits = {name: tuple(t.to(device) for t in getattr(self, name)) for name in ("train", "held_out", "test")}
        return replace(self, **splits)

    def padded(self, side: int) -> ImageData:
        """With a border of zeros around, to side × side."""
        height, width = self.side
        if side < max(height, width):
            raise InputError(f"Expected a side of at least {max(height, width)}, got {side}.")
        top, left = (side - height) // 2, (side - width) // 2
        border = (left, side - width - left, top, side - height - top)
        splits = {}
        for name in ("train", "held_out", "test"):
            images, labels = getattr(self, name)
            splits[name] = (F.pad(images, border), labels)
        return replace(self, **splits)

    def first(self, rows: int) -> ImageData:
        """Only the first rows of each split."""
        splits = {n: tuple(t[:rows] for t in getattr(self, n)) for n in ("train", "held_out", "test")}
        return replace(self, **splits)


def load_images(name: str = "auto", *, held_out: int | None = None, seed: int = 0) -> ImageData:
    """A data set by its name: "mnist", "digits" (synthetic, seeded), "auto" (MNIST if there is any), or a folder of
    IDX files named `train-images…`, `train-labels…`, `t10k-images…` (or `test-…`), `t10k-labels…`, plain or .gz.

    held_out : training images to hold out, the last ones; 5,000 by default, a tenth of smaller sets.
    Raises InputError, FileFormatError, UnavailableError.
    """
    from ...data import digits, mnist

    if name == "auto":
        try:
            return load_images("mnist", held_out=held_out)
        except UnavailableError:
            return load_images("digits", held_out=held_out, seed=seed)
    if name == "mnist":
        train, test = mnist("train"), mnist("test")
    elif name == "digits":
        images, labels = digits(70000, seed=seed)
        train, test = (images[:60000], labels[:60000]), (images[60000:], labels[60000:])
    else:
        train, test = _from_folder(Path(name))
        name = Path(name).name
    count = len(train[0])
    if held_out is None:
        held_out = min(HELD_OUT, count // 10)
    if not 0 < held_out < count:
        raise InputError(f"Expected to hold out 1 to {count - 1} images, got {held_out}.")
    cut = count - held_out
    (images, labels), (test_images, test_labels) = (_tensors(*pair) for pair in (train, test))
    classes = int(max(labels.max(), test_labels.max())) + 1
    kept = (images[:cut], labels[:cut]), (images[cut:], labels[cut:]), (test_images, test_labels)
    return ImageData(name, *kept, classes)


def _from_folder(folder: Path) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    from ...data import read_idx

    if not folder.is_dir():
        raise InputError(f"Expected a data set (auto, mnist, digits) or a folder of IDX files, got {folder}.")

    def find(*starts: str) -> np.ndarray:
        found = sorted(p for p in folder.iterdir() if p.name.startswith(starts) and p.is_file())
        if not found:
            raise InputError(f"Expected a file {' or '.join(f'{s}*' for s in starts)} in {folder}, found none.")
        return read_idx(found[0])

    train = find("train-images"), find("train-labels")
    test = find("t10k-images", "test-images"), find("t10k-labels", "test-labels")
    for images, labels in (train, test):
        if images.ndim != 3 or images.dtype != np.uint8 or labels.shape != (len(images),):
            raise InputError(
                f"Expected images as uint8 (n, height, width) and n labels in {folder}, "
                f"got {images.dtype} {images.shape} and {labels.shape}."
            )
    if train[0].shape[1:] != test[0].shape[1:]:
        raise InputError(f"Expected training and test images of one size, got {train[0].shape} and {test[0].shape}.")
    return train, test


def _tensors(images: np.ndarray, labels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(labels.astype(np.int64))
