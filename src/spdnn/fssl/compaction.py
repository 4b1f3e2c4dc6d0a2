"""Making a masked network physically smaller without changing what it computes.

A channel goes where every layer that reads its space either has only zero weights for it or finds it constant, whatever
the input; the constant, times the weights, goes into that layer's bias. Found by one forward pass in eval mode.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from .build import assemble
from .trace import ChannelGraph, Layer, Ref


@dataclass(frozen=True)
class Compaction:
    """Which channels stay: int64 ascending indices for each space, and for each layer what its bias gains.

    `empty`: those of them that could go but fill a space up to a multiple, or to one channel; nothing of what they
    hold counts.
    """

    keep: Mapping[int, torch.Tensor]
    bias: Mapping[str, torch.Tensor]
    empty: Mapping[int, torch.Tensor] = field(default_factory=dict)

    def widths(self) -> dict[int, int]:
        return {space: index.numel() for space, index in self.keep.items()}


def plan_compaction(
    graph: ChannelGraph, example_input: torch.Tensor, *, round_to: int = 1, fold: bool = True, inputs: bool = True
) -> Compaction:
    """Find the channels that can go.

    round_to : keep a multiple of this many channels of each space where there are as many (some removable ones stay).
    fold : also remove channels that are constant and not read with zero weights only (True holds in eval mode only,
        where batch norm uses its running statistics).
    inputs : also leave out input features.
    """
    constant, values = _constants(graph, example_input) if fold else ({}, {})
    gone = {k: torch.zeros(space.size, dtype=torch.bool) for k, space in graph.spaces.items()}
    changed = True
    while changed:
        changed = False
        for k, space in graph.spaces.items():
            if space.fixed or (k == graph.input_space and not inputs):
                continue
            removable = torch.ones(space.size, dtype=torch.bool)
            for layer in graph.readers(k):
                weight = layer.module.weight.detach()
                live = torch.nonzero(~gone[layer.writes]).flatten().to(weight.device)
                rows = weight if len(live) == len(weight) else weight.index_select(0, live)
                removable &= (rows == 0).all(0).cpu() | _folds(layer, constant, values)
            changed |= bool((removable & ~gone[k]).any())
            gone[k] |= removable
    keep, empty = {}, {}
    for k, space in graph.spaces.items():
        wanted = max(int((~gone[k]).sum()), 1)
        wanted = min(-(-wanted // round_to) * round_to, space.size)
        missing = wanted - int((~gone[k]).sum())
        empty[k] = torch.nonzero(gone[k]).flatten()[:missing]
        stays = ~gone[k]
        stays[empty[k]] = True
        keep[k] = torch.nonzero(stays).flatten()
    bias = {}
    for layer in graph.layers.values():
        lost = gone[layer.reads]
        if fold and bool(lost.any()):
            weight = layer.module.weight.detach().cpu()
            at = values[layer.calls[0]]
            found = torch.where(lost & _folds(layer, constant, values), at, torch.zeros_like(at))
            gain = (weight.double() @ found.double()).to(weight.dtype)
            if bool(gain.any()):
                bias[layer.name] = gain
    return Compaction(keep, bias, empty)


def compacted(graph: ChannelGraph, plan: Compaction) -> nn.Module:
    """A new, smaller network: an `fx.GraphModule` of new Linear, BatchNorm1d, … modules; inputs left out by a Select.

    Its parameters are on the device and of the dtype of the originals; it's in the mode (training or not) they are in.
    """
    modules: dict[str, nn.Module] = {}
    for name, module in graph.modules.items():
        if name in graph.layers:
            layer = graph.layers[name]
            weight, bias = _sliced_linear(layer, plan)
            small = nn.Linear(
                weight.shape[1], weight.shape[0], bias=bias is not None, device=weight.device, dtype=weight.dtype
            )
            with torch.no_grad():
                small.weight.copy_(weight)
                if bias is not None:
                    small.bias.copy_(bias)
            modules[name] = small
        elif isinstance(module, nn.BatchNorm1d):
            modules[name] = _sliced_norm(module, plan.keep[_space_of(graph, name)])
    index = plan.keep[graph.input_space]
    select = None if index.numel() == graph.spaces[graph.input_space].size else index
    if graph.selected is not None:
        select = graph.selected[index.to(graph.selected.device)]
    model = assemble(graph, modules, select)
    model.train(next(iter(graph.layers.values())).module.training)
    return model


def shrink_(graph: ChannelGraph, plan: Compaction, optimizers: list[torch.optim.Optimizer]) -> None:
    """Slice a network's parameters, buffers and its optimisers' state in place.

    Modules get new parameters, and the optimisers those and the sliced state.
    `plan` must have been made with `fold=False`, for the network goes on training, and without inputs unless
    `can_select_inputs`; the layers that read the input then get a hook that selects what they still read.
    """
    _select_inputs(graph, plan.keep[graph.input_space])
    for layer in graph.layers.values():
        module = layer.module
        rows, columns = plan.keep[layer.writes], plan.keep[layer.reads]
        _slice_parameter(module, "weight", (rows, columns), optimizers)
        _slice_parameter(module, "bias", (rows,), optimizers)
        module.in_features, module.out_features = columns.numel(), rows.numel()
    for k, space in graph.spaces.items():
        for module in graph.norms(k):
            for name in ("weight", "bias"):
                _slice_parameter(module, name, (plan.keep[k],), optimizers)
            for name in ("running_mean", "running_var"):
                buffer = getattr(module, name)
                setattr(module, name, buffer[plan.keep[k].to(buffer.device)].clone())
            module.num_features = plan.keep[k].numel()
        space.size = plan.keep[k].numel()


def can_select_inputs(graph: ChannelGraph) -> bool:
    """Whether layers can leave out input features in place: nothing but their weights depends on how many there are."""
    kinds = {step.kind for step in graph.steps if step.space == graph.input_space}
    return kinds <= {"input", "flatten", "same"} and not graph.writers(graph.input_space)


def _select_inputs(graph: ChannelGraph, keep: torch.Tensor) -> None:
    if keep.numel() == graph.spaces[graph.input_space].size:
        return
    first = graph.selected is None
    graph.selected = keep if graph.selected is None else graph.selected[keep.to(graph.selected.device)]

    def select(module: nn.Module, args: tuple[torch.Tensor, ...]) -> torch.Tensor:
        assert graph.selected is not None
        if graph.selected.device != args[0].device:
            graph.selected = graph.selected.to(args[0].device)
        return args[0].index_select(1, graph.selected)

    if first:
        graph.hooks += [layer.module.register_forward_pre_hook(select) for layer in graph.readers(graph.input_space)]


def _constants(graph: ChannelGraph, example: torch.Tensor) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """For each step's value in a space: which channels are constant (bool), and the values of one row."""
    training = {module: module.training for module in graph.modules.values()}
    for module in graph.modules.values():
        module.eval()
    try:
        with torch.no_grad():
            found = {name: v.detach().cpu() for name, v in graph.run(example[:1]).items()}
    finally:
        for module, mode in training.items():
            module.training = mode
    constant: dict[str, torch.Tensor] = {}
    values: dict[str, torch.Tensor] = {}
    for step in graph.steps:
        if step.space < 0:
            continue
        sources = [a.name for a in step.args if isinstance(a, Ref)]
        if step.kind in ("input", "flatten"):
            constant[step.name] = torch.zeros(graph.spaces[step.space].size, dtype=torch.bool)
        elif step.kind == "linear":
            weight = graph.layers[step.module].module.weight.detach().cpu()
            constant[step.name] = (weight[:, ~constant[sources[0]]] == 0).all(1)
        elif step.kind == "mix":
            constant[step.name] = torch.zeros_like(constant[sources[0]])
        else:
            constant[step.name] = torch.stack([constant[name] for name in sources]).all(0)
        values[step.name] = found[step.name][0]
        if step.space == graph.input_space and graph.selected is not None:
            values[step.name] = values[step.name][graph.selected.cpu()]
    return constant, values


