"""Giving each layer the storage format that measures fastest on the target device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx, nn

from ..nn import FORMATS, Format, SparseLinear
from .build import describe, graph_module
from .latency import measure


def fastest_formats(
    model: fx.GraphModule, example_input: torch.Tensor, *, formats: Sequence[Format] = FORMATS, rounds: int = 3
) -> tuple[fx.GraphModule, dict[str, str]]:
    """A compact network whose layers are dense or sparse, whichever takes least time for this input, where it lies.

    Only layers with zeros are tried. Returns the network, in eval mode, and the format of every layer by name.
    """
    device = example_input.device
    modules = {name: module for name, module in model.named_modules() if name and not list(module.children())}
    chosen: dict[str, nn.Module] = {}
    names: dict[str, str] = {}
    for name, module in modules.items():
        chosen[name] = module
        if not isinstance(module, nn.Linear):
            continue
        names[name] = "dense"
        if bool((module.weight != 0).all()):
            continue
        x = torch.rand(example_input.shape[0], module.in_features, device=device, dtype=module.weight.dtype)
        options: dict[str, nn.Module] = {"dense": module}
        options |= {form: SparseLinear.from_dense(module, format=form) for form in formats}
        times = {form: min(measure(option, x, seconds=0.02) for _ in range(rounds)) for form, option in options.items()}
        names[name] = min(times, key=times.__getitem__)
        chosen[name] = options[names[name]]
    return graph_module(describe(model), chosen).eval(), names
