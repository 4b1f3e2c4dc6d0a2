"""Layers packed for the kernels: units of outputs that read the same inputs, on the device (`kernels/common.cuh`)."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ... import memory
from ...ahead import map_ahead
from ...errors import InputError, MemoryLimitError
from ...fold import Folded, folded_layers, multiplicity
from ...groups import input_groups
from ...machine import usable_cores
from ...network import SparseLayer, SparseNetwork
from ...rows import droppable
from .bands import Bands, Order, cut_bands, order_layer
from .bands import Shape as BandShape
from .chunks import Chunks, chunk_layer
from .pieces import MOST_LOADS, Pieces, cut_layer
from .places import along, loads, place_units

if TYPE_CHECKING:
    from .windows import HeldLayer, Windows

GROUP = 8
"""Outputs of a unit where a layer has input-set groups."""
LARGEST_PADDING = 1.5
"""A layer is packed in groups where that takes at most this many times its outputs."""
TURN_UNITS, TURN = 32, 4
"""Units of a slice of the second form, and entries of a step."""
FEW_CONFLICTS = 0.05
"""Share of loads that may wait for another before a layer's second form is put in another order."""
MOST_SPREAD = 2048
"""Outputs of a layer up to which its second form is put in another order: tiles of 16 rows of wider ones don't fit
shared memory."""
SLICE = 16
"""Units whose entries stand in turns of 8 in a sliced layer, so that a warp's loads are of whole lines."""

Form = np.ndarray | Chunks | Pieces | Bands
"""How a layer is packed: the outputs of its units, or what it is cut into."""

WORKERS = min(16, max(2, usable_cores()))
"""Threads that make layers and cut them into units or chunks."""

LAYER = np.dtype(
    [(name, "<u8") for name in ("index", "weight", "start", "output", "bias", "turns", "turn_start", "turn_output")]
    + [(name, "<u8") for name in ("placed", "place", "place_in", "place_out")]
    + [(name, "<f4") for name in ("bias0", "lower", "upper")]
    + [(name, "<u4") for name in ("inputs", "outputs", "units", "g", "width", "bias_all", "may_drop", "entries")]
    + [(name, "<u4") for name in ("sliced", "slices", "turn_steps", "coded", "all_steps", "through", "unused")]
)
"""The structure Layer of the kernels."""
CHUNKED = np.dtype(
    [(name, "<u8") for name in ("chunk", "input", "output", "entry_start", "local", "weight", "bias")]
    + [(name, "<f4") for name in ("bias0", "lower", "upper")]
    + [(name, "<u4") for name in ("chunks", "bias_all", "coded")]
)
"""The structure Chunked of `kernels/staged.cu`."""
PIECED = np.dtype(
    [(name, "<u8") for name in ("piece", "turns", "turn_start", "output", "bias")]
    + [(name, "<f4") for name in ("bias0", "lower", "upper")]
    + [(name, "<u4") for name in ("pieces", "turn_steps", "bias_all", "coded", "unused")]
)
"""The structure Pieced of `kernels/pieces.cu`."""
BANDED = np.dtype(
    [(name, "<u8") for name in ("start", "entries", "output", "bias")]
    + [(name, "<f4") for name in ("bias0", "lower", "upper")]
    + [(name, "<u4") for name in ("inputs", "bands", "band", "parts", "units", "bias_all", "unused")]
)
"""The structure Banded of `kernels/bands.cu`."""


@dataclass(eq=False)
class PackedLayer:
    """One layer on the device, in units, in chunks, in pieces or in bands.

    arrays : what `record`, a LAYER, CHUNKED, PIECED or BANDED, points to. units, g : their number and outputs of one.
    entries : padded ones included. unit_bytes : about what kernels for few rows read, the second form where there is
    one. alike : neighbouring units of the second form mostly read the same inputs.
    """

    record: np.ndarray
    arrays: list[Any]
    units: int
    g: int
    entries: int
    unit_bytes: int = 0
    alike: bool = False

    @property
    def chunked(self) -> bool:
        return self.record.dtype == CHUNKED

    @property
    def pieced(self) -> bool:
        return self.record.dtype == PIECED

    @property
    def parts(self) -> int:
        return int(self.record["parts"]) if self.record.dtype == BANDED else 0

    @property
    def through(self) -> bool:
        return self.record.dtype == LAYER and bool(self.record["through"])

    @property
    def nbytes(self) -> int:
        return _padded_bytes(self.arrays)


