"""Exact proximal steps of the sparse group lasso: zeros that are zeros.

The penalty of one group w of coupled weights is μ‖w‖₂ + λ‖w‖₁ (Simon, Friedman, Hastie, Tibshirani 2013). Its proximal
map is soft thresholding by λ followed by shrinking what is left by 1 − μ/‖·‖₂, to zero where the norm is below μ.

Weights may have leading dimensions, one network each: (…, outputs, inputs).
"""

from __future__ import annotations

import torch

from .trace import ChannelGraph


def soft_threshold_(weight: torch.Tensor, threshold: torch.Tensor | float) -> None:
    """prox of `threshold`·‖w‖₁, in place."""
    weight.copy_(torch.sign(weight) * (weight.abs() - threshold).clamp_(min=0))


def shrink_factors(norms: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """What the prox of threshold·‖w‖₂ multiplies groups of these norms with: max(0, 1 − threshold/norm)."""
    return torch.where(norms > threshold, 1 - threshold / norms.clamp(min=torch.finfo(norms.dtype).tiny), 0.0)


def group_norms(graph: ChannelGraph, space: int) -> torch.Tensor:
    """(…, channels): ‖·‖₂ of every coupled group of a space: rows and biases of its writers, columns of its readers.

    A batch norm's scale and shift are not in it: they'd count the same freedom twice.
    """
    terms = []
    for layer in graph.writers(space):
        terms.append(layer.module.weight.detach().square().sum(-1))
        if layer.module.bias is not None:
            terms.append(layer.module.bias.detach().square())
    terms += [layer.module.weight.detach().square().sum(-2) for layer in graph.readers(space)]
    return torch.stack(terms).sum(0).sqrt()


@torch.no_grad()
def group_prox_(graph: ChannelGraph, space: int, threshold: torch.Tensor) -> torch.Tensor:
    """The prox of Σ thresholdⱼ‖groupⱼ‖₂ over the groups of one space, in place; returns the factors, (…, channels).

    threshold : (…, channels), on the weights' device. Groups of one space share no weights unless a layer both reads
    and writes it (a residual block), whose weights are multiplied by the factors of both their groups. A group that
    gets the factor 0 is zero in all its weights, biases and batch norms.
    """
    factors = shrink_factors(group_norms(graph, space), threshold)
    scale_groups_(graph, space, factors)
    return factors


@torch.no_grad()
def scale_groups_(graph: ChannelGraph, space: int, factors: torch.Tensor) -> None:
    """Multiply every group of a space; batch norms only where the factor is 0."""
    for layer in graph.writers(space):
        layer.module.weight.mul_(factors[..., :, None])
        if layer.module.bias is not None:
            layer.module.bias.mul_(factors)
    for layer in graph.readers(space):
        layer.module.weight.mul_(factors[..., None, :])
    for norm in graph.norms(space):
        for parameter in (norm.weight, norm.bias):
            if parameter is not None:
                parameter.mul_(factors != 0)
