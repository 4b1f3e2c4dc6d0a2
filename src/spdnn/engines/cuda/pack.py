"""Layers packed for the kernels: units of outputs that read the same inputs, on the device (`kernels/common.cuh`)."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...ahead import map_ahead
from ...errors import MemoryLimitError
from ...fold import Folded, folded_layers, multiplicity
from ...groups import input_groups
from ...machine import usable_cores
from ...network import SparseLayer, SparseNetwork
from ...rows import droppable
from .chunks import Chunks, chunk_layer

GROUP = 8
"""Outputs of a unit where a layer has input-set groups."""
LARGEST_PADDING = 1.5
"""A layer is packed in groups where that takes at most this many times its outputs."""
SLICE = 16
"""Units whose entries stand in turns of 8 in a sliced layer, so that a warp's loads are of whole lines."""

WORKERS = min(16, max(2, usable_cores()))
"""Threads that make layers and cut them into units or chunks."""

LAYER = np.dtype(
    [(name, "<u8") for name in ("index", "weight", "start", "output", "bias")]
    + [(name, "<f4") for name in ("bias0", "lower", "upper")]
    + [
        (name, "<u4")
        for name in ("inputs", "outputs", "units", "g", "width", "bias_all", "may_drop", "entries", "sliced")
    ]
)
"""The structure Layer of the kernels."""


