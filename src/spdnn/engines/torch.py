"""PyTorch's sparse CSR times dense product, on a CPU or a CUDA device: the baseline its users know.

Values are kept neuron-major, width × rows, so that `Wᵀ @ y` is the product of a CSR matrix and a dense one.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import memory
from ..engine import Engine, Options, Plan
from ..errors import InputError, UnavailableError
from ..features import Features
from ..network import SparseLayer, SparseNetwork
from .layerwise import LayerwisePlan

_DEVICE_SHARE = 0.8


class TorchEngine(Engine):
    """`Options.device` is any of PyTorch's: ``"cpu"`` (the default), ``"cuda"``, ``"cuda:1"``, or a GPU's number."""

    name = "torch"
    requires = "torch"
    priority = 5
    dtypes = ("float32", "float64")
    switches = ("compact", "merge")

    def available(self) -> str | None:
        if importlib.util.find_spec("torch") is None:
            return "needs the package torch; pip install 'spdnn[torch]'"
        return None

    def _prepare(self, network: SparseNetwork, rows: int, options: Options) -> Plan:
        return TorchPlan(network, rows, options)

    def versions(self) -> dict[str, str]:
        return {"torch": importlib.metadata.version("torch")}


@dataclass(frozen=True)
class _Weights:
    """matrix : Wᵀ in CSR. bias : (outputs, 1). everywhere : the bias may be added to zeros too, as rule "all" has it
    and as comes to the same where it isn't positive and values below zero become zero."""

    matrix: Any
    bias: Any
    everywhere: bool


class TorchPlan(LayerwisePlan):
    drop_share = 0.1

    def __init__(self, network: SparseNetwork, rows: int, options: Options):
        import torch

        self._torch = torch
        self._device = _device(torch, options.device)
        self._type = getattr(torch, options.dtype)
        self.bytes_per_value = 2 * np.dtype(options.dtype).itemsize
        super().__init__(network, rows, options)

    def describe(self) -> dict[str, Any]:
        return {"format": "csr", "device": str(self._device), **super().describe()}

    def _free_bytes(self) -> int:
        if self._device.type != "cuda" or self.options.memory_limit is not None:
            return memory.budget(self.options.memory_limit)
        return int(self._torch.cuda.mem_get_info(self._device)[0] * _DEVICE_SHARE)

    @contextlib.contextmanager
    def _settings(self) -> Iterator[None]:
        torch, before = self._torch, self._torch.get_num_threads()
        torch.set_num_threads(self.options.threads or before)
        try:
            with torch.inference_mode():
                yield
        finally:
            torch.set_num_threads(before)

    # -- weights and rows
    def _prepared(self, layer: SparseLayer) -> _Weights:
        torch = self._torch
        parts = (torch.from_numpy(np.array(a)) for a in (layer.indptr, layer.indices.astype(np.int64), layer.data))
        indptr, indices, data = (part.to(self._device) for part in parts)
        shape = (layer.outputs, layer.inputs)
        bias = np.array(np.broadcast_to(layer.bias, (layer.outputs,)), self._dtype)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
            matrix = torch.sparse_csr_tensor(indptr, indices, data.to(self._type), shape, check_invariants=False)
        return _Weights(
            matrix,
            torch.from_numpy(bias).to(self._device)[:, None],
            layer.bias_rule == "all" or (layer.lower == 0.0 and bool((bias <= 0).all())),
        )

    def _weights_nbytes(self, weights: _Weights) -> int:
        matrix = weights.matrix
        parts = (matrix.crow_indices(), matrix.col_indices(), matrix.values(), weights.bias)
        return sum(part.numel() * part.element_size() for part in parts)

    def _taken_in(self, features: Features) -> tuple[Any, int]:
        y = self._torch.from_numpy(np.array(features.to_dense(self._dtype).T, order="C")).to(self._device)
        return y, y.numel() * y.element_size()

    # -- a layer
    def _step(self, y: Any, weights: _Weights, layer: SparseLayer) -> Any:
        z = self._product(weights.matrix, y)
        if weights.everywhere:
            z += weights.bias
        else:
            z += weights.bias * (z != 0)
        if np.isfinite(layer.lower) or np.isfinite(layer.upper):
            z.clamp_(layer.lower, layer.upper)
        return z

    def _product(self, matrix: Any, y: Any) -> Any:
        if matrix.values().numel() == 0:
            return y.new_zeros((matrix.shape[0], y.shape[1]))
        return matrix @ y

    # -- questions about rows
    def _alive(self, y: Any) -> np.ndarray:
        if y.shape[0] == 0:
            return np.zeros(y.shape[1], bool)
        low, high = y.aminmax(dim=0)
        return ((low < 0) | (high > 0)).cpu().numpy()

    def _take(self, y: Any, ids: np.ndarray) -> Any:
        return y if ids.size == y.shape[1] else y.index_select(1, self._ids(ids))

    def _equal(self, y: Any) -> np.ndarray:
        key = np.random.default_rng(1).random((1, y.shape[0])).astype(self._dtype)
        return self._equal_by_products(y, (self._torch.from_numpy(key).to(self._device) @ y)[0].cpu().numpy())

    def _sums(self, y: Any) -> np.ndarray:
        return y.sum(0, dtype=self._torch.float64).cpu().numpy()

    def _dense(self, y: Any, ids: np.ndarray) -> np.ndarray:
        return y.index_select(1, self._ids(ids)).T.contiguous().cpu().numpy()

    def _ids(self, ids: np.ndarray) -> Any:
        return self._torch.from_numpy(ids.astype(np.int64)).to(self._device)


def _device(torch: Any, wanted: str | int | None) -> Any:
    """The torch device asked for. Raises InputError for one PyTorch doesn't know, UnavailableError for one it lacks."""
    name = "cpu" if wanted is None else str(wanted)
    name = f"cuda:{name}" if name.isdecimal() else name
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"Expected a device such as cpu, cuda or cuda:1, got {wanted!r}.") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"Expected the device cpu or a cuda one, got {wanted!r}.")
    count = torch.cuda.device_count()
    number = name.partition(":")[2]  # device.index has eight bits
    if device.type == "cuda" and int(number or 0) >= count:
        raise UnavailableError(f"Expected {name}, but PyTorch {torch.__version__} finds {count} CUDA devices here.")
    return device
