"""Random small changes of images: shift, turn, stretch, slant and bend. Runs on the device the images are on."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from ...errors import InputError


@dataclass(frozen=True)
class Augmentation:
    """The largest changes; uniform up to them but for `bend`.

    shift : pixels. turn : degrees. stretch, slant : fractions. bend : pixels, the standard deviation of a smooth random
    displacement (elastic distortion, after Simard, Steinkraus & Platt 2003). fade : the share of the training at
    whose end images are left as they are. share : images that are changed alike, which saves time on a CPU.
    """

    shift: float = 1.5
    turn: float = 10.0
    stretch: float = 0.1
    slant: float = 0.15
    bend: float = 1.0
    fade: float = 0.0
    share: int = 4

    def __post_init__(self) -> None:
        if (
            min(self.shift, self.turn, self.stretch, self.slant, self.bend, self.fade) < 0
            or self.stretch >= 1
            or self.share < 1
        ):
            raise InputError(f"Expected no negative changes, and stretch < 1, got {self}.")

    def scaled(self, factor: float) -> Augmentation:
        """All changes times a factor."""
        names = ("shift", "turn", "stretch", "slant", "bend")
        return replace(self, **{name: factor * getattr(self, name) for name in names})

    @property
    def off(self) -> bool:
        return not any((self.shift, self.turn, self.stretch, self.slant, self.bend))

    def __call__(self, images: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """images : float (n, height, width). Returns as many, each changed in its own way."""
        count, height, width = images.shape
        share = math.gcd(count, self.share)
        n, device = count // share, images.device

        def uniform(*shape: int) -> torch.Tensor:
            return torch.rand(n, *shape, device=device, generator=generator) * 2 - 1

        angle = uniform() * (self.turn * torch.pi / 180)
        cosine, sine = angle.cos(), angle.sin()
        tall, wide = (1 + self.stretch * uniform() for _ in range(2))
        slant = self.slant * uniform()
        matrix = torch.stack(
            [cosine * wide, (slant * cosine - sine) * tall, sine * wide, (slant * sine + cosine) * tall], 1
        ).view(n, 2, 2)
        rows = (torch.arange(height, device=device) * 2 + 1) / height - 1
        columns = (torch.arange(width, device=device) * 2 + 1) / width - 1
        points = torch.stack([columns.expand(height, width), rows[:, None].expand(height, width)], -1)
        where = (points.reshape(1, -1, 2) @ matrix.transpose(1, 2)).view(n, height, width, 2)
        moved = torch.stack([uniform() * (self.shift * 2 / width), uniform() * (self.shift * 2 / height)], 1)
        where = where + moved.view(n, 1, 1, 2)
        if self.bend:
            coarse = torch.randn(n, 2, 6, 6, device=device, generator=generator)
            smooth = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=True)
            where = where + torch.stack(
                [smooth[:, 0] * (3 * self.bend / width), smooth[:, 1] * (3 * self.bend / height)], -1
            )
        changed = F.grid_sample(images.view(n, share, height, width), where, align_corners=False)
        return changed.view(count, height, width)
