"""Whole networks in one compiled call, against float64 products."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from spdnn.errors import InputError
from spdnn.network import SparseLayer, SparseNetwork
from spdnn.nn.compiled import TILES, CompiledNetwork, Form, fastest_forms


def network(widths: list[int], density: float, seed: int = 0, **options: float) -> SparseNetwork:
    rng = np.random.default_rng(seed)
    layers = []
    for a, b in itertools.pairwise(widths):
        weights = rng.standard_normal((a, b)) / (a * density + 1) ** 0.5 * (rng.random((a, b)) < density)
        bias = rng.standard_normal(b).astype(np.float32)
        layers.append(SparseLayer.from_matrix(weights.astype(np.float32), bias, bias_rule="all", **options))
    return SparseNetwork(layers)


def expected(net: SparseNetwork, x: np.ndarray) -> np.ndarray:
    y = x.astype(np.float64)
    for layer in net:
        y = np.clip(y @ layer.weights.toarray().astype(np.float64) + layer.bias_vector, layer.lower, layer.upper)
    return y


@pytest.mark.parametrize("forms", [("sparse",) * 3, ("dense",) * 3, ("sparse", "dense", "sparse"), None])
@pytest.mark.parametrize("rows", [0, 1, 2, 3, 4, 13, 16, 37, 64, 70, 128])
def test_every_form_and_number_of_rows(rows: int, forms: tuple[Form, ...] | None) -> None:
    net = network([101, 37, 20, 10], 0.2)
    x = np.random.default_rng(1).random((rows, 101), dtype=np.float32)
    np.testing.assert_allclose(CompiledNetwork(net, forms=forms)(x), expected(net, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("widths", [[1, 1], [3, 5, 2], [8, 16, 1], [12, 4, 4], [784, 300, 100, 10]])
@pytest.mark.parametrize("density", [0.0, 0.03, 0.5, 1.0])
def test_every_shape(widths: list[int], density: float) -> None:
    net = network(widths, density, lower=-0.5, upper=0.9)
    for rows in (1, 5, 33):
        x = np.random.default_rng(rows).standard_normal((rows, widths[0]), dtype=np.float32)
        for form in ("dense", "sparse"):
            found = CompiledNetwork(net, forms=[form] * len(net))(x)
            np.testing.assert_allclose(found, expected(net, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("forms", [("sparse", "sparse"), ("dense", "dense")])
def test_more_inputs_than_fit_16_bits(forms: tuple[Form, ...]) -> None:
    net = network([70000, 6, 3], 0.96 if forms[0] == "dense" else 0.001)
    x = np.random.default_rng(0).random((40, 70000), dtype=np.float32)
    np.testing.assert_allclose(CompiledNetwork(net, forms=forms)(x), expected(net, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [4, 5, 16, 31, 48, 64, 67, 128])
def test_every_tile(rows: int) -> None:
    net = network([101, 37, 20, 10], 0.6)
    x = np.random.default_rng(1).random((rows, 101), dtype=np.float32)
    for tile in TILES:
        for forms in (("dense",) * 3, ("sparse",) * 3):
            found = CompiledNetwork(net, forms=forms, tile=tile)(x)
            np.testing.assert_allclose(found, expected(net, x), rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match="tile of"):
        CompiledNetwork(net, tile=8)


def test_outputs_that_share_their_inputs_in_pairs() -> None:
    net = network([101, 36, 20], 0.2)
    rng, layers = np.random.default_rng(0), []
    for layer in net:
        weights = layer.weights.toarray()
        weights[:, 1::2] = (weights[:, ::2] != 0) * rng.standard_normal(weights[:, ::2].shape)
        bias = rng.standard_normal(layer.outputs).astype(np.float32)
        layers.append(SparseLayer.from_matrix(weights.astype(np.float32), bias, bias_rule="all"))
    twins = SparseNetwork(layers)
    x = rng.random((70, 101), dtype=np.float32)
    for tile in TILES:
        found = CompiledNetwork(twins, forms=["sparse"] * 2, tile=tile)
        assert all(packed.grouped == layer.outputs for packed, layer in zip(found._packed, twins, strict=True))
        np.testing.assert_allclose(found(x), expected(twins, x), rtol=1e-5, atol=1e-5)


def test_forms_are_chosen_by_time() -> None:
    net = network([400, 300, 10], 0.01)
    x = np.random.default_rng(0).random((64, 400), dtype=np.float32)
    found = fastest_forms(net, x, seconds=0.001)
    assert found.forms[0] == "sparse"
    np.testing.assert_allclose(found(x), expected(net, x), rtol=1e-5, atol=1e-5)


def test_a_call_leaves_no_trace_in_the_next() -> None:
    net = network([50, 40, 30, 10], 0.4)
    x = np.random.default_rng(0).random((70, 50), dtype=np.float32)
    for rows in (1, 70):
        compiled = CompiledNetwork(net)
        first = compiled(x[:rows])
        compiled(np.full((rows, 50), np.nan, np.float32))
        np.testing.assert_array_equal(compiled(x[:rows]), first)


def test_what_it_cannot_run_is_refused() -> None:
    net = network([10, 5], 0.5)
    compiled = CompiledNetwork(net)
    for x in (np.zeros((2, 9), np.float32), np.zeros((2, 10)), np.zeros((10, 2), np.float32).T, np.zeros(10)):
        with pytest.raises(InputError, match="contiguous float32 rows of 10"):
            compiled(x)
    with pytest.raises(InputError, match="forms of 1 layers"):
        CompiledNetwork(net, forms=["dense"] * 2)
    layer = net.layers[0]
    with pytest.raises(InputError, match="every output"):
        CompiledNetwork(SparseNetwork([SparseLayer(10, layer.indptr, layer.indices, layer.data, -0.3)]))
    double = SparseLayer(10, layer.indptr, layer.indices, layer.data.astype(np.float64), bias_rule="all")
    with pytest.raises(InputError, match="float32"):
        CompiledNetwork(SparseNetwork([double]))


@pytest.mark.parametrize("widths", [[9, 5, 3], [101, 37, 20, 10], [784, 300, 100, 10]])
def test_tiles_begin_at_a_cache_line(widths: list[int]) -> None:
    """Else every vector takes two lines, and a network by luck a fifth longer than its twin."""
    for seed in range(5):
        *_, scratch = CompiledNetwork(network(widths, 0.2, seed))._tiles
        assert scratch.ctypes.data % 64 == 0
