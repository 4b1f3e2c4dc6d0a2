"""Batch norms moved into the layers before them, where they cost nothing."""

from __future__ import annotations

import copy
from collections import Counter

import torch
from torch import fx, nn

from .build import describe, graph_module


def fold_norms(model: fx.GraphModule) -> fx.GraphModule:
    """A compact network, in eval mode, without the batch norms that follow a Linear; it computes the same, to 1e-5.

    Batch norms after anything else, or after a Linear that something else reads or that is called twice, stay.
    The weights that are zero are the same ones.
    """
    description = describe(model)
    modules = {s["module"]: model.get_submodule(s["module"]) for s in description if s["op"] == "module"}
    calls = Counter(s["module"] for s in description if s["op"] == "module")
    reads = Counter(a[1] for s in description for a in s["args"] if isinstance(a, list))
    made = {s["name"]: s for s in description}
    became: dict[str, str] = {}
    for step in description:
        if step.get("type") != "BatchNorm1d" or calls[step["module"]] > 1:
            continue
        before = made[step["args"][0][1]]
        if before.get("type") != "Linear" or calls[before["module"]] > 1 or reads[before["name"]] > 1:
            continue
        linear, norm = modules[before["module"]], modules.pop(step["module"])
        assert isinstance(linear, nn.Linear)
        assert isinstance(norm, nn.BatchNorm1d)
        modules[before["module"]] = _folded(linear, norm)
        became[step["name"]] = before["name"]
    steps = []
    for step in description:
        if step["name"] not in became:
            args = [["@", became.get(a[1], a[1])] if isinstance(a, list) else a for a in step["args"]]
            steps.append({**step, "args": args})
    return graph_module(steps, {name: copy.deepcopy(module) for name, module in modules.items()}).eval()


@torch.no_grad()
def _folded(linear: nn.Linear, norm: nn.BatchNorm1d) -> nn.Linear:
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    scale = (variance.double() + norm.eps).rsqrt()
    shift = -mean.double()
    if linear.bias is not None:
        shift = shift + linear.bias.double()
    shift = shift * scale
    if norm.affine:
        scale, shift = scale * norm.weight.double(), shift * norm.weight.double() + norm.bias.double()
    weight = linear.weight
    made = nn.Linear(linear.in_features, linear.out_features, device=weight.device, dtype=weight.dtype)
    made.weight.copy_(weight.double() * scale[:, None])
    made.bias.copy_(shift)
    return made
