"""A whole chain of layers in one compiled call, for the CPU: PyTorch's calls cost more than a small network's work."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from ..engines.numba.packing import Packed, pack
from ..engines.numba.vector import AVX512
from ..errors import InputError
from ..network import SparseLayer, SparseNetwork
from .compiled_kernels import COLUMNS, FIELDS, GROUP, NARROW, PANEL, TILE, UNROLLED, run_rows, run_tiles

Form = Literal["dense", "sparse"]
SINGLE = 3
"""Up to so many rows are computed one by one; more in tiles of up to TILE."""
TILES = (TILE, NARROW)
WIDE = 30_000
"""Weights of dense layers from which on they had better go in narrow tiles, whose inputs stay in the first cache."""
_FLOAT = np.dtype(np.float32)
_LINE = 64
"""Bytes of a cache line, which are what a vector register holds, too."""


class CompiledNetwork:
    """A float32 network whose layers add their biases to every output, run by one thread in one call.

    Gives what the network gives for finite inputs, but for the order of sums. Not to be called by two threads at once.

    forms : of each layer, "sparse" or "dense" (with its zeros, but none for inputs that the first layer doesn't
        read); by default dense where over a third of the weights isn't zero.
    tile : rows taken together, where there are as many; by default fewer where wide dense layers take most of the time.

    Raises InputError for networks and options it can't have.
    """

    def __init__(self, network: SparseNetwork, *, forms: Sequence[Form] | None = None, tile: int | None = None):
        if any(layer.bias_rule != "all" and np.any(layer.bias_vector) for layer in network):
            raise InputError("Expected layers that add their biases to every output.")
        if any(layer.data.dtype != np.float32 for layer in network):
            raise InputError("Expected float32 weights.")
        self.inputs, self.outputs = network.inputs, network.layers[-1].outputs
        first, *others = network.layers
        used = np.unique(first.indices)
        narrow = _placed(first, np.searchsorted(used, np.arange(first.inputs)), len(used))
        self.forms: list[Form] = [_form(layer) for layer in [narrow, *others]] if forms is None else list(forms)
        if len(self.forms) != len(network):
            raise InputError(f"Expected forms of {len(network)} layers, got {len(self.forms)}.")
        self.tile = _tile([narrow, *others], self.forms) if tile is None else tile
        if self.tile not in TILES:
            raise InputError(f"Expected a tile of {' or '.join(map(str, TILES))} rows, got {tile}.")
        self._keep: list[np.ndarray] = []
        # rows one by one: a sparse first layer picks among all inputs itself
        whole = self.forms[0] == "sparse" or (len(used) == first.inputs and first.inputs % UNROLLED == 0)
        self._plan = self._for_rows([first if whole else narrow, *others], None if whole else used)
        self._tiles = self._for_tiles([narrow, *others], used)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Outputs (rows, outputs) of x float32 (rows, inputs), C-contiguous."""
        if x.ndim != 2 or x.shape[1] != self.inputs or x.dtype != _FLOAT or not x.flags.c_contiguous:
            raise InputError(f"Expected contiguous float32 rows of {self.inputs} inputs, got {x.dtype} {x.shape}.")
        out = np.empty((x.shape[0], self.outputs), _FLOAT)
        if x.shape[0] <= SINGLE:
            run_rows(x, out, self._plan)
        else:
            run_tiles(x, out, self.tile, *self._tiles)
        return out

    def _for_rows(self, layers: list[SparseLayer], picked: np.ndarray | None) -> np.ndarray:
        """The plan of `run_rows`."""
        widest = max(max(layer.inputs, layer.outputs) for layer in layers) + PANEL
        scratch = [self._address(_aligned(np.zeros(widest, np.float32))) for _ in range(2)]
        chosen = np.zeros(0, np.uint32)
        if picked is not None and len(picked):
            chosen = np.pad(picked, (0, -len(picked) % UNROLLED), mode="edge").astype(np.uint32)
        plan = [len(layers), self._address(chosen), len(chosen), *scratch, 0]
        position = np.arange(layers[0].inputs)
        for layer, form in zip(layers, self.forms, strict=True):
            layer = _placed(layer, position, layer.inputs)
            size = PANEL if form == "dense" else GROUP
            groups = -(-layer.outputs // size)
            order = np.arange(layer.outputs)
            if form == "sparse":  # outputs with as many weights stand together
                order = np.argsort(-layer.fan_in, kind="stable")
            bias = np.zeros(groups * size, np.float32)
            bias[: layer.outputs] = layer.bias_vector[order]
            count = -(-layer.inputs // UNROLLED)
            where = self._panels(layer, count) if form == "dense" else self._groups(layer, order)
            bounds = np.array([layer.lower, layer.upper], np.float32).view(np.uint32).tolist()
            plan += [form == "dense", groups, where, self._address(bias), count, *bounds]
            position = np.empty(layer.outputs, np.int64)
            position[order] = np.arange(layer.outputs)
        plan[5] = self._address(position.astype(np.uint32))
        assert len(plan) == 6 + FIELDS * len(layers)
        return np.array(plan, np.int64)

    def _panels(self, layer: SparseLayer, count: int) -> int:
        panels = -(-layer.outputs // PANEL)
        full = np.zeros((panels * PANEL, count * UNROLLED), np.float32)
        full[: layer.outputs, : layer.inputs] = _dense(layer)
        return self._address(_aligned(full.reshape(panels, PANEL, -1).transpose(0, 2, 1)))

    def _groups(self, layer: SparseLayer, order: np.ndarray) -> int:
        """Address of the group table: of each group the addresses of weights and indices and the number of inputs."""
        table, places, weights, at = [], [], [], 0
        for k in range(0, layer.outputs, GROUP):
            members = order[k : k + GROUP]
            count = int(layer.fan_in[members].max())
            index, weight = np.zeros((count, GROUP), np.uint32), np.zeros((count, GROUP), np.float32)
            for lane, j in enumerate(members):
                here = slice(layer.indptr[j], layer.indptr[j + 1])
                index[: layer.fan_in[j], lane], weight[: layer.fan_in[j], lane] = layer.indices[here], layer.data[here]
            places.append(index)
            weights.append(weight)
            table.append((4 * at, 4 * at, count))
            at += index.size
        found = np.array(table, np.int64)
        found[:, 0] += self._address(_aligned(np.concatenate(weights)))
        found[:, 1] += self._address(_aligned(np.concatenate(places)))
        return self._address(found)

    def _for_tiles(self, layers: list[SparseLayer], used: np.ndarray) -> tuple[np.ndarray, ...]:
        """The arguments of `run_tiles`."""
        run = np.arange(COLUMNS)
        starts = np.zeros(0, np.int64)
        if self.inputs >= COLUMNS:
            starts = np.unique(np.minimum(used // COLUMNS * COLUMNS, self.inputs - COLUMNS)).astype(np.int64)
        turned = np.searchsorted(used, starts[:, None] + run).astype(np.int64)
        position = np.arange(len(used))
        packed: list[Packed] = []
        for layer, form in zip(layers, self.forms, strict=True):
            packed.append(pack(_filled(layer) if form == "dense" else layer, position))
            position = packed[-1].position
        self._packed = packed
        widest = max(len(used), *(layer.outputs for layer in layers))
        scratch = _aligned(np.zeros((2, TILE * (widest + 1)), np.float32))
        tables, bounds = np.stack([p.table for p in packed]), np.stack([p.bounds for p in packed])
        return starts, turned, used.astype(np.int64), tables, bounds, position.astype(np.int64), scratch

    def _address(self, array: np.ndarray) -> int:
        self._keep.append(array)
        return array.ctypes.data


def fastest_forms(
    network: SparseNetwork, x: np.ndarray, *, seconds: float = 0.003, rounds: int = 15
) -> CompiledNetwork:
    """The network with its layers in the forms, and in the tiles, that make the whole fastest for these rows."""
    best = CompiledNetwork(network)
    for k, layer in enumerate(network):
        if layer.nnz == layer.outputs * len(np.unique(layer.indices)):
            continue
        forms = list(best.forms)
        forms[k] = "dense" if forms[k] == "sparse" else "sparse"
        best = _faster(best, CompiledNetwork(network, forms=forms), x, seconds, rounds)
    if len(x) > NARROW:
        other = next(tile for tile in TILES if tile != best.tile)
        best = _faster(best, CompiledNetwork(network, forms=best.forms, tile=other), x, seconds, rounds)
    return best


def _faster(
    one: CompiledNetwork, other: CompiledNetwork, x: np.ndarray, seconds: float, rounds: int
) -> CompiledNetwork:
    runs = [functools.partial(run, x) for run in (one, other)]
    times = [[_time(run, seconds) for run in runs] for _ in range(rounds)]
    return (one, other)[int(np.argmin(np.min(times, axis=0)))]


def _time(run: Callable[[], object], seconds: float) -> float:
    """Seconds of a call, the mean over about so long."""
    run()
    start = time.perf_counter()
    for count in itertools.count(1):
        run()
        spent = time.perf_counter() - start
        if spent > seconds:
            return spent / count
    raise AssertionError


def _aligned(array: np.ndarray) -> np.ndarray:
    """A contiguous copy that begins at a cache line. NumPy's begin at any 16 bytes, by luck, and a row of a tile that
    doesn't takes a line more for every vector."""
    room = np.empty(array.nbytes + _LINE, np.uint8)
    found = room[-room.ctypes.data % _LINE :][: array.nbytes].view(array.dtype).reshape(array.shape)
    found[...] = array
    return found


def _tile(layers: Sequence[SparseLayer], forms: Sequence[Form]) -> int:
    dense = sum(x.inputs * x.outputs for x, form in zip(layers, forms, strict=True) if form == "dense")
    sparse = sum(x.nnz for x, form in zip(layers, forms, strict=True) if form == "sparse")
    return NARROW if not AVX512 and dense >= max(WIDE, 3 * sparse) else TILE


def _form(layer: SparseLayer) -> Form:
    return "dense" if 3 * layer.nnz > layer.inputs * layer.outputs else "sparse"


def _placed(layer: SparseLayer, position: np.ndarray, inputs: int) -> SparseLayer:
    """The layer reading its inputs elsewhere, `position` of each, among `inputs` of them."""
    return _like(layer, inputs, layer.indptr, position[layer.indices], layer.data)


def _dense(layer: SparseLayer) -> np.ndarray:
    full = np.zeros((layer.outputs, layer.inputs), np.float32)
    full[np.repeat(np.arange(layer.outputs), layer.fan_in), layer.indices] = layer.data
    return full


def _filled(layer: SparseLayer) -> SparseLayer:
    """The layer with its zeros as weights."""
    indptr = np.arange(layer.outputs + 1) * layer.inputs
    return _like(layer, layer.inputs, indptr, np.tile(np.arange(layer.inputs), layer.outputs), _dense(layer).ravel())


def _like(layer: SparseLayer, inputs: int, indptr: np.ndarray, indices: np.ndarray, data: np.ndarray) -> SparseLayer:
    options = {"lower": layer.lower, "upper": layer.upper, "bias_rule": layer.bias_rule}
    return SparseLayer(inputs, indptr, indices, data, layer.bias, validate=False, **options)
