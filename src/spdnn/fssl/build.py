"""Networks from descriptions: plain `fx.GraphModule`s, and JSON that names a closed set of operations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

from ..errors import InputError
from ..nn import SparseLinear
from . import ops
from .trace import ChannelGraph, Ref

Description = list[dict[str, Any]]
"""One dict per step: `name`, `op` (input, module, function, output), `args` (["@", name] is an earlier value),
and for modules `module`, `type` and `options`; for functions `function` and `kwargs`."""

_TYPES: dict[str, type[nn.Module]] = {
    kind.__name__: kind
    for kind in (nn.Linear, nn.BatchNorm1d, ops.Select, SparseLinear, *ops.ELEMENTWISE, *ops.MIXING, *ops.OTHER)
}


def assemble(graph: ChannelGraph, modules: Mapping[str, nn.Module], select: torch.Tensor | None) -> fx.GraphModule:
    """The traced network over other modules: `modules` by name (others are copied), `select` the inputs it reads.

    Drops the tracing of `x.size(0)` and the like: flattening is `torch.flatten(x, 1)`.
    """
    description: Description = []
    used: dict[str, nn.Module] = {}
    names: dict[str, str] = {}
    taken = {step.name for step in graph.steps}
    selector = _free("select", set(graph.modules))
    for step in graph.steps:
        args = [["@", names[a.name]] if isinstance(a, Ref) else a for a in step.args]
        item: dict[str, Any] = {"name": step.name, "args": args}
        if step.kind in ("input", "output"):
            item["op"] = step.kind
        elif step.function == "dropout":
            name = _free("dropout", {*used, *graph.modules, selector})
            used[name] = nn.Dropout(dict(step.kwargs)["p"])
            item |= {"op": "module", "module": name}
        elif step.module:
            if step.module not in used:
                used[step.module] = modules.get(step.module) or _copy(graph.modules[step.module])
            item |= {"op": "module", "module": step.module}
        else:
            item |= {"op": "function", "function": step.function, "kwargs": dict(step.kwargs)}
        description.append(item)
        names[step.name] = step.name
        enters = step.kind == "flatten" or (step.kind == "input" and step.space >= 0)
        if enters and select is not None:
            device = next(p.device for module in modules.values() for p in module.parameters())
            used.setdefault(selector, ops.Select(select.to(device)))
            value = _free(f"{step.name}_selected", taken)
            description.append({"name": value, "op": "module", "module": selector, "args": [["@", step.name]]})
            names[step.name] = value
    return graph_module(description, used)


def graph_module(description: Description, modules: Mapping[str, nn.Module]) -> fx.GraphModule:
    """A GraphModule of these steps; `modules` are installed under their (dotted) names."""
    root = nn.Module()
    for name, module in modules.items():
        parent = root
        *path, last = name.split(".")
        for part in path:
            if not hasattr(parent, part):
                parent.add_module(part, nn.Module())
            parent = getattr(parent, part)
        parent.add_module(last, module)
    graph = fx.Graph()
    nodes: dict[str, fx.Node] = {}
    for item in description:
        args = tuple(nodes[a[1]] if isinstance(a, list) else a for a in item["args"])
        name = item["name"]
        if item["op"] == "input":
            nodes[name] = graph.placeholder(name)
        elif item["op"] == "output":
            nodes[name] = graph.output(args[0])
        elif item["op"] == "module":
            nodes[name] = graph.create_node("call_module", item["module"], args, {}, name)
        else:
            function = ops.CALLABLES[item["function"]]
            nodes[name] = graph.create_node("call_function", function, args, item["kwargs"], name)
    graph.lint()
    return fx.GraphModule(root, graph, "CompactNetwork")


def describe(model: nn.Module) -> Description:
    """The description of a network made by `graph_module`.

    Raises InputError for any other model: only what the closed set of operations says can be reloaded.
    """
    if not isinstance(model, fx.GraphModule):
        raise InputError(f"Expected a network made by FSSL.compact(), got {type(model).__name__}.")
    description: Description = []
    for node in model.graph.nodes:
        item: dict[str, Any] = {"name": node.name, "args": [_argument(a) for a in node.args]}
        if node.op == "placeholder":
            item |= {"op": "input", "args": []}
        elif node.op == "output":
            item["op"] = "output"
        elif node.op == "call_module":
            module = model.get_submodule(str(node.target))
            kind = type(module).__name__
            item |= {"op": "module", "module": str(node.target), "type": kind, "options": _options(module)}
        else:
            names = [name for name, function in ops.CALLABLES.items() if function is node.target]
            if node.op != "call_function" or not names:
                raise InputError(f"Expected operations FSSL knows, got {node.target!r} ({node.name}).")
            item |= {"op": "function", "function": names[0], "kwargs": dict(node.kwargs)}
        description.append(item)
    return description


def make_modules(description: Description) -> dict[str, nn.Module]:
    """New modules, of the right shapes, for a description. Raises InputError for types outside the closed set."""
    modules: dict[str, nn.Module] = {}
    for item in description:
        if item["op"] != "module" or item["module"] in modules:
            continue
        kind, options = item["type"], dict(item["options"])
        if kind not in _TYPES:
            raise InputError(f"Expected a module type FSSL knows, got {kind!r}.")
        if kind == "Select":
            modules[item["module"]] = ops.Select(torch.zeros(options["columns"], dtype=torch.int64))
        else:
            modules[item["module"]] = _TYPES[kind](**options)
    return modules


def _options(module: nn.Module) -> dict[str, Any]:
    kind = type(module)
    if isinstance(module, nn.Linear):
        return {
            "in_features": module.in_features,
            "out_features": module.out_features,
            "bias": module.bias is not None,
        }
    if isinstance(module, SparseLinear):
        return {
            "in_features": module.in_features,
            "out_features": module.out_features,
            "nnz": module.nnz,
            "bias": module.bias is not None,
            "format": module.format,
            "tile": list(module.tile),
        }
    if isinstance(module, nn.BatchNorm1d):
        return {name: getattr(module, name) for name in ("num_features", "eps", "momentum", "affine")}
    if isinstance(module, ops.Select):
        return {"columns": module.index.numel()}
    for table in (ops.ELEMENTWISE, ops.MIXING, ops.OTHER):
        if kind in table:
            return {name: getattr(module, name) for name in table[kind]}
    raise InputError(f"Expected a module type FSSL knows, got {kind.__name__}.")


def _copy(module: nn.Module) -> nn.Module:
    return type(module)(**_options(module))


def _argument(value: Any) -> Any:
    return ["@", value.name] if isinstance(value, fx.Node) else value


def _free(name: str, taken: set[str]) -> str:
    k, found = 0, name
    while found in taken:
        k += 1
        found = f"{name}_{k}"
    return found
