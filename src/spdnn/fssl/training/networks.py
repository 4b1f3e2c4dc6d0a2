"""The networks that are trained: plain perceptrons, and sparse ones that start as a RadiX-Net."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn

from ...errors import InputError


def dense_network(widths: Sequence[int], *, seed: int = 0, dropout: float = 0.0, norm: bool = False) -> nn.Sequential:
    """Flatten, then Linear layers of these widths (inputs first, classes last) with ReLU between, He-initialised.

    The same seed gives the same weights; the state of torch's generator is left as it was.
    """
    if len(widths) < 2 or min(widths) < 1:
        raise InputError(f"Expected at least two widths of at least 1, got {list(widths)}.")
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = [nn.Flatten()]
    for a, b in itertools.pairwise(widths):
        layers.append(_linear(a, b, generator))
        if norm:
            layers.append(nn.BatchNorm1d(b))
        layers.append(nn.ReLU())
        if dropout:
            layers.append(nn.Dropout(dropout))
    extra = 1 + norm + bool(dropout)
    return nn.Sequential(*layers[:-extra])


def radix_network(layers: int = 2, *, classes: int = 10, seed: int = 0, norm: bool = False) -> nn.Sequential:
    """The first layers of the Graph Challenge's RadiX-Net of 1024 neurons, 32 inputs each, and a dense one on top.

    Reads 32 × 32 images. The topology is the challenge's, the weights are drawn for its 32 inputs a neuron.
    norm : with batch norms after the sparse layers.
    """
    from ...radixnet import challenge_network

    generator = torch.Generator().manual_seed(seed)
    made: list[nn.Module] = [nn.Flatten()]
    for sparse in challenge_network(1024, layers):
        layer = _linear(sparse.inputs, sparse.outputs, generator, fan_in=int(sparse.fan_in[0]))
        with torch.no_grad():
            layer.weight.mul_(torch.from_numpy(sparse.weights.toarray().T != 0))
        made += [layer, nn.BatchNorm1d(layer.out_features), nn.ReLU()] if norm else [layer, nn.ReLU()]
    return nn.Sequential(*made, _linear(1024, classes, generator))


def _linear(inputs: int, outputs: int, generator: torch.Generator, *, fan_in: int | None = None) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")
    bound = (6 / (fan_in or inputs)) ** 0.5
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.zero_()
    return layer
