"""RadiX-Net topologies (Robinett & Kepner 2019) and the official Sparse DNN Graph Challenge networks."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import InputError
from .network import LazyLayers, SparseLayer, SparseNetwork

CHALLENGE_NEURONS = (1024, 4096, 16384, 65536)
CHALLENGE_LAYERS = (120, 480, 1920)
CHALLENGE_ROWS = 60000
"""Rows of the official inputs."""
CHALLENGE_FAN_IN = 32
CHALLENGE_WEIGHT = 1 / 16
CHALLENGE_UPPER = 32.0
CHALLENGE_BIAS = {1024: -0.30, 4096: -0.35, 16384: -0.40, 65536: -0.45}
"""Bias of every neuron, by neurons per layer."""
CHALLENGE_CATEGORIES = {1024: 1812, 4096: 1801, 16384: 1918, 65536: 1994}
"""Official number of categories by neurons per layer, the same for 120, 480 and 1920 layers."""
CHALLENGE_NONZEROS = {1024: 6_374_505, 4096: 25_019_051, 16384: 98_858_913, 65536: 392_191_985}
"""Official number of non-zero pixels of the input images, by neurons per layer."""

_KRONECKER_WIDTH = 16
_SEED = 5489  # of MATLAB's default random stream, which the official generator used


@dataclass(frozen=True)
class RadixNet:
    """A RadiX-Net topology: mixed-radix topologies one after the other, widened by Kronecker products.

    A mixed-radix system (N₁, …, N_L) has one layer per radix. With N′ the product of the radices and ν_k the
    product of the radices before the k-th, base neuron `j` of layer k reads the base neurons `(j + n·ν_k) mod
    N′` for n = 0 … N_k − 1: its adjacency matrix is B_k = Σₙ P^(n·ν_k) with P the cyclic shift. Layer k of the
    network has the adjacency matrix ones(D_k × D_{k+1}) ⊗ B_k, inputs × outputs.

    Every input reaches every output, and all pairs by the same number of paths (`paths`).

    Parameters
    ----------
    systems : mixed-radix systems, each a sequence of radices >= 2. The products must agree; that of the last
        of several may be a divisor of the others'.
    widths : the Kronecker widths D, one per level of neurons (layers + 1), each >= 1; all ones by default.

    Raises
    ------
    InputError : radices, widths or products that are none of that.

    References
    ----------
    R. A. Robinett and J. Kepner, "RadiX-Net: Structured Sparse Matrices for Deep Neural Networks", 2019.
    """

    systems: tuple[tuple[int, ...], ...]
    widths: tuple[int, ...] = ()

    def __init__(self, systems: Iterable[Iterable[int]], widths: Iterable[int] | None = None):
        systems = tuple(tuple(_whole(radix, "a radix", 2) for radix in system) for system in systems)
        if not systems or not all(systems):
            raise InputError("Expected at least one mixed-radix system with at least one radix each.")
        products = [math.prod(system) for system in systems]
        if any(product != products[0] for product in products[:-1]) or products[0] % products[-1]:
            raise InputError(
                f"Expected mixed-radix systems with equal products, the last a divisor of it, got products {products}."
            )
        depth = sum(map(len, systems))
        widths = (1,) * (depth + 1) if widths is None else tuple(_whole(w, "a Kronecker width", 1) for w in widths)
        if len(widths) != depth + 1:
            raise InputError(f"Expected {depth + 1} Kronecker widths for {depth} layers, got {len(widths)}.")
        object.__setattr__(self, "systems", systems)
        object.__setattr__(self, "widths", widths)

    @property
    def base_neurons(self) -> int:
        """N′: neurons per level before the Kronecker products."""
        return math.prod(self.systems[0])

    @property
    def neurons(self) -> tuple[int, ...]:
        """Neurons per level, layers + 1 numbers."""
        return tuple(width * self.base_neurons for width in self.widths)

    @property
    def fan_in(self) -> tuple[int, ...]:
        """Inputs of every neuron, per layer."""
        return tuple(d * radix for d, (radix, _) in zip(self.widths[:-1], self._steps, strict=True))

    @property
    def edges(self) -> int:
        return sum(fan_in * outputs for fan_in, outputs in zip(self.fan_in, self.neurons[1:], strict=True))

    @property
    def paths(self) -> int:
        """Number of paths between any input and any output."""
        return math.prod(self.fan_in) // (self.widths[0] * self.base_neurons)

    def __len__(self) -> int:
        """Number of layers."""
        return len(self.widths) - 1

    @property
    def _steps(self) -> list[tuple[int, int]]:
        """Per layer the radix and the place value ν."""
        return [(radix, math.prod(system[:k])) for system in self.systems for k, radix in enumerate(system)]

    def inputs_of(self, layer: int) -> np.ndarray:
        """int32 (N′, fan-in): the ascending inputs of output neuron j of `layer`, for each `j mod N′`."""
        if not 0 <= layer < len(self):
            raise InputError(f"Expected a layer in 0..{len(self) - 1}, got {layer}.")
        radix, step = self._steps[layer]
        n = self.base_neurons
        base = (np.arange(n)[:, None] + step * np.arange(radix)) % n
        base.sort(axis=1)
        copies = n * np.arange(self.widths[layer])
        return (base[:, None, :] + copies[:, None]).reshape(n, -1).astype(np.int32)

    def layer(self, layer: int, weight: float = 1.0, bias: float = 0.0, **options: Any) -> SparseLayer:
        """Layer number `layer` (0-based) with one float32 weight on every edge; `options` go to SparseLayer."""
        sets = np.tile(self.inputs_of(layer), (self.widths[layer + 1], 1))
        indptr = np.arange(len(sets) + 1, dtype=np.int64) * sets.shape[1]
        data = np.full(sets.size, weight, np.float32)
        return SparseLayer(self.neurons[layer], indptr, sets.reshape(-1), data, bias, **options)

    def network(self, weight: float = 1.0, bias: float = 0.0, *, name: str = "", **options: Any) -> SparseNetwork:
        """All layers, in memory, with one float32 weight and one bias; `options` go to SparseLayer."""
        return SparseNetwork([self.layer(k, weight, bias, **options) for k in range(len(self))], name)


def base_network(neurons: int) -> RadixNet:
    """The challenge's base network of 1024, 4096, 16384 or 65536 neurons per layer.

    6, 8, 10 or 12 layers (Table I of Wang et al. 2019): radix 2 throughout, all Kronecker widths 16, hence 32
    inputs per neuron.
    """
    if neurons not in CHALLENGE_NEURONS:
        raise InputError(f"Expected {_listed(CHALLENGE_NEURONS)} neurons per layer, got {neurons!r}.")
    depth = (neurons // _KRONECKER_WIDTH).bit_length() - 1
    return RadixNet([[2] * depth], [_KRONECKER_WIDTH] * (depth + 1))


def challenge_network(neurons: int, layers: int) -> SparseNetwork:
    """The official Graph Challenge network, weight for weight; its layers are made when asked for.

    neurons : 1024, 4096, 16384 or 65536. layers : any number >= 1; the official ones are 120, 480 and 1920,
    and a shorter network is the beginning of a longer one.

    The base network is repeated. From the second repetition on, input neuron r of every layer is renamed p[r],
    where p is the stable argsort of `neurons` uniform doubles, the next ones of MT19937 seeded with 5489. All
    120 official layers of 1024 neurons agree entry by entry.
    """
    base = base_network(neurons)
    layers = _whole(layers, "a number of layers", 1)
    maker = _ChallengeLayers(base, CHALLENGE_BIAS[neurons], _shuffles(neurons))
    widths = (neurons,) * (layers + 1)
    lazy = LazyLayers(maker, widths, CHALLENGE_FAN_IN * neurons * layers, keeps_zero=True)
    return SparseNetwork(lazy, f"challenge-{neurons}-{layers}")


class _ChallengeLayers:
    """Makes layer k. The arrays that all layers have in common are made once and shared."""

    def __init__(self, base: RadixNet, bias: float, shuffles: _Shuffles):
        self._base, self._bias, self._shuffles = base, bias, shuffles
        neurons = base.neurons[0]
        self._sets = [base.inputs_of(k) for k in range(len(base))]
        self._indptr = np.arange(neurons + 1, dtype=np.int64) * CHALLENGE_FAN_IN
        self._data = np.full(neurons * CHALLENGE_FAN_IN, CHALLENGE_WEIGHT, np.float32)

    def __call__(self, layer: int) -> SparseLayer:
        repetition, k = divmod(layer, len(self._base))
        sets = self._sets[k]
        if repetition:
            sets = self._shuffles.permutation(repetition - 1)[sets]
            sets.sort(axis=1)
        indices = np.tile(sets.reshape(-1), _KRONECKER_WIDTH)
        inputs = self._base.neurons[0]
        bounds = {"upper": CHALLENGE_UPPER, "validate": False}
        return SparseLayer(inputs, self._indptr, indices, self._data, self._bias, **bounds)


class _Shuffles:
    """The permutations of one stream of random numbers, drawn as far as asked for."""

    def __init__(self, neurons: int):
        self._neurons = neurons
        self._stream = np.random.RandomState(_SEED)
        self._drawn: list[np.ndarray] = []
        self._lock = threading.Lock()

    def permutation(self, index: int) -> np.ndarray:
        """int32 (neurons,): the permutation number `index` of the stream."""
        with self._lock:
            while len(self._drawn) <= index:
                keys = self._stream.random_sample(self._neurons)
                self._drawn.append(keys.argsort(kind="stable").astype(np.int32))
            return self._drawn[index]


@functools.lru_cache(maxsize=len(CHALLENGE_NEURONS))
def _shuffles(neurons: int) -> _Shuffles:
    return _Shuffles(neurons)


def _whole(value: Any, what: str, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise InputError(f"Expected {what} to be a whole number >= {least}, got {value!r}.")
    return int(value)


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values[:-1])) + f" or {values[-1]}"
