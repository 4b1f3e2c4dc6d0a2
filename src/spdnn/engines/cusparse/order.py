"""An order of every level's neurons in which those that the same neurons read stand together.

cuSPARSE's SpGEMM first joins equal columns among 1024 consecutive multiplications and then sorts what is left, row by
row; the sort takes most of the time. A row of Y multiplies the weights of its entries in their order. Where entries
that stand side by side go to the same outputs, as the challenge's do in groups of 16, joining leaves a small part to
be sorted. So neurons are renumbered, by their readers, while weights and features go to the device; networks without
such groups stay as they are, and the outputs of the last layer always do.
"""

from __future__ import annotations

import importlib
from typing import Any

from ...network import SparseLayer, SparseNetwork
from .launch import Kernels
from .memory import Buffer, DeviceMemory

_MOST_GROUPS = 0.75  # groups per neuron above which renumbering isn't worth it


class Orders:
    """New numbers of the neurons of every level, found when asked for."""

    def __init__(self, network: SparseNetwork, memory: DeviceMemory, kernels: Kernels):
        self._network, self._memory, self._kernels = network, memory, kernels
        self._cupy: Any = importlib.import_module("cupy")
        self._staging = [memory.buffer("workspace") for _ in range(2)]
        self._known: dict[int, Buffer | None] = {len(network): None}

    def of(self, level: int, layer: SparseLayer | None = None) -> int:
        """Address of the int32 new numbers of the neurons that layer `level` (`layer`, if at hand) reads; 0: as
        they are."""
        if level not in self._known:
            self._known[level] = self._find(self._network.layers[level] if layer is None else layer)
        buffer = self._known[level]
        return buffer.ptr if buffer else 0

    @property
    def renumbered(self) -> int:
        """How many of the levels asked for have a new order."""
        return sum(buffer is not None for buffer in self._known.values())

    def free_staging(self) -> None:
        for buffer in self._staging:
            buffer.free()

    def _find(self, layer: SparseLayer) -> Buffer | None:
        cupy, n = self._cupy, layer.inputs
        if n < 2 or layer.nnz == 0:
            return None
        hashes = cupy.zeros(n, cupy.uint64)
        ptr, inputs = (
            buffer.upload(array.astype("int32", copy=False))
            for buffer, array in zip(self._staging, (layer.indptr, layer.indices), strict=True)
        )
        self._kernels.per_row("order", "hash_readers", layer.outputs, ptr, inputs, layer.outputs, hashes.data.ptr)
        order = cupy.argsort(hashes)
        ranked = hashes[order]
        if int((ranked[1:] != ranked[:-1]).sum()) + 1 > _MOST_GROUPS * n:
            return None
        new = cupy.empty(n, cupy.int32)
        new[order] = cupy.arange(n, dtype=cupy.int32)
        buffer = self._memory.buffer("weights", 4 * n)
        self._kernels.copy(buffer.ptr, new.data.ptr, 4 * n)
        self._kernels.synchronize()
        return buffer


def order_bytes(network: SparseNetwork) -> int:
    """Bytes the numbers of all levels take at most."""
    return sum(4 * width + 512 for width in network.widths[:-1])
