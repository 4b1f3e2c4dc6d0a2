"""Micro-benchmark of the CPU engine's layer kernel: multiply-adds a second on one core, by layer and tile width.

Run with `python benchmarks/numba_kernels.py`. Layers: challenge layers as they are (input sets of 16 outputs),
without input sets (random inputs, another set for every output), folded (fan-in 2), and the bit-packed first layer.
"""

from __future__ import annotations

import time

import numpy as np

from spdnn.engines.numba import kernels
from spdnn.engines.numba.packing import pack
from spdnn.engines.numba.vector import AVX512, LANES
from spdnn.fold import Folder
from spdnn.network import SparseLayer
from spdnn.radixnet import challenge_network


def random_layer(neurons: int, fan_in: int) -> SparseLayer:
    rng = np.random.default_rng(0)
    indices = np.sort(np.argsort(rng.random((neurons, neurons)), axis=1)[:, :fan_in], axis=1)
    indptr = np.arange(neurons + 1) * fan_in
    return SparseLayer(neurons, indptr, indices.reshape(-1).astype(np.int32), rng.random(neurons * fan_in), -0.3)


def measure(layer: SparseLayer, lanes: int, bits: bool) -> float:
    """Multiply-adds a second, best of seven."""
    packed = pack(layer)
    rng = np.random.default_rng(1)
    if bits:
        x = rng.integers(0, 2**63, layer.inputs, dtype=np.uint64)
    else:
        x = rng.random((layer.inputs, lanes), dtype=np.float32)
    y = np.zeros((layer.outputs, lanes), np.float32)
    stride = 8 if bits else lanes * 4
    repeat = max(1, int(2e8 / (layer.nnz * lanes)))
    best = float("inf")
    for _ in range(7):
        start = time.perf_counter()
        for _ in range(repeat):
            kernels.run_layer(lanes, packed.table, packed.bounds, x.ctypes.data, stride, y.ctypes.data, bits)
        best = min(best, (time.perf_counter() - start) / repeat)
    return layer.nnz * lanes / best


def main() -> None:
    layers: dict[str, SparseLayer] = {}
    for neurons in (1024, 4096, 16384):
        network = challenge_network(neurons, 16)
        layers[f"challenge {neurons}"] = network.layers[15]
        folder = Folder(neurons)
        layers[f"challenge {neurons}, folded, second layer"] = [folder.fold(network.layers[k]) for k in (0, 1)][1]
    layers["random 1024"] = random_layer(1024, 32)
    layers["random 4096"] = random_layer(4096, 32)
    layers["dense 512"] = SparseLayer.from_matrix(np.random.default_rng(2).random((512, 512)))
    print(f"AVX-512: {AVX512}; 10^9 multiply-adds a second on one core")
    print(f"{'layer':40}" + "".join(f"{lanes:>10} rows" for lanes in LANES) + f"{'64 as bits':>12}")
    for name, layer in layers.items():
        rates = [measure(layer, lanes, False) for lanes in LANES] + [measure(layer, 64, True)]
        print(f"{name:40}" + "".join(f"{rate / 1e9:15.1f}" for rate in rates[:-1]) + f"{rates[-1] / 1e9:12.1f}")


if __name__ == "__main__":
    main()
