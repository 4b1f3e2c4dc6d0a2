"""Images that a small network learns in a second."""

from __future__ import annotations

import torch

from spdnn.fssl.training import ImageData


def stripes() -> ImageData:
    """240 images of 6 × 6 in three classes: which two rows are bright."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (240,), generator=generator)
    images = torch.randint(0, 60, (240, 6, 6), generator=generator, dtype=torch.uint8)
    for k in range(3):
        images[labels == k, 2 * k : 2 * k + 2] += 150
    parts = [(images[a:b], labels[a:b]) for a, b in ((0, 160), (160, 200), (200, 240))]
    return ImageData("stripes", *parts, 3)