def _padded_bytes(arrays: list[Any]) -> int:
    return sum(-(-array.nbytes // 16) * 16 for array in arrays)


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


def suits_places(layer: SparseLayer, tile: tuple[int, int]) -> bool:
    """Whether outputs of a layer can take the places of inputs in a tile as Packer takes it, and that without waste."""
    units = along(layer)[:, 0]
    start = np.concatenate([[0], np.cumsum(layer.fan_in[units])])
    inputs = layer.indices[np.repeat(layer.indptr[units] - start[:-1], np.diff(start)) + np.arange(layer.nnz)]
    order, steps = _turn_order(np.diff(start))
    if place_units(start, inputs, order, np.arange(layer.inputs), *tile).through:
        return False
    if not layer.nnz:
        return True
    source, valid = _turn_entries(start, order, steps)
    return valid.size * loads(inputs[source]) <= MOST_LOADS * layer.nnz


def _turn_order(length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Units of so many entries in an order in which those of about as many stand in a slice, −1 for none; and the steps
    of each slice."""
    order = np.argsort(-length, kind="stable")
    slices = -(-order.size // TURN_UNITS)
    order = np.concatenate([order, np.full(slices * TURN_UNITS - order.size, -1)])
    return order, -(-length[order[::TURN_UNITS]] // TURN)


def _turn_entries(start: np.ndarray, order: np.ndarray, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(steps of all slices, TURN_UNITS, TURN): which entry of a layer stands there, and whether one does.

    order : int64 (slices · TURN_UNITS,), units, −1 for none.
    """
    begin = np.cumsum(steps) - steps
    unit = np.repeat(order.reshape(-1, TURN_UNITS), steps, axis=0)
    k = (np.arange(unit.shape[0]) - np.repeat(begin, steps))[:, None, None] * TURN + np.arange(TURN)
    have = np.where(unit < 0, 0, np.diff(start)[unit])[..., None]
    source = start[unit][..., None] + np.clip(k, 0, np.maximum(have - 1, 0))
    return np.minimum(source, max(0, start[-1] - 1)), k < have


def _conflicts(inputs: np.ndarray) -> float:
    """Share of loads that wait for another: of eight lanes, i and i + 4 read the same banks where both inputs are even
    or both odd, and don't where it's the same input. inputs : (steps, TURN_UNITS, TURN)."""
    eights = inputs.reshape(inputs.shape[0], -1, 2, 4, TURN)
    one, other = eights[:, :, 0], eights[:, :, 1]
    return float(((one != other) & (one % 2 == other % 2)).mean())


def _alike(inputs: np.ndarray) -> bool:
    """Whether eight lanes mostly read the same input. inputs : (steps, TURN_UNITS, TURN)."""
    eights = inputs.reshape(inputs.shape[0], -1, 8, TURN)
    return bool((eights != eights[:, :, :1]).mean() < FEW_CONFLICTS)


def _spread(inputs: np.ndarray, start: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Units and entries in an order in which lanes i and i + 4 of eight mostly read an even and an odd input: the one
    has its odd inputs first, the other its even ones, and a unit with many odd inputs meets one with many even ones.

    Returns the order of units, changed within slices, and which entry takes each entry's place.
    """
    odd = np.concatenate([[0], np.cumsum(inputs[: start[-1]] % 2)])[start]
    share = np.diff(odd) / np.maximum(1, np.diff(start))
    ranked = np.where(order < 0, 2.0, share[order]).reshape(-1, TURN_UNITS).argsort(axis=1, kind="stable")
    half = TURN_UNITS // 2
    pairs = np.stack([ranked[:, :half].reshape(-1, half // 4, 4), ranked[:, : half - 1 : -1].reshape(-1, half // 4, 4)])
    lanes = pairs.transpose(1, 2, 0, 3).reshape(-1, TURN_UNITS)
    order = np.take_along_axis(order.reshape(-1, TURN_UNITS), lanes, axis=1).reshape(-1)
    first_odd = np.zeros(start.size - 1, np.int64)
    placed = order >= 0
    first_odd[order[placed]] = (np.arange(order.size) % 8 >= 4)[placed]
    unit = np.repeat(np.arange(start.size - 1), np.diff(start))
    return order, np.lexsort((inputs[: start[-1]] % 2 == first_odd[unit], unit))


class Packer:
    """Packs layers for one device; keeps the last arrays uploaded, which layers of one network often share.

    tile : where not None, (places of a tile, units of a pass): layers are packed for `placed.cu`, too, in order.
    """

    def __init__(self, index_dtype: Any, tile: tuple[int, int] | None = None):
        self._xp = importlib.import_module("cupy")
        self._index_dtype, self._tile = index_dtype, tile
        self._last: dict[str, tuple[np.ndarray, Any]] = {}
        self.start()

    def start(self) -> None:
        """Before the first layer is packed (again): inputs are in their places."""
        self._places: np.ndarray | None = None  # of the inputs of the next layer; None: each in that of its number
        self._there: Any = None

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
        record["inputs"], record["outputs"], record["units"], record["g"] = layer.inputs, layer.outputs, units, g
        turned = sliced and g == 1 and units > 0
        turns, placed, alike = self._turns(record, start, outputs[:, 0], index, weight) if turned else ([], [], False)
        if not units:
            self._places = np.zeros(0, np.uint16)
            self._there = xp.zeros(1, xp.uint16)
        arrays = []
        if not placed:  # else the kernels read the second form only
            if sliced and g == 1 and width and width % 8 == 0:
                index, weight = self._sliced(index, units, width), self._sliced(weight, units, width)
                entries, record["sliced"] = index.size, True
            arrays = [index, weight]
            record["index"], record["weight"] = index.data.ptr, weight.data.ptr
        first = list(arrays)
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
        unit_bytes = _padded_bytes(arrays) + _padded_bytes(turns) - (_padded_bytes(first) if turns else 0)
        arrays += turns + placed
        record["lower"], record["upper"] = layer.lower, layer.upper
        record["width"], record["entries"] = width or 0, min(entries, 2**32 - 1)
        record["bias_all"], record["may_drop"] = layer.bias_rule == "all", may_drop
        return PackedLayer(record, arrays, units, g, entries, unit_bytes, alike)

    def _sliced(self, array: Any, units: int, width: int) -> Any:
        """The entries of SLICE units in turns of 8; units up to a multiple of SLICE are zeros."""
        xp, slices = self._xp, -(-units // SLICE)
        padded = xp.zeros(slices * SLICE * width, array.dtype)
        padded[: array.size] = array.reshape(-1)
        turns = padded.reshape(slices, SLICE, width // 8, 8).transpose(0, 2, 1, 3)
        return xp.ascontiguousarray(turns).reshape(-1)

    def _turns(
        self, record: np.ndarray, start: np.ndarray, ids: np.ndarray, index: Any, weight: Any
    ) -> tuple[list[Any], list[Any], bool]:
        """The second form of single outputs `ids`, whose entries are index and weight from `start` on.

        Gives its arrays, those for `placed.cu`, and whether neighbours mostly read the same inputs.

        Units of about the same length stand in a slice. An entry is one word, the weight's upper half above the
        index, where all weights are exact in bfloat16 (the lower halves of their float32 are zero), else two.
        """
        xp = self._xp
        order, steps = _turn_order(np.diff(start))
        slices = steps.size
        turn_start = np.concatenate([[0], np.cumsum(steps)])
        if index.size == 0:
            index, weight = xp.zeros(1, self._index_dtype), xp.zeros(1, xp.float32)
        inputs = index.get()
        source, valid = _turn_entries(start, order, steps)
        if (
            start[-1] > 0
            and not self._tile
            and order.size <= MOST_SPREAD
            and _conflicts(inputs[source]) > FEW_CONFLICTS
        ):
            order, entry = _spread(inputs, start, order)
            source, valid = _turn_entries(start, order, steps)
            source = entry[source]
        source, valid = xp.asarray(source), xp.asarray(valid)
        found = index[source].astype(xp.uint32)
        words = xp.where(valid, weight.reshape(-1)[source], xp.float32(0)).view(xp.uint32)
        coded = self._index_dtype == np.uint16 and not bool((words & xp.uint32(0xFFFF)).any())
        room = xp.zeros((words.size * (1 if coded else 2) + 256), xp.uint32)  # a step past the last may be read
        if coded:
            room[: words.size] = ((words & xp.uint32(0xFFFF0000)) | found).reshape(-1)
        else:
            pairs = room[: 2 * words.size].reshape(words.shape[0], 2, TURN_UNITS, 2, 2)
            for part, array in enumerate((found, words)):
                pairs[..., part] = array.reshape(words.shape[0], TURN_UNITS, 2, 2).transpose(0, 2, 1, 3)
        alike = not source.size or _alike(inputs[source.get()])
        arrays = [room]
        record["turns"], record["slices"], record["coded"] = room.data.ptr, slices, coded
        record["all_steps"] = steps.sum()
        if (steps == steps[0]).all():
            record["turn_steps"] = steps[0]
        else:
            arrays.append(xp.asarray(turn_start.astype(np.uint32)))
            record["turn_start"] = arrays[-1].data.ptr
        outputs = np.where(order < 0, -1, ids[order])
        if (outputs != np.arange(outputs.size)).any():
            arrays.append(xp.asarray(outputs.astype(np.int32)).view(xp.uint32))
            record["turn_output"] = arrays[-1].data.ptr
        placed = self._placed(record, start, inputs, order, outputs, room, found, valid) if self._tile else []
        return arrays, placed, alike

    def _placed(
        self,
        record: np.ndarray,
        start: np.ndarray,
        inputs: np.ndarray,
        order: np.ndarray,
        outputs: np.ndarray,
        turns: Any,
        found: Any,
        valid: Any,
    ) -> list[Any]:
        """The second form, `turns` of inputs `found`, with places in the place of inputs: its arrays."""
        assert self._tile
        xp, (places, together) = self._xp, self._tile
        before = np.arange(int(record["inputs"])) if self._places is None else self._places
        placing = place_units(start, inputs, order, before, places, together)
        after = np.zeros(int(record["outputs"]), np.uint16)
        after[outputs[outputs >= 0]] = placing.of[outputs >= 0]
        place = xp.where(valid, xp.asarray(before.astype(np.uint32))[found], xp.uint32(places - 1))
        words = turns.copy()
        if record["coded"]:
            words[: place.size] = ((words[: place.size] & xp.uint32(0xFFFF0000)) | place.reshape(-1)).astype(xp.uint32)
        else:
            pairs = words[: 2 * place.size].reshape(place.shape[0], 2, TURN_UNITS, 2, 2)
            pairs[..., 0] = place.reshape(place.shape[0], TURN_UNITS, 2, 2).transpose(0, 2, 1, 3)
        of, out = xp.asarray(placing.of), xp.asarray(after)
        record["placed"], record["place"], record["place_out"] = words.data.ptr, of.data.ptr, out.data.ptr
        record["through"] = placing.through
        arrays = [words, of, out]
        if self._places is not None:
            arrays.append(self._there.copy())  # windows of layers come and go
            record["place_in"] = arrays[-1].data.ptr
        self._places, self._there = after, out
        return arrays

    def _record(
        self, kind: np.dtype, layer: SparseLayer, host: dict[str, np.ndarray], order: np.ndarray | None = None
    ) -> tuple[np.ndarray, list[Any]]:
        """A record that points to the arrays of `host` and has the layer's biases (in that order) and bounds."""
        record = np.zeros((), kind)
        if np.ndim(layer.bias):
            bias = np.asarray(layer.bias, np.float32)
            host = {**host, "bias": bias if order is None else bias[order]}
        else:
            record["bias0"] = layer.bias
        arrays = [self._xp.asarray(np.ascontiguousarray(array)) for array in host.values()]
        for name, array in zip(host, arrays, strict=True):
            record[name] = array.data.ptr
        record["lower"], record["upper"], record["bias_all"] = layer.lower, layer.upper, layer.bias_rule == "all"
        return record, arrays

    def pack_chunks(self, layer: SparseLayer, chunks: Chunks) -> PackedLayer:
        """A layer cut into chunks."""
        halves = chunks.weights.view(np.uint16).reshape(*chunks.weights.shape, 2)
        coded = not halves[..., 0].any()
        host = {
            "chunk": chunks.table(),
            "input": chunks.inputs,
            "output": chunks.outputs,
            "entry_start": chunks.entry_start,
            "local": chunks.local,
            "weight": halves[..., 1] if coded else chunks.weights,
        }
        record, arrays = self._record(CHUNKED, layer, host)
        record["chunks"], record["coded"] = len(chunks), coded
        units, g = chunks.outputs.shape
        return PackedLayer(record, arrays, units, g, chunks.local.size)

    def pack_pieces(self, layer: SparseLayer, pieces: Pieces) -> PackedLayer:
        """A layer cut into pieces."""
        steps, host = pieces.steps, {"piece": pieces.table, "turns": pieces.words, "output": pieces.outputs}
        even = bool(steps.size) and bool((steps == steps[0]).all())
        if not even:
            host["turn_start"] = np.concatenate([[0], np.cumsum(steps)]).astype(np.uint32)
        record, arrays = self._record(PIECED, layer, host)
        record["pieces"], record["coded"], record["turn_steps"] = len(pieces), pieces.coded, steps[0] if even else 0
        return PackedLayer(record, arrays, pieces.outputs.size, 1, int(steps.sum()) * TURN_UNITS * TURN)

    def pack_bands(self, layer: SparseLayer, bands: Bands, shape: BandShape) -> PackedLayer:
        """A layer cut into bands."""
        host = {"start": bands.start, "entries": bands.entries, "output": bands.output}
        order = None if bands.place is None else np.argsort(bands.place)
        record, arrays = self._record(BANDED, layer, host, order)
        record["inputs"], record["band"], record["bands"] = layer.inputs, bands.band, bands.pairs.shape[1]
        record["parts"], record["units"] = bands.pairs.shape[0] // shape.warps, bands.pairs.shape[2]
        return PackedLayer(record, arrays, layer.outputs, 1, bands.padded)


@dataclass(eq=False)
class PackedNetwork:
    """A network on the device, or where it is larger than `limit` bytes, brought there window by window as it is run:
    packed already, from the host's memory (`passing`, see `windows.py`), or packed anew where that can't hold it.

    widths : neurons per level as computed (folded). copies : int64 (outputs computed,), how many original outputs
    each stands for, and expand : which computed output each original one is; None where nothing was folded.
    chunked : layers are cut into pieces or chunks where that pays. ready : the network folded already,
    if memory held it.
    dtype : of activations as they are stored, which bounds have to fit (InputError); weights are float32 in any case.
    bands : layers are cut into bands of that shape. tile : what Packer takes. through : a layer's outputs go to their
    places through main memory.
    """

    network: SparseNetwork
    grouped: bool
    folded: bool
    limit: int
    widths: list[int] = field(default_factory=list)
    layer_bytes: list[int] = field(default_factory=list)  # padded to 16 bytes an array
    unit_bytes: list[int] = field(default_factory=list)  # about what kernels for few rows read of them
    units_of: list[tuple[int, int, int]] = field(default_factory=list)  # (units, g, padded entries)
    chunks_of: list[bool] = field(default_factory=list)
    pieces_of: list[bool] = field(default_factory=list)
    parts_of: list[int] = field(default_factory=list)  # of layers cut into bands, else 0
    samples: list[SparseLayer] = field(default_factory=list)  # the first, a middle and the last layer
    expand: np.ndarray | None = None
    streamed: bool = False
    chunked: bool = False
    bands: BandShape | None = None
    ready: Folded | None = None
    dtype: str = "float32"
    tile: tuple[int, int] | None = None
    through: bool = False

    def __post_init__(self) -> None:
        self._xp = importlib.import_module("cupy")
        self._window_bytes = self.limit
        self.passing: Windows | None = None
        self.wide = max(self.network.widths) > 1 << 16
        self._packer = Packer(np.uint32 if self.wide else np.uint16, self.tile)
        self.may_drop = droppable(self.network)
        self._resident: dict[int, PackedLayer] = {}
        self._alike: list[bool] = []
        self.table = self._xp.zeros(len(self.network) * LAYER.itemsize, self._xp.uint8)
        self.chunk_table = self._xp.zeros(len(self.network) * CHUNKED.itemsize if self.chunked else 0, self._xp.uint8)
        self.piece_table = self._xp.zeros(len(self.network) * PIECED.itemsize if self.chunked else 0, self._xp.uint8)
        self.band_table = self._xp.zeros(len(self.network) * BANDED.itemsize if self.bands else 0, self._xp.uint8)
        self._source: Iterator[tuple[int, SparseLayer, Form]] | None = None
        self.widths.append(self.network.inputs)
        total, host = 0, memory.available() // 2
        held: list[HeldLayer] | None = []
        for k, layer, form in self._layers():
            if self.dtype == "float16":
                _expect_storable(k, layer)
            packed = self._pack(k, layer, form)
            if k in (0, len(self.network) // 2, len(self.network) - 1):
                self.samples.append(layer)
            self.widths.append(layer.outputs)
            self.layer_bytes.append(packed.nbytes)
            self.unit_bytes.append(packed.unit_bytes)
            self.units_of.append((packed.units, packed.g, packed.entries))
            self.chunks_of.append(packed.chunked)
            self.pieces_of.append(packed.pieced)
            self.parts_of.append(packed.parts)
            self._alike.append(packed.alike)
            self.through = self.through or packed.through
            total += packed.nbytes
            self._resident[k] = packed
            if total > self.limit:
                self.streamed = True
                held = self._hold(held, host)
        largest = max(self.layer_bytes)
        if largest > self.limit:
            raise MemoryLimitError(
                f"Expected room for the largest layer, {largest} bytes, on the GPU; the limit leaves {self.limit}. "
                "Raise the memory limit.",
                needed=largest,
                limit=self.limit,
            )
        if held and self.streamed:
            self._pass(held)
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
        self.passing = None
        del self.table, self.chunk_table, self.piece_table, self.band_table, self._packer
        self._xp.get_default_memory_pool().free_all_blocks()

    @property
    def alike(self) -> bool:
        """Whether in all layers of the second form neighbouring outputs mostly read the same inputs."""
        return bool(self._alike) and all(self._alike)

    def layer(self, k: int) -> PackedLayer:
        """Layer k, which is on the device."""
        return self._resident[k]

    def _pack(self, k: int, layer: SparseLayer, form: Form) -> PackedLayer:
        if isinstance(form, Chunks):
            return self._packer.pack_chunks(layer, form)
        if isinstance(form, Pieces):
            return self._packer.pack_pieces(layer, form)
        if isinstance(form, Bands):
            assert self.bands
            return self._packer.pack_bands(layer, form, self.bands)
        return self._packer.pack(layer, form, bool(self.may_drop[k + 1]), sliced=not self.chunked)

    def _form(self, k: int, layer: SparseLayer) -> Form:
        """Of layer k, whose input is bits mostly where it is the first: then chunks cost less than pieces."""
        if self.chunked:
            cuts: list[Callable[[], Form | None]] = [lambda: chunk_layer(layer, GROUP if self.grouped else 1)]
            if not self.grouped and self.dtype == "float32":
                cuts.insert(k == 0, lambda: cut_layer(layer))
            for cut in cuts:
                found = cut()
                if found is not None:
                    return found
        return along(layer) if self.tile else unit_outputs(layer, self.grouped)[0]

    def _layers(self) -> Iterator[tuple[int, SparseLayer, Form]]:
        """(number, layer, folded where asked for, its form); the next ones are made meanwhile."""

        def with_form(item: tuple[int, SparseLayer]) -> tuple[SparseLayer, Form]:
            return item[1], self._form(*item)

        if self.bands:
            made = self._cut_layers(self.bands)
        elif self.folded:
            made = map_ahead(with_form, enumerate(self._folded_layers()), WORKERS)
        else:
            layers = self.network.layers
            made = map_ahead(lambda k: with_form((k, layers[k])), range(len(layers)), WORKERS)
        for k, (layer, form) in enumerate(made):
            yield k, layer, form

    def _cut_layers(self, shape: BandShape) -> Iterator[tuple[SparseLayer, Bands]]:
        """Layers cut into bands; the outputs of each but the last stand as that one wants them."""

        def ordered() -> Iterator[tuple[SparseLayer, Order]]:
            layers: Iterator[SparseLayer] = self._folded_layers()
            if not self.folded:
                layers = map_ahead(lambda k: self.network.layers[k], range(len(self.network)), WORKERS)
            place = None
            for k, layer in enumerate(layers):
                order = order_layer(layer, shape, place, last=k + 1 == len(self.network))
                place = order.place_out
                yield layer, order

        return map_ahead(lambda made: (made[0], cut_bands(made[0], shape, made[1])), ordered(), WORKERS)

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

    def _hold(self, held: list[HeldLayer] | None, room: int) -> list[HeldLayer] | None:
        """`held` and the resident layers, brought to the host; None where that has no room for them."""
        if held is not None:
            from .windows import HeldLayer

            held += [HeldLayer(packed) for packed in self._resident.values()]
            if sum(layer.nbytes for layer in held) > room:
                held = None
        self._resident.clear()
        return held

    def _pass(self, held: list[HeldLayer]) -> None:
        """Have the layers pass through two slabs, or one where a layer takes more than half the room."""
        from .windows import Windows

        slabs = 2 if 2 * max(self.layer_bytes) <= self.limit else 1
        self._window_bytes = self.limit // slabs
        self.passing = Windows(held, self.windows(), self._window_bytes, slabs)
        self._resident = dict(enumerate(self.passing.layers))
        self._write_table(0, self.passing.layers)
        self.ready = None

    def _write_table(self, first: int, layers: list[PackedLayer]) -> None:
        tables = (self.table, LAYER), (self.chunk_table, CHUNKED), (self.piece_table, PIECED), (self.band_table, BANDED)
        for table, kind in tables:
            records = np.zeros(len(layers), kind)
            for k, layer in enumerate(layers):
                if layer.record.dtype == kind:
                    records[k] = layer.record
            if table.size:
                table[first * kind.itemsize : (first + len(layers)) * kind.itemsize] = self._xp.asarray(
                    records.view(np.uint8)
                )

    def windows(self) -> list[tuple[int, int]]:
        """The layer ranges that are on the device together: one range where all are."""
        if not self.streamed:
            return [(0, len(self.network))]
        ranges, first, used = [], 0, 0
        for k, nbytes in enumerate(self.layer_bytes):
            if used + nbytes > self._window_bytes and k > first:
                ranges.append((first, k))
                first, used = k, 0
            used += nbytes
        return [*ranges, (first, len(self.network))]

    def bring(self, first: int, last: int) -> None:
        """Pack layers first … last − 1 on the device in the place of others, where neither it nor the host's memory
        holds all of them (`passing` is None). Windows come in order, from 0."""
        if first == 0:
            self._source = self._layers()
            self._packer.start()
        assert self._source is not None
        self._resident.clear()
        for _ in range(first, last):
            k, layer, form = next(self._source)
            self._resident[k] = self._pack(k, layer, form)
        self._write_table(first, [self._resident[k] for k in range(first, last)])
        self._xp.cuda.Device().synchronize()


def _expect_storable(k: int, layer: SparseLayer) -> None:
    """Raise InputError where layer k may give values that float16 doesn't hold."""
    most = float(np.finfo(np.float16).max)
    if not -most <= layer.lower <= layer.upper <= most:
        raise InputError(
            f"Expected activation bounds that float16 holds, between -65504 and 65504, got {layer.lower:g} and "
            f"{layer.upper:g} in layer {k + 1}. Give it such bounds (--lower, --upper), or use float32."
        )
