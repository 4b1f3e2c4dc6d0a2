"""Giving each layer the storage format that measures fastest on the target device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx, nn

from ..nn import FORMATS, Format, SparseLinear
from .build import describe, graph_module
from .latency import measure
from .ops import Select


def fastest_formats(
    model: fx.GraphModule,
    example_input: torch.Tensor,
    *,
    formats: Sequence[Format] = FORMATS,
    rounds: int = 3,
    seconds: float = 0.02,
) -> tuple[fx.GraphModule, dict[str, str]]:
    """A compact network whose layers are dense or sparse, whichever takes least time for this input, where it lies.

    Only layers with zeros are tried, for `seconds` each in each of `rounds`. Returns the network, in eval mode, and the
    format of every layer by name.
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
        times = {
            form: min(measure(option, x, seconds=seconds) for _ in range(rounds)) for form, option in options.items()
        }
        names[name] = min(times, key=times.__getitem__)
        chosen[name] = options[names[name]]
    return graph_module(describe(model), chosen).eval(), names


def reading_all(model: fx.GraphModule, inputs: int) -> fx.GraphModule | None:
    """A compact network that reads its whole input of `inputs` features, those it left out with weights of 0.

    Saves picking the others. None where it leaves none out, or anything but Linear layers reads what it picks.
    """
    description = describe(model)
    picks = [step for step in description if step.get("type") == "Select"]
    if len(picks) != 1:
        return None
    (pick,) = picks
    readers = [step for step in description if ["@", pick["name"]] in step["args"]]
    if any(step.get("type") != "Linear" for step in readers):
        return None
    named = {step["module"] for step in readers}
    if any(step.get("module") in named and step not in readers for step in description):
        return None
    modules = {s["module"]: model.get_submodule(s["module"]) for s in description if s["op"] == "module"}
    select = modules.pop(pick["module"])
    assert isinstance(select, Select)
    for name in named:
        small = modules[name]
        assert isinstance(small, nn.Linear)
        options = {"device": small.weight.device, "dtype": small.weight.dtype}
        wide = nn.Linear(inputs, small.out_features, bias=small.bias is not None, **options)
        with torch.no_grad():
            wide.weight.zero_()[:, select.index] = small.weight
            if small.bias is not None:
                wide.bias.copy_(small.bias)
        modules[name] = wide
    source = pick["args"][0]
    steps = []
    for step in description:
        if step is not pick:
            args = [source if a == ["@", pick["name"]] else a for a in step["args"]]
            steps.append({**step, "args": args})
    return graph_module(steps, modules).eval()
