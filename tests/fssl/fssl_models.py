"""Networks to compact: named ones, and random graphs of linear layers, norms, activations, sums and shared layers."""

from __future__ import annotations

import itertools

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

ACTIVATIONS = [nn.ReLU, nn.LeakyReLU, nn.Sigmoid, nn.Softplus, nn.GELU, nn.Tanh, nn.Identity]


def mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class RandomNetwork(nn.Module):
    """A network drawn from a seed. `plan` lists its blocks; widths are kept equal where values are joined."""

    def __init__(self, seed: int):
        super().__init__()
        rng = np.random.default_rng(seed)
        torch.manual_seed(seed)
        self.image = bool(rng.integers(2))
        self.inputs = int(rng.integers(2, 5)) ** 2
        width = self.inputs
        self.plan: list[tuple[str, int]] = []
        self.layers, self.norms, self.acts = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.drop = nn.Dropout(0.3)
        for _ in range(int(rng.integers(2, 6))):
            kind = str(rng.choice(["linear", "residual", "shared", "norm", "function", "gate"]))
            if kind == "linear":
                new = int(rng.integers(2, 9))
                self.layers.append(nn.Linear(width, new, bias=bool(rng.integers(2))))
                width = new
            elif kind in ("residual", "shared", "gate"):
                self.layers.append(nn.Linear(width, width))
            elif kind == "norm":
                self.norms.append(nn.BatchNorm1d(width, affine=bool(rng.integers(2))))
            self.acts.append(ACTIVATIONS[rng.integers(len(ACTIVATIONS))]())
            self.plan.append((kind, len(self.acts) - 1))
        self.head = nn.Linear(width, 3)
        with torch.no_grad():
            for norm in self.norms:
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2)
                if norm.affine:
                    norm.weight.normal_()
                    norm.bias.normal_()

    def example(self, batch: int = 5) -> torch.Tensor:
        side = int(self.inputs**0.5)
        return torch.randn((batch, 1, side, side) if self.image else (batch, self.inputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.image:
            x = x.view(x.size(0), -1)
        layers, norms = iter(self.layers), iter(self.norms)
        for kind, act in self.plan:
            if kind == "linear":
                x = self.acts[act](next(layers)(x))
            elif kind == "residual":
                x = x + self.acts[act](next(layers)(x))
            elif kind == "shared":
                layer = next(layers)
                x = self.acts[act](layer(self.acts[act](layer(x))))
            elif kind == "norm":
                x = self.drop(next(norms)(x))
            elif kind == "gate":
                x = x * torch.sigmoid(next(layers)(x)) - 0.5
            else:
                x = F.leaky_relu(x, 0.2).tanh()
        return self.head(x)


def sparsify(model: nn.Module, seed: int) -> None:
    """Zero random weights, rows and columns, so that neurons die in every way there is."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                weight = module.weight
                weight *= torch.rand(weight.shape, generator=generator) < 0.6
                weight *= (torch.rand(weight.shape[0], generator=generator) < 0.6)[:, None]
                weight *= torch.rand(weight.shape[1], generator=generator) < 0.6
