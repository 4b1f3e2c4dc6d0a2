"""From a compact PyTorch network to a `SparseNetwork`, which every engine runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from ..errors import InputError
from ..network import SparseLayer, SparseNetwork
from ..nn import SparseLinear
from .build import describe
from .ops import Select

_BOUNDS: dict[str, tuple[float, float]] = {
    "relu": (0.0, math.inf),
    "ReLU": (0.0, math.inf),
    "relu6": (0.0, 6.0),
    "ReLU6": (0.0, 6.0),
    "Identity": (-math.inf, math.inf),
    "Dropout": (-math.inf, math.inf),
    "Flatten": (-math.inf, math.inf),
    "flatten": (-math.inf, math.inf),
}


def to_sparse_network(model: nn.Module, *, inputs: int | None = None, name: str = "") -> SparseNetwork:
    """The network of a compact model that is a chain of Linear, BatchNorm1d and ReLU, ReLU6, Hardtanh or clamp.

    It reads what the model does, flattened, and gives the same outputs. Batch norms go into the weights before them
    (or after them, at the input).

    inputs : features of the input where the model selects among them; by default up to the last one it reads.
    Raises InputError, with the name, for anything else.
    """
    if not isinstance(model, fx.GraphModule):
        raise InputError(f"Expected a network made by FSSL.compact(), got {type(model).__name__}.")
    chain = _Chain(inputs)
    previous = None
    for step in describe(model):
        references = [a[1] for a in step["args"] if isinstance(a, list)]
        if step["op"] != "input" and references != [previous]:
            raise InputError(f"Expected a chain of layers, but {step['name']!r} reads {', '.join(references)}.")
        if step["op"] == "module":
            chain.module(step["module"], model.get_submodule(step["module"]))
        elif step["op"] == "function":
            chain.function(step["name"], step["function"], step["args"][1:], step["kwargs"])
        previous = step["name"]
    return SparseNetwork(chain.layers(), name)


class _Chain:
    def __init__(self, inputs: int | None):
        self.inputs = inputs
        self.select: np.ndarray | None = None
        self.weights: list[np.ndarray] = []  # outputs × inputs
        self.biases: list[np.ndarray] = []
        self.bounds: list[tuple[float, float]] = []
        self.before: tuple[np.ndarray, np.ndarray] | None = None  # scale and shift of the input
        self.dtype: Any = np.float32

    def module(self, name: str, module: nn.Module) -> None:
        kind = type(module).__name__
        if isinstance(module, SparseLinear):
            module = module.to_dense()
        if isinstance(module, Select):
            self.select = module.index.cpu().numpy()
        elif isinstance(module, nn.Linear):
            weight = module.weight.detach().cpu().numpy()
            bias = np.zeros(len(weight)) if module.bias is None else module.bias.detach().cpu().numpy()
            self.dtype = weight.dtype
            weight, bias = weight.astype(np.float64), bias.astype(np.float64)
            if not self.weights and self.before is not None:
                scale, shift = self.before
                bias, weight = bias + weight @ shift, weight * scale
            self.weights.append(weight)
            self.biases.append(bias)
            self.bounds.append((-math.inf, math.inf))
        elif isinstance(module, nn.BatchNorm1d):
            self._norm(name, module)
        elif isinstance(module, nn.Hardtanh):
            self._bound(name, (module.min_val, module.max_val))
        elif kind in _BOUNDS:
            self._bound(name, _BOUNDS[kind])
        else:
            raise InputError(f"Module {name!r} ({kind}) has no place in a SparseNetwork, whose layers clip.")

    def function(self, name: str, function: str, args: list[Any], kwargs: Mapping[str, Any]) -> None:
        if function in ("clamp", "hardtanh"):
            keys = ("min", "max") if function == "clamp" else ("min_val", "max_val")
            given = dict(zip(keys, args, strict=False)) | dict(kwargs)
            default = (None, None) if function == "clamp" else (-1.0, 1.0)
            low, high = (given.get(key, default[k]) for k, key in enumerate(keys))
            self._bound(name, (-math.inf if low is None else float(low), math.inf if high is None else float(high)))
        elif function in _BOUNDS:
            self._bound(name, _BOUNDS[function])
        else:
            raise InputError(f"{name!r} ({function}) has no place in a SparseNetwork, whose layers clip.")

    def layers(self) -> list[SparseLayer]:
        found = []
        for k, (weight, bias, (low, high)) in enumerate(zip(self.weights, self.biases, self.bounds, strict=True)):
            if k == 0 and self.select is not None:
                full = np.zeros((len(weight), self._all_inputs()))
                full[:, self.select] = weight
                weight = full
            matrix, offset = weight.T.astype(self.dtype), bias.astype(self.dtype)
            found.append(SparseLayer.from_matrix(matrix, offset, lower=low, upper=high, bias_rule="all"))
        return found

    def _all_inputs(self) -> int:
        assert self.select is not None
        least = int(self.select.max()) + 1
        if self.inputs is not None and self.inputs < least:
            raise InputError(f"Expected at least {least} inputs, which the model reads, got {self.inputs}.")
        return least if self.inputs is None else self.inputs

    def _bound(self, name: str, bounds: tuple[float, float]) -> None:
        if bounds == (-math.inf, math.inf):
            return
        if not self.bounds:
            raise InputError(f"{name!r} clips the input before the first Linear; a SparseNetwork can't.")
        low, high = self.bounds[-1]
        self.bounds[-1] = (min(max(low, bounds[0]), bounds[1]), max(min(high, bounds[1]), bounds[0]))

    def _norm(self, name: str, module: nn.BatchNorm1d) -> None:
        with torch.no_grad():
            mean, variance = module.running_mean, module.running_var
            assert mean is not None
            assert variance is not None
            scale = (variance.double() + module.eps).rsqrt()
            if module.affine:
                scale = scale * module.weight.double()
            shift = -mean.double() * scale
            if module.affine:
                shift = shift + module.bias.double()
        factor, offset = scale.cpu().numpy(), shift.cpu().numpy()
        if not self.weights:
            before = self.before or (np.ones_like(factor), np.zeros_like(factor))
            self.before = (before[0] * factor, before[1] * factor + offset)
        elif self.bounds[-1] == (-math.inf, math.inf):
            self.weights[-1] = self.weights[-1] * factor[:, None]
            self.biases[-1] = self.biases[-1] * factor + offset
        else:
            raise InputError(f"Module {name!r} (BatchNorm1d) follows an activation; a SparseNetwork can't hold it.")
