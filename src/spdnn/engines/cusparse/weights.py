"""Layers on the device: uploaded, renumbered, transposed and measured there; all resident, or two at a time."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...engine import Stopwatch
from ...errors import InputError, MemoryLimitError
from ...network import SparseLayer, SparseNetwork
from .launch import MEASURE_BYTES, Kernels
from .library import FLOAT32, Library
from .memory import Buffer, DeviceMemory
from .order import Orders, order_bytes

_ALIGN = 256


@dataclass(frozen=True)
class DeviceLayer:
    """A layer on the device; addresses, sizes and what its epilogue needs.

    W is CSR, inputs × outputs (transposed: Wᵀ, outputs × inputs), and `descriptor` is cuSPARSE's of it. `measures`
    has (W·h, |W|·h, number of weights) of every input; `tolerance` is what float32 sums may be off, relative to
    |Y|·(|W|·h).
    """

    inputs: int
    outputs: int
    nnz: int
    ptr: int
    columns: int
    values: int
    measures: int
    descriptor: int
    tolerance: float
    keeps_zero: bool
    epilogue: tuple[Any, ...]


class Weights:
    """The layers of a network on the device.

    Resident where they fit in `budget` bytes, else brought in when asked for, two at a time. `grouped`: neurons are
    renumbered (see order.py).
    """

    def __init__(
        self,
        network: SparseNetwork,
        library: Library,
        memory: DeviceMemory,
        kernels: Kernels,
        *,
        budget: int,
        transposed: bool = False,
        grouped: bool = False,
    ):
        self._network, self._library, self._memory, self._kernels = network, library, memory, kernels
        self._transposed = transposed
        self.orders = Orders(network, memory, kernels) if grouped else None
        names = ("ptr", "columns", "values", "bias", "scratch", "w_ptr", "w_columns", "w_values")
        self._staging = {name: memory.buffer("workspace") for name in names}
        self.nbytes = weights_bytes(network)
        self.resident = self.nbytes <= budget
        self._slots: dict[int, tuple[int, Buffer, DeviceLayer]] = {}
        self._layers: list[DeviceLayer] = []
        if self.resident:
            slab = memory.buffer("weights", self.nbytes - order_bytes(network))
            self._slab, at = slab, slab.ptr
            following: SparseLayer | None = network.layers[0]
            for k in range(len(network)):
                layer, following = following, network.layers[k + 1] if k + 1 < len(network) else None
                assert layer is not None
                self.numbers(k + 1, following)
                self._layers.append(self._put(k, layer, at))
                at += _layer_bytes(layer.inputs, layer.outputs, layer.nnz)
            kernels.synchronize()
            for buffer in self._staging.values():
                buffer.free()
            if self.orders:
                self.orders.free_staging()

    def get(self, k: int, watch: Stopwatch | None = None) -> DeviceLayer:
        """Layer k. Where it has to be brought in, `watch` is paused."""
        if self.resident:
            return self._layers[k]
        slot = k % 2
        if slot in self._slots and self._slots[slot][0] == k:
            return self._slots[slot][2]
        self._kernels.synchronize()
        if watch is None:
            return self._bring(k, slot)
        with watch.paused():
            return self._bring(k, slot)

    def _bring(self, k: int, slot: int) -> DeviceLayer:
        layer = self._network.layers[k]
        if slot in self._slots:
            _, buffer, old = self._slots[slot]
            self._library.api.destroy_sp_mat(old.descriptor)
        else:
            buffer = self._memory.buffer("weights")
        at = buffer.need(_layer_bytes(layer.inputs, layer.outputs, layer.nnz))
        device = self._put(k, layer, at)
        self._kernels.synchronize()
        self._slots[slot] = k, buffer, device
        return device

    def close(self) -> None:
        for layer in [*self._layers, *(layer for _, _, layer in self._slots.values())]:
            self._library.api.destroy_sp_mat(layer.descriptor)
        self._layers, self._slots = [], {}

    def numbers(self, level: int, layer: SparseLayer | None = None) -> int:
        """Address of the new numbers of the neurons before layer `level`; 0 where they keep theirs."""
        return self.orders.of(level, layer) if self.orders else 0

    def _put(self, k: int, layer: SparseLayer, at: int) -> DeviceLayer:
        if layer.nnz >= 2**31:
            raise InputError(f"Expected layers of fewer than 2**31 weights, got {layer.nnz:,}.")
        n_in, n_out, nnz = layer.inputs, layer.outputs, layer.nnz
        height = n_out if self._transposed else n_in
        ptr, columns, values, measures, bias = _places(at, n_in, n_out, nnz)
        staged, new_in, new_out = self._staging, self.numbers(k, layer), self.numbers(k + 1)
        given = (
            staged["ptr"].upload(layer.indptr.astype(np.int32)),
            staged["columns"].upload(layer.indices),
            staged["values"].upload(layer.data.astype(np.float32, copy=False)),
        )
        if new_in:
            self._kernels.per_item("order", "renumber", nnz, given[1], nnz, new_in)
        if self._transposed:
            for target, source, nbytes in zip(
                (ptr, columns, values), given, (4 * n_out + 4, 4 * nnz, 4 * nnz), strict=True
            ):
                self._kernels.copy(target, source, nbytes)
            forward = tuple(
                staged[name].need(max(1, nbytes))
                for name, nbytes in (("w_ptr", 4 * n_in + 4), ("w_columns", 4 * nnz), ("w_values", 4 * nnz))
            )
        else:
            forward = ptr, columns, values
        self._transpose(n_out, n_in, nnz, given, forward)
        if new_out:
            self._kernels.per_item("order", "renumber", nnz, columns, nnz, new_out)
        self._kernels.per_row("rows", "measure_weights", n_in, *forward, measures, n_in)
        has_vector = np.ndim(layer.bias) > 0
        if has_vector:
            vector = np.ascontiguousarray(layer.bias, np.float32)
            if new_out:
                given_bias = staged["bias"].upload(vector)
                self._kernels.per_item("order", "move_values", n_out, given_bias, n_out, new_out, bias)
            else:
                self._memory.runtime.memcpy(bias, vector.ctypes.data, vector.nbytes, 1)
        widest = int(layer.fan_in.max(initial=0))
        epilogue = (
            bias if has_vector else 0,
            np.float32(0.0 if has_vector else layer.bias),
            np.float32(layer.lower),
            np.float32(layer.upper),
            np.int32(layer.bias_rule == "all"),
        )
        descriptor = self._library.csr(height, n_in + n_out - height, nnz, ptr, columns, values)
        tolerance = (widest + 2) * 2.0**-23
        return DeviceLayer(
            n_in, n_out, nnz, ptr, columns, values, measures, descriptor, tolerance, layer.keeps_zero, epilogue
        )

    def _transpose(self, rows: int, columns: int, nnz: int, source: tuple[int, ...], target: tuple[int, ...]) -> None:
        """CSR rows × columns to the CSR of its transpose."""
        if nnz == 0:
            self._kernels.zero(target[0], 4 * columns + 4)
            return
        api = self._library.api
        arguments = (rows, columns, nnz, source[2], source[0], source[1], target[2], target[0], target[1])
        kind = (FLOAT32, int(api.Action.NUMERIC), int(api.IndexBase.ZERO), int(api.Csr2CscAlg.DEFAULT))
        with self._library.checked("csr2cscEx2"):
            size = api.csr2csc_ex2_buffer_size(self._library.handle, *arguments, *kind)
            scratch = self._staging["scratch"].need(max(1, size))
            api.csr2csc_ex2(self._library.handle, *arguments, *kind, scratch)


def weights_bytes(network: SparseNetwork) -> int:
    """Bytes all layers take on the device (an upper bound for networks made layer by layer)."""
    widths = network.widths
    if network.is_lazy:
        per_layer = sum(_layer_bytes(a, b, 0) for a, b in itertools.pairwise(widths))
        return per_layer + 8 * network.edges + 2 * _ALIGN * len(network) + order_bytes(network)
    return sum(_layer_bytes(layer.inputs, layer.outputs, layer.nnz) for layer in network) + order_bytes(network)


def require_room(network: SparseNetwork, limit: int) -> None:
    """Raises MemoryLimitError where not even two layers fit."""
    most = weights_bytes(network) // len(network)
    if 2 * most > limit:
        raise MemoryLimitError(
            f"Not enough memory: two layers take {2 * most:,} bytes, the limit is {limit:,} bytes on the device.",
            needed=2 * most,
            limit=limit,
        )


def _places(at: int, inputs: int, outputs: int, nnz: int) -> tuple[int, ...]:
    sizes = (4 * (max(inputs, outputs) + 1), 4 * nnz, 4 * nnz, MEASURE_BYTES * inputs, 4 * outputs)
    places = []
    for size in sizes:
        places.append(at)
        at += -(-size // _ALIGN) * _ALIGN
    return tuple(places)


def _layer_bytes(inputs: int, outputs: int, nnz: int) -> int:
    sizes = (4 * (max(inputs, outputs) + 1), 4 * nnz, 4 * nnz, MEASURE_BYTES * inputs, 4 * outputs)
    return sum(-(-size // _ALIGN) * _ALIGN for size in sizes)
