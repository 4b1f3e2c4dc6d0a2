"""Many networks of one architecture trained at once: their weights stacked, their products batched.

A small network leaves a GPU idle; a hundred of them cost little more than one. Members differ in their weights, data
and goals. They shrink only when taken out by `Fleet.member` and compacted.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import InputError
from . import ops
from .trace import ChannelGraph, Ref, trace


class StackedLinear(nn.Module):
    """One Linear of every member: weight (members, outputs, inputs), bias (members, outputs) or None."""

    def __init__(self, layers: Sequence[nn.Linear]):
        super().__init__()
        first = layers[0]
        self.in_features, self.out_features = first.in_features, first.out_features
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))
        biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
        self.bias = nn.Parameter(torch.stack(biases)) if biases else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight.transpose(1, 2)
        return torch.bmm(x, weight) if self.bias is None else torch.baddbmm(self.bias[:, None], x, weight)


class StackedNorm(nn.Module):
    """One BatchNorm1d of every member: parameters and statistics (members, channels)."""

    running_mean: torch.Tensor
    running_var: torch.Tensor
    weight: torch.Tensor | None
    bias: torch.Tensor | None

    def __init__(self, norms: Sequence[nn.BatchNorm1d]):
        super().__init__()
        first = norms[0]
        self.eps, self.momentum, self.affine = first.eps, first.momentum, first.affine
        for name in ("weight", "bias"):
            values = [getattr(norm, name).detach() for norm in norms if first.affine]
            setattr(self, name, nn.Parameter(torch.stack(values)) if first.affine else None)
        for name in ("running_mean", "running_var"):
            self.register_buffer(name, torch.stack([getattr(norm, name) for norm in norms]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        members, batch, channels = x.shape
        y = F.batch_norm(
            x.transpose(0, 1).reshape(batch, -1),
            self.running_mean.view(-1),
            self.running_var.view(-1),
            None if self.weight is None else self.weight.view(-1),
            None if self.bias is None else self.bias.view(-1),
            self.training,
            0.1 if self.momentum is None else self.momentum,
            self.eps,
        )
        return y.view(batch, members, channels).transpose(0, 1)


class Fleet(nn.Module):
    """Stacked networks: (members, batch, …) to (members, batch, classes).

    models : of one architecture, each with its own weights; they are copied. example_input, ignore : see `trace`.
    `graph` is that of one network over the stacked weights.

    Raises InputError for what `trace` refuses, and for softmax and the like, whose dimension would be another.
    """

    def __init__(self, models: Sequence[nn.Module], example_input: torch.Tensor, *, ignore: Iterable[str] = ()):
        super().__init__()
        self._template = [copy.deepcopy(models[0])]  # in a list: not a part of this module
        traced = trace(models[0], example_input, ignore=ignore)
        shapes = [[(n, p.shape) for n, p in model.named_parameters()] for model in models]
        if any(other != shapes[0] for other in shapes):
            raise InputError("Expected networks of one architecture.")
        for step in traced.steps:
            if step.kind == "mix":
                raise InputError(f"{step.name!r} mixes channels; a fleet can't stack it.")
        modules: dict[str, nn.Module] = {}
        for name, module in traced.modules.items():
            same: list[Any] = [model.get_submodule(name) for model in models]
            if isinstance(module, nn.Linear):
                modules[name] = StackedLinear(same)
            elif isinstance(module, nn.BatchNorm1d):
                modules[name] = StackedNorm(same)
            else:
                modules[name] = copy.deepcopy(module)
        layers: dict[str, Any] = {name: replace(x, module=modules[name]) for name, x in traced.layers.items()}
        self.graph = ChannelGraph(traced.steps, modules, layers, traced.spaces, traced.input_space)
        self.stacked = nn.ModuleDict({name.replace(".", "/"): module for name, module in modules.items()})
        self.members = len(models)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values: dict[str, torch.Tensor] = {}
        y = x
        for step in self.graph.steps:
            args = [values[a.name] if isinstance(a, Ref) else a for a in step.args]
            if step.kind == "input":
                y = x
            elif step.kind == "output":
                y = args[0]
            elif step.function == "flatten":
                y = args[0].flatten(2)
            elif step.module:
                y = self.graph.modules[step.module](args[0])
            elif step.function == "dropout":
                y = F.dropout(args[0], dict(step.kwargs)["p"], self.training)
            else:
                y = ops.CALLABLES[step.function](*args, **dict(step.kwargs))
            values[step.name] = y
        return y

    def member(self, k: int) -> nn.Module:
        """A copy of one network, as an ordinary module of the kind it was made of."""
        model = copy.deepcopy(self._template[0]).to(next(self.parameters()).device)
        with torch.no_grad():
            for name, module in self.graph.modules.items():
                own = model.get_submodule(name)
                if isinstance(module, (StackedLinear, StackedNorm)):
                    for key, value in own.state_dict().items():
                        if value.ndim:
                            value.copy_(getattr(module, key)[k])
        return model.train(self.training)