@dataclass(eq=False)
class PackedLayer:
    """One layer on the device, in units or in chunks.

    arrays : what `record`, a LAYER, points to, or for chunks the first arguments of `kernels/staged.cu`, which
    `chunked` holds. units, g : their number and outputs of one. entries : padded ones included.
    """

    record: np.ndarray
    arrays: list[Any]
    units: int
    g: int
    entries: int
    chunked: tuple[Any, ...] | None = None

    @property
    def nbytes(self) -> int:
        return sum(-(-array.nbytes // 16) * 16 for array in self.arrays)


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

    def pack(self, layer: SparseLayer, outputs: np.ndarray, may_drop: bool, *, sliced: bool = False) -> PackedLayer:
        """`outputs`: int64 (units, g) from `unit_outputs`. sliced : take turns (SLICE) where the kernels can."""
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
        record = np.zeros((), LAYER)
        if sliced and g == 1 and width and width % 8 == 0:
            index, weight = self._sliced(index, units, width), self._sliced(weight, units, width)
            entries, record["sliced"] = index.size, True
        arrays = [index, weight]
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
        record["width"], record["entries"] = width or 0, min(entries, 2**32 - 1)
        record["bias_all"], record["may_drop"] = layer.bias_rule == "all", may_drop
        return PackedLayer(record, arrays, units, g, entries)

    def _sliced(self, array: Any, units: int, width: int) -> Any:
        """The entries of SLICE units in turns of 8; units up to a multiple of SLICE are zeros."""
        xp, slices = self._xp, -(-units // SLICE)
        padded = xp.zeros(slices * SLICE * width, array.dtype)
        padded[: array.size] = array.reshape(-1)
        turns = padded.reshape(slices, SLICE, width // 8, 8).transpose(0, 2, 1, 3)
        return xp.ascontiguousarray(turns).reshape(-1)

    def pack_chunks(self, layer: SparseLayer, chunks: Chunks) -> PackedLayer:
        """A layer cut into chunks."""
        xp = self._xp
        host = (chunks.input_start, chunks.inputs, chunks.unit_start, chunks.outputs, chunks.entry_start)
        arrays = [xp.asarray(array) for array in (*host, chunks.local, chunks.weights)]
        bias0, bias = np.float32(0), np.uint64(0)
        if np.ndim(layer.bias):
            bias = xp.asarray(np.asarray(layer.bias, np.float32))
        else:
            bias0 = np.float32(layer.bias)
        bounds = np.float32(layer.lower), np.float32(layer.upper)
        rest = np.uint32(len(chunks)), np.uint32(layer.bias_rule == "all")
        units, g = chunks.outputs.shape
        keep = [*arrays, bias] if np.ndim(layer.bias) else arrays
        chunked = (*arrays, bias, bias0, *bounds, *rest)
        return PackedLayer(np.zeros((), LAYER), keep, units, g, chunks.local.size, chunked)


@dataclass(eq=False)
class PackedNetwork:
    """A network on the device, or where it is larger than `limit` bytes, packed window by window as it is run.

    widths : neurons per level as computed (folded). copies : int64 (outputs computed,), how many original outputs
    each stands for, and expand : which computed output each original one is; None where nothing was folded.
    chunked : layers are cut into chunks where that pays. ready : the network folded already, where memory held it.
    """

    network: SparseNetwork
    grouped: bool
    folded: bool
    limit: int
    widths: list[int] = field(default_factory=list)
    layer_bytes: list[int] = field(default_factory=list)  # padded to 16 bytes an array
    units_of: list[tuple[int, int, int]] = field(default_factory=list)  # (units, g, padded entries)
    chunks_of: list[bool] = field(default_factory=list)
    samples: list[SparseLayer] = field(default_factory=list)  # the first, a middle and the last layer
    expand: np.ndarray | None = None
    streamed: bool = False
    chunked: bool = False
    ready: Folded | None = None

    def __post_init__(self) -> None:
        self._xp = importlib.import_module("cupy")
        self.wide = max(self.network.widths) > 1 << 16
        self._packer = Packer(np.uint32 if self.wide else np.uint16)
        self.may_drop = droppable(self.network)
        self._resident: dict[int, PackedLayer] = {}
        self.table = self._xp.zeros(len(self.network) * LAYER.itemsize, self._xp.uint8)
        self._source: Iterator[tuple[int, SparseLayer, np.ndarray | Chunks]] | None = None
        self.widths.append(self.network.inputs)
        total = 0
        for k, layer, form in self._layers():
            packed = self._pack(k, layer, form)
            if k in (0, len(self.network) // 2, len(self.network) - 1):
                self.samples.append(layer)
            self.widths.append(layer.outputs)
            self.layer_bytes.append(packed.nbytes)
            self.units_of.append((packed.units, packed.g, packed.entries))
            self.chunks_of.append(packed.chunked is not None)
            total += packed.nbytes
            if total > self.limit and not self.streamed:
                self.streamed = True
                self._resident.clear()
            if not self.streamed:
                self._resident[k] = packed
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
            self.ready = None  # gives the host's memory back
        self._xp.cuda.Device().synchronize()

    @property
    def copies(self) -> np.ndarray | None:
        return None if self.expand is None else multiplicity(self.expand, self.widths[-1])

    @property
    def nbytes(self) -> int:
        """Bytes of all layers packed, resident at once or not."""
        return sum(self.layer_bytes)

    def release(self) -> None:
        """Give the device's memory back."""
        self._resident.clear()
        del self.table, self._packer
        self._xp.get_default_memory_pool().free_all_blocks()

    def layer(self, k: int) -> PackedLayer:
        """Layer k, which is on the device."""
        return self._resident[k]

    def _pack(self, k: int, layer: SparseLayer, form: np.ndarray | Chunks) -> PackedLayer:
        if isinstance(form, Chunks):
            return self._packer.pack_chunks(layer, form)
        return self._packer.pack(layer, form, bool(self.may_drop[k + 1]), sliced=not self.chunked)

    def _form(self, layer: SparseLayer) -> np.ndarray | Chunks:
        chunks = chunk_layer(layer, GROUP if self.grouped else 1) if self.chunked else None
        return unit_outputs(layer, self.grouped)[0] if chunks is None else chunks

    def _layers(self) -> Iterator[tuple[int, SparseLayer, np.ndarray | Chunks]]:
        """(number, layer, folded where asked for, its units or chunks); the next ones are made meanwhile."""

        def with_form(layer: SparseLayer) -> tuple[SparseLayer, np.ndarray | Chunks]:
            return layer, self._form(layer)

        if self.folded:
            made = map_ahead(with_form, self._folded_layers(), WORKERS)
        else:
            made = map_ahead(lambda k: with_form(self.network.layers[k]), range(len(self.network)), WORKERS)
        for k, (layer, form) in enumerate(made):
            yield k, layer, form

    def _folded_layers(self) -> Iterator[SparseLayer]:
        if self.ready is not None:
            yield from self.ready.network
            self.expand = self.ready.expand
            return
        expand = None
        for layer, latest in folded_layers(self.network, threads=WORKERS):
            expand = latest
            yield layer
        self.expand = expand

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
            k, layer, form = next(self._source)
            self._resident[k] = self._pack(k, layer, form)
        self._write_table(first, [self._resident[k] for k in range(first, last)])
        self._xp.cuda.Device().synchronize()
