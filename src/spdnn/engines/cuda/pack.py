"""Layers packed for the kernels: units of outputs that read the same inputs, on the device (`kernels/common.cuh`)."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...errors import InputError, MemoryLimitError
from ...fold import Folder, multiplicity
from ...groups import input_groups
from ...network import SparseLayer, SparseNetwork
from ...rows import droppable

GROUP = 8
"""Outputs of a unit where a layer has input-set groups."""
LARGEST_PADDING = 1.5
"""A layer is packed in groups where that takes at most this many times its outputs."""

LAYER = np.dtype(
    [(name, "<u8") for name in ("index", "weight", "start", "output", "bias")]
    + [(name, "<f4") for name in ("bias0", "lower", "upper")]
    + [(name, "<u4") for name in ("inputs", "outputs", "units", "g", "width", "bias_all", "may_drop")]
)
"""The structure Layer of the kernels."""


@dataclass(eq=False)
class PackedLayer:
    """One layer on the device. `arrays` are what `record`, a LAYER, points to; `entries` counts padded ones."""

    record: np.ndarray
    arrays: list[Any]
    entries: int

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)


def unit_outputs(layer: SparseLayer, grouped: bool) -> tuple[np.ndarray, int]:
    """int64 (units, g): the outputs of each unit, −1 for padding, and g.

    Outputs with the same inputs stand together even where g is 1, so that what one has read is near for the next.
    """
    groups = input_groups(layer)
    if not grouped or len(groups) == layer.outputs:
        return groups.order[:, None], 1
    units = -(-groups.sizes // GROUP)
    if units.sum() * GROUP > LARGEST_PADDING * layer.outputs:
        return groups.order[:, None], 1
    within = np.arange(layer.outputs) - np.repeat(groups.starts[:-1], groups.sizes)
    first_unit = np.cumsum(units) - units
    unit = np.repeat(first_unit, groups.sizes) + within // GROUP
    out = np.full((int(units.sum()), GROUP), -1, np.int64)
    out[unit, within % GROUP] = groups.order
    return out, GROUP


class Packer:
    """Packs layers for one device; keeps the last arrays uploaded, which layers of one network often share."""

    def __init__(self, index_dtype: Any):
        self._xp = importlib.import_module("cupy")
        self._index_dtype = index_dtype
        self._last: dict[str, tuple[np.ndarray, Any]] = {}

    def _upload(self, name: str, array: np.ndarray) -> Any:
        """The array on the device, as it was last uploaded under that name if it is the same memory."""
        last = self._last.get(name)
        here = array.__array_interface__["data"][0]
        if last is not None and last[0].__array_interface__["data"][0] == here and last[0].shape == array.shape:
            return last[1]
        there = self._xp.asarray(array)
        self._last[name] = (array, there)  # the host array is held, so its address can't be another's
        return there

    def pack(self, layer: SparseLayer, outputs: np.ndarray, may_drop: bool) -> PackedLayer:
        """`outputs`: int64 (units, g) from `unit_outputs`."""
        xp = self._xp
        units, g = outputs.shape
        fan_in = layer.fan_in
        first = np.maximum(outputs[:, 0], 0)
        length = fan_in[first] if units else np.zeros(0, np.int64)
        unit = 8 if units and (length == length[0]).all() and length[0] % 8 == 0 else 2
        padded = -(-length // unit) * unit
        width = int(padded[0]) if units and (padded == padded[0]).all() else None
        start = np.zeros(units + 1, np.int64)
        np.cumsum(padded, out=start[1:])
        entries = int(start[-1])
        data = self._upload("data", layer.data).astype(xp.float32, copy=False)
        indices = self._upload("indices", layer.indices)
        begin = self._upload("indptr", layer.indptr)
        there = xp.asarray(outputs)
        start_there = xp.asarray(start)
        place = xp.arange(entries)
        of = place // max(1, width) if width is not None else xp.searchsorted(start_there, place, side="right") - 1
        local = place - start_there[of]
        lengths = xp.asarray(length)[of]
        valid = local < lengths
        local = xp.minimum(local, lengths - 1)
        index = indices[begin[xp.asarray(first)[of]] + local].astype(self._index_dtype)
        weight = xp.zeros((entries, g), xp.float32)
        for member in range(g):
            output = there[of, member]
            source = begin[xp.maximum(output, 0)] + local
            ok = valid & (output >= 0)
            weight[:, member] = xp.where(ok, data[xp.where(ok, source, 0)], xp.float32(0)) if data.size else 0
        arrays = [index, weight]
        record = np.zeros((), LAYER)
        record["index"], record["weight"] = index.data.ptr, weight.data.ptr
        if width is None:
            starts = start_there.astype(xp.uint64)
            arrays.append(starts)
            record["start"] = starts.data.ptr
        if g > 1 or (outputs[:, 0] != np.arange(units)).any():
            ids = xp.asarray(outputs.astype(np.int32)).view(xp.uint32)  # −1 is NONE
            arrays.append(ids)
            record["output"] = ids.data.ptr
        if np.ndim(layer.bias):
            bias = xp.asarray(np.asarray(layer.bias, np.float32))
            arrays.append(bias)
            record["bias"] = bias.data.ptr
        else:
            record["bias0"] = layer.bias
        record["lower"], record["upper"] = layer.lower, layer.upper
        record["inputs"], record["outputs"], record["units"], record["g"] = layer.inputs, layer.outputs, units, g
        record["width"] = width or 0
        record["bias_all"], record["may_drop"] = layer.bias_rule == "all", may_drop
        return PackedLayer(record, arrays, entries)


@dataclass(eq=False)
class PackedNetwork:
    """A network on the device, or where it is larger than `limit` bytes, packed window by window as it is run.

    widths : neurons per level as computed (folded). copies : int64 (outputs computed,), how many original outputs
    each stands for, and expand : which computed output each original one is; None where nothing was folded.
    levels : depths at which `prefix` may cut the network.
    """

    network: SparseNetwork
    grouped: bool
    folded: bool
    limit: int
    widths: list[int] = field(default_factory=list)
    layer_bytes: list[int] = field(default_factory=list)
    units_of: list[tuple[int, int, int]] = field(default_factory=list)  # (units, g, padded entries)
    expand: np.ndarray | None = None
    streamed: bool = False
    levels: tuple[int, ...] = ()
    expands: dict[int, np.ndarray | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._xp = importlib.import_module("cupy")
        self.wide = max(self.network.widths) > 1 << 16
        self._packer = Packer(np.uint32 if self.wide else np.uint16)
        self.may_drop = droppable(self.network)
        self._resident: dict[int, PackedLayer] = {}
        self.table = self._xp.zeros(len(self.network) * LAYER.itemsize, self._xp.uint8)
        self._source: Iterator[tuple[int, SparseLayer, np.ndarray, Folder | None]] | None = None
        self.widths.append(self.network.inputs)
        total = 0
        folder: Folder | None = None
        for k, layer, outputs, folder in self._layers():
            packed = self._packer.pack(layer, outputs, bool(self.may_drop[k + 1]))
            self.widths.append(layer.outputs)
            self.layer_bytes.append(packed.nbytes)
            self.units_of.append((len(outputs), outputs.shape[1], packed.entries))
            total += packed.nbytes
            if total > self.limit and not self.streamed:
                self.streamed = True
                self._resident.clear()
            if not self.streamed:
                self._resident[k] = packed
            if k + 1 in self.levels:
                self.expands[k + 1] = folder.expand if folder else None
        self.expand = folder.expand if folder else None
        largest = max(self.layer_bytes)
        if largest > self.limit:
            raise MemoryLimitError(
                f"Expected room for the largest layer, {largest} bytes, on the GPU; the limit leaves {self.limit}. "
                "Raise the memory limit.",
                needed=largest,
                limit=self.limit,
            )
        if not self.streamed:
            self._write_table(0, [self._resident[k] for k in range(len(self.network))])
        self._xp.cuda.Device().synchronize()

    @property
    def copies(self) -> np.ndarray | None:
        return None if self.expand is None else multiplicity(self.expand, self.widths[-1])

    @property
    def nbytes(self) -> int:
        """Bytes of all layers packed, resident at once or not."""
        return sum(self.layer_bytes)

    def _layers(self) -> Iterator[tuple[int, SparseLayer, np.ndarray, Folder | None]]:
        """(number, layer, folded where asked for, its units, the folder); the next ones are made meanwhile."""
        folder = Folder(self.network.inputs) if self.folded else None
        depth = len(self.network)
        ahead = 8
        with ThreadPoolExecutor(ahead) as pool:

            def make(k: int) -> tuple[SparseLayer, np.ndarray | None]:
                layer = self.network.layers[k]
                return layer, None if folder else unit_outputs(layer, self.grouped)[0]

            pending = [pool.submit(make, k) for k in range(min(ahead, depth))]
            for k in range(depth):
                layer, outputs = pending.pop(0).result()
                if k + ahead < depth:
                    pending.append(pool.submit(make, k + ahead))
                if folder:
                    layer = folder.fold(layer)
                    outputs = unit_outputs(layer, self.grouped)[0]
                assert outputs is not None
                yield k, layer, outputs, folder

    def _write_table(self, first: int, layers: list[PackedLayer]) -> None:
        records = np.array([layer.record for layer in layers], LAYER).view(np.uint8)
        self.table[first * LAYER.itemsize : (first + len(layers)) * LAYER.itemsize] = self._xp.asarray(records)

    def windows(self) -> list[tuple[int, int]]:
        """The layer ranges that are on the device together: one range where all are."""
        if not self.streamed:
            return [(0, len(self.network))]
        ranges, first, used = [], 0, 0
        for k, nbytes in enumerate(self.layer_bytes):
            if used + nbytes > self.limit and k > first:
                ranges.append((first, k))
                first, used = k, 0
            used += nbytes
        return [*ranges, (first, len(self.network))]

    def bring(self, first: int, last: int) -> None:
        """Put layers first … last − 1 on the device in the place of others. Windows come in order, from 0."""
        if not self.streamed:
            return
        if first == 0:
            self._source = self._layers()
        assert self._source is not None
        self._resident.clear()
        for _ in range(first, last):
            k, layer, outputs, _ = next(self._source)
            self._resident[k] = self._packer.pack(layer, outputs, bool(self.may_drop[k + 1]))
        self._write_table(first, [self._resident[k] for k in range(first, last)])
        self._xp.cuda.Device().synchronize()

    def prefix(self, network: SparseNetwork) -> PackedNetwork:
        """The beginning of this network, whose depth is in `levels`, sharing the device's memory with it.

        `network` is the beginning as a network of its own.
        """
        depth = len(network)
        if self.streamed or depth not in self.expands:
            raise InputError(f"Expected a resident network packed with levels={depth}, got levels {self.levels}.")
        part = copy.copy(self)
        part.network, part.may_drop = network, self.may_drop[: depth + 1]
        part.widths, part.layer_bytes = self.widths[: depth + 1], self.layer_bytes[:depth]
        part.units_of, part.expand = self.units_of[:depth], self.expands[depth]
        return part
