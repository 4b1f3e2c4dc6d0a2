"""Random sparse networks without any structure: what an engine must be fast on beside RadiX-Net."""

from __future__ import annotations

import numpy as np

from .errors import InputError
from .network import LazyLayers, SparseLayer, SparseNetwork


def random_network(
    neurons: int, layers: int, fan_in: int, seed: int = 0, *, bias: float = 0.0, upper: float = float("inf")
) -> SparseNetwork:
    """Every neuron reads `fan_in` distinct inputs drawn uniformly, with normally distributed float32 weights.

    The weights have mean 0 and variance 2 / fan_in (He et al. 2015), so that with bias 0 signals neither die nor
    grow, whatever the depth. Layers are made when asked for, each from its own random stream of (seed, layer).
    The activation is a ReLU bounded by `upper`; the bias follows the rule ``"nonzero"``.

    Raises InputError where fan_in exceeds the number of neurons or a size is below 1.
    """
    if neurons < 1 or layers < 1:
        raise InputError(f"Expected at least one neuron and one layer, got {neurons} and {layers}.")
    if not 1 <= fan_in <= neurons:
        raise InputError(f"Expected a fan-in in 1..{neurons}, the inputs there are, got {fan_in}.")
    indptr = np.arange(neurons + 1, dtype=np.int64) * fan_in

    def make(layer: int) -> SparseLayer:
        random = np.random.default_rng([seed, layer])
        indices = _distinct(random, neurons, fan_in).reshape(-1)
        weights = random.standard_normal(indices.size, np.float32) * np.float32(np.sqrt(2 / fan_in))
        return SparseLayer(neurons, indptr, indices, weights, bias, upper=upper, validate=False)

    widths = (neurons,) * (layers + 1)
    lazy = LazyLayers(make, widths, fan_in * neurons * layers, keeps_zero=upper >= 0)
    return SparseNetwork(lazy, f"random-{neurons}-{layers}-{fan_in}")


def _distinct(random: np.random.Generator, neurons: int, fan_in: int) -> np.ndarray:
    """int32 (neurons, fan_in): per row an ascending, uniformly drawn subset of 0 … neurons − 1."""
    if fan_in * fan_in > neurons:
        rows = [random.choice(neurons, fan_in, replace=False, shuffle=False) for _ in range(neurons)]
        return np.sort(np.array(rows, np.int32), axis=1)
    drawn = np.sort(random.integers(neurons, size=(neurons, fan_in), dtype=np.int32), axis=1)
    while True:
        repeats = np.flatnonzero((drawn[:, 1:] == drawn[:, :-1]).any(axis=1))
        if repeats.size == 0:
            return drawn
        again = random.integers(neurons, size=(repeats.size, fan_in), dtype=np.int32)
        drawn[repeats] = np.sort(again, axis=1)
