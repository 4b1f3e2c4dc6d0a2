"""Layers cut into bands: every weight is somewhere, and what stands together suits the kernel."""

from __future__ import annotations

import numpy as np
import pytest

from spdnn.engines.cuda import bands
from spdnn.engines.cuda.bands import LAST, NONE, Bands, Shape, cut_bands, order_layer
from spdnn.network import SparseLayer
from spdnn.random_network import random_network


def layer_of(inputs: int, fan_in: np.ndarray, seed: int = 0) -> SparseLayer:
    random = np.random.default_rng(seed)
    rows = [np.sort(random.choice(inputs, f, replace=False)) for f in fan_in]
    indices = np.concatenate([*rows, np.zeros(0, int)]).astype(np.int32)
    start = np.concatenate([[0], np.cumsum(fan_in)])
    return SparseLayer(inputs, start, indices, random.normal(size=indices.size).astype(np.float32))


def pairs_of(entries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inputs, counted from their band's first, and weights of pairs, (pairs, 2, 32) each."""
    word, weight = entries[:, :32].astype(int), np.ascontiguousarray(entries[:, 32:]).view(np.float32)
    return np.stack([word >> 4 & 0x3FFF, word >> 18], axis=1), weight.reshape(-1, 2, 32)


def weights_of(cut: Bands, inputs: int, outputs: int, shape: Shape) -> np.ndarray:
    """float64 (inputs, outputs), as a kernel that reads the pairs in their order finds them."""
    found = np.zeros((inputs, outputs))
    columns, many, units = cut.pairs.shape
    for c in range(columns):
        part, warp = divmod(c, shape.warps)
        for b in range(many):
            first, end = cut.start[part * many + b : part * many + b + 2]
            entries = cut.entries[first:end, warp].reshape(-1, 96)
            at = 0
            for u in range(units):
                of = entries[at : at + cut.pairs[c, b, u]]
                at += len(of)
                assert np.array_equal(np.flatnonzero(of[:, 0] & LAST), [len(of) - 1])
                index, weight = pairs_of(of)
                index += b * cut.band
                assert index.max(initial=0) < inputs
                for lane, output in enumerate(cut.output[c, u]):
                    if output == NONE:
                        assert not weight[:, :, lane].any()
                    else:
                        np.add.at(found[:, output], index[:, :, lane].ravel(), weight[:, :, lane].ravel())
            assert not entries[at:].any()
    return found


@pytest.mark.parametrize("shape", [Shape(37, 2, 3, 2, 4, 1), Shape(64, 1, 1, 1, 2, 1), Shape(5000, 4, 8, 3, 2, 1)])
@pytest.mark.parametrize("outputs", [0, 1, 31, 33, 500])
def test_every_weight_is_in_its_place(shape, outputs):
    fan_in = np.random.default_rng(outputs).integers(0, 40, outputs)
    fan_in[2:3], fan_in[3:4] = 0, 130
    layer = layer_of(130, fan_in)
    cut = cut_bands(layer, shape)
    want = np.zeros((130, outputs))
    want[layer.indices, np.repeat(np.arange(outputs), layer.fan_in)] = layer.data
    np.testing.assert_array_equal(weights_of(cut, 130, outputs, shape), want)
    assert np.array_equal(np.sort(cut.output[cut.output != NONE]), np.arange(outputs))


def test_outputs_stand_where_the_next_layer_reads_them():
    shape = Shape(37, 2, 3, 2, 4, 1)
    one, two = layer_of(130, np.full(500, 9)), layer_of(500, np.full(70, 100), seed=1)
    first = order_layer(one, shape, last=False)
    second = order_layer(two, shape, first.place_out)
    assert first.place_out is not None
    assert np.array_equal(np.sort(first.place_out), np.arange(500))
    found = weights_of(cut_bands(one, shape, first), 130, 500, shape)[:, first.place_out]
    found = found @ weights_of(cut_bands(two, shape, second), 500, 70, shape)[first.place_out]
    want = [np.zeros((130, 500)), np.zeros((500, 70))]
    for layer, weights in zip((one, two), want, strict=True):
        weights[layer.indices, np.repeat(np.arange(layer.outputs), layer.fan_in)] = layer.data
    np.testing.assert_allclose(found, want[0] @ want[1], rtol=1e-9, atol=1e-12)


def test_outputs_of_a_unit_are_alike_and_lanes_read_different_banks():
    layer = random_network(8192, 1, 32).layers[0]
    cut = cut_bands(layer, Shape(1640, 15, 20, 2, 4, 1))
    lanes = cut.pairs.sum(dtype=np.int64) * 64
    assert lanes < 1.35 * layer.nnz  # by themselves the longest of 32 would take 1.9 times
    index, weight = pairs_of(cut.entries.reshape(-1, 96))
    index, used = index.reshape(-1, 8), weight.reshape(-1, 8) != 0
    banks = [np.where(used, index % 8 == bank, False).sum(axis=1) for bank in range(8)]
    assert np.max(banks, axis=0).sum() * 8 < 1.75 * layer.nnz  # in any order 2.5 times


def test_blocks_fit_a_multiprocessor():
    for limit, multiprocessors in ((232448, 132), (166912, 108), (101376, 84)):
        shape = bands.shape(limit, multiprocessors)
        assert shape.shared_bytes + 1024 <= limit
        assert shape.cluster == 2
    assert bands.shape(232448, 3).cluster == 1