def _folds(layer: Layer, constant: dict[str, torch.Tensor], values: dict[str, torch.Tensor]) -> torch.Tensor:
    """Which channels a layer finds constant, the same at every call."""
    if not constant:
        return torch.zeros(layer.module.in_features, dtype=torch.bool)
    first = layer.calls[0]
    same = constant[first].clone()
    for other in layer.calls[1:]:
        same &= constant[other] & (values[other] == values[first])
    return same


def _sliced_linear(layer: Layer, plan: Compaction) -> tuple[torch.Tensor, torch.Tensor | None]:
    weight = layer.module.weight.detach().clone()
    for k, emptied in ((layer.reads, weight.T), (layer.writes, weight)):
        if k in plan.empty:
            emptied[plan.empty[k].to(weight.device)] = 0
    rows, columns = plan.keep[layer.writes].to(weight.device), plan.keep[layer.reads].to(weight.device)
    bias = None if layer.module.bias is None else layer.module.bias.detach()
    gain = plan.bias.get(layer.name)
    if gain is not None:
        gain = gain.to(weight.device)
        bias = gain if bias is None else bias + gain
    return weight[rows][:, columns], None if bias is None else bias[rows]


def _sliced_norm(module: nn.BatchNorm1d, keep: torch.Tensor) -> nn.BatchNorm1d:
    mean = module.running_mean
    assert mean is not None
    small = nn.BatchNorm1d(
        keep.numel(), module.eps, module.momentum, module.affine, True, device=mean.device, dtype=mean.dtype
    )
    state = {
        name: value if value.ndim == 0 else value[keep.to(value.device)] for name, value in module.state_dict().items()
    }
    small.load_state_dict(state)
    return small


def _space_of(graph: ChannelGraph, norm: str) -> int:
    return next(k for k, space in graph.spaces.items() if norm in space.norms)


def _slice_parameter(
    module: nn.Module, name: str, index: tuple[torch.Tensor, ...], optimizers: list[torch.optim.Optimizer]
) -> None:
    """Put a new, sliced parameter where `name` is, in the module and in the optimisers.

    A new one, for autograd keeps the old one's shape as long as any loss computed with it is alive.
    """
    old = getattr(module, name)
    if old is None or all(keep.numel() == size for keep, size in zip(index, old.shape, strict=True)):
        return

    def cut(tensor: torch.Tensor) -> torch.Tensor:
        for dimension, keep in enumerate(index):
            tensor = tensor.index_select(dimension, keep.to(tensor.device))
        return tensor.clone()

    new = nn.Parameter(cut(old.detach()), requires_grad=old.requires_grad)
    new.grad = None if old.grad is None else cut(old.grad)
    setattr(module, name, new)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["params"] = [new if p is old else p for p in group["params"]]
        if old in optimizer.state:
            optimizer.state[new] = {
                key: cut(value) if isinstance(value, torch.Tensor) and value.shape == old.shape else value
                for key, value in optimizer.state.pop(old).items()
            }
