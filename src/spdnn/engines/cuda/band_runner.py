"""Layers whose inputs are brought into shared memory band by band (`kernels/bands.cu`), over tiles of four rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import loader
from .streaming import PACKAGE, StreamRunner


class BandRunner(StreamRunner):
    """Runs a packed network, all layers of which are cut into bands, layer by layer."""

    def _load(self, index: dict[str, Any], device: Any) -> None:
        shape = self._packed.bands
        assert shape
        self._shape = shape
        defines = {
            "WARPS": shape.warps, "UNITS": shape.units, "CLUSTER": shape.cluster, "STAGE": shape.stage,
            "DEPTH": shape.depth,
        }  # fmt: skip
        self._bands = loader.load(PACKAGE, "bands", defines).get_function("bands")
        self._bands.max_dynamic_shared_size_bytes = self._shared = shape.shared_bytes

    def _compute(self, first: int, last: int, keep: Any) -> None:
        packed, u32, u64 = self._packed, np.uint32, np.uint64
        array, stride, is_bits = self._input
        out, count = self._buffers[self._next], self._count()
        rows = (self._list, self._counts[self._numbered, 1:]) if self._listed else (u64(0), u64(0))
        arguments = (
            packed.band_table, u32(first), array, u64(stride), u32(is_bits), out, u64(self._stride), keep, count, *rows,
        )  # fmt: skip
        cluster = self._shape.cluster
        items = -(-self._capacity // (self._tile * cluster)) * packed.parts_of[first]
        blocks = min(items, self._sms // cluster) * cluster
        self._bands((blocks,), (self._shape.warps * 32 + 32,), arguments, shared_mem=self._shared)
        self._input, self._next, self._listed = (out, self._width * self._neuron_bytes, False), self._next ^ 1, False
