"""The closed set of operations FSSL understands, their names in files, and what each does to channels."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

ELEMENTWISE: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Identity: (),
    nn.ReLU: (),
    nn.ReLU6: (),
    nn.LeakyReLU: ("negative_slope",),
    nn.ELU: ("alpha",),
    nn.CELU: ("alpha",),
    nn.SELU: (),
    nn.GELU: ("approximate",),
    nn.SiLU: (),
    nn.Mish: (),
    nn.Sigmoid: (),
    nn.Tanh: (),
    nn.Hardtanh: ("min_val", "max_val"),
    nn.Hardsigmoid: (),
    nn.Hardswish: (),
    nn.Softplus: ("beta", "threshold"),
    nn.Softsign: (),
    nn.Dropout: ("p",),
}
"""Modules that treat every channel alike and apart from the others, with the arguments they are rebuilt from."""

MIXING: dict[type[nn.Module], tuple[str, ...]] = {nn.Softmax: ("dim",), nn.LogSoftmax: ("dim",)}
"""Modules that mix channels without weights; what they read keeps all its channels."""

OTHER: dict[type[nn.Module], tuple[str, ...]] = {nn.Flatten: ("start_dim", "end_dim")}


FUNCTIONS: dict[str, tuple[Callable[..., Any], ...]] = {
    "relu": (F.relu, torch.relu, torch.relu_, F.relu_),
    "relu6": (F.relu6,),
    "leaky_relu": (F.leaky_relu,),
    "elu": (F.elu,),
    "celu": (F.celu,),
    "selu": (F.selu,),
    "gelu": (F.gelu,),
    "silu": (F.silu,),
    "mish": (F.mish,),
    "sigmoid": (torch.sigmoid, F.sigmoid),
    "tanh": (torch.tanh, F.tanh),
    "hardtanh": (F.hardtanh,),
    "hardsigmoid": (F.hardsigmoid,),
    "hardswish": (F.hardswish,),
    "softplus": (F.softplus,),
    "softsign": (F.softsign,),
    "abs": (torch.abs, operator.abs, abs),
    "neg": (torch.neg, operator.neg),
    "square": (torch.square,),
    "exp": (torch.exp,),
    "clamp": (torch.clamp,),
    "dropout": (F.dropout,),  # traced as inactive; built as a Dropout module
}
"""Element-wise functions of one tensor; the first of each name is what a reloaded network calls."""

METHODS = {name for name in FUNCTIONS if hasattr(torch.Tensor, name)} | {"relu_"}
"""Element-wise tensor methods."""

JOINS: dict[str, tuple[Callable[..., Any], ...]] = {
    "add": (operator.add, torch.add, operator.iadd),
    "sub": (operator.sub, torch.sub, operator.isub),
    "mul": (operator.mul, torch.mul, operator.imul),
    "div": (operator.truediv, torch.div),
}
"""Functions of two tensors of one shape, or of a tensor and a number."""
JOIN_METHODS = {"add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_"}

SOFTMAXES: dict[str, tuple[Callable[..., Any], ...]] = {
    "softmax": (F.softmax, torch.softmax),
    "log_softmax": (F.log_softmax, torch.log_softmax),
}
FLATTENS: tuple[Callable[..., Any], ...] = (torch.flatten, torch.reshape)
FLATTEN_METHODS = {"flatten", "view", "reshape"}

CALLABLES: dict[str, Callable[..., Any]] = {
    name: same[0] for table in (FUNCTIONS, JOINS, SOFTMAXES) for name, same in table.items()
} | {"flatten": torch.flatten}
"""Function by its name in a file."""


def name_of(function: Any, table: dict[str, tuple[Callable[..., Any], ...]]) -> str | None:
    """The name under which `table` holds a function, or None."""
    return next((name for name, same in table.items() if any(function is one for one in same)), None)


class Select(nn.Module):
    """Take the columns `index` (int64, ascending) of a (batch, features) tensor: the inputs a network still reads."""

    index: torch.Tensor

    def __init__(self, index: torch.Tensor):
        super().__init__()
        self.register_buffer("index", index.to(torch.int64).clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.index_select(1, self.index)

    def extra_repr(self) -> str:
        return f"columns={self.index.numel()}"
