"""The CUDA engine against the float64 reference, in all regimes and in float16, with every switch on and off."""

from __future__ import annotations

import itertools
import json
import types
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from engines.conformance import (
    EXACT,
    EXACT_CASES,
    REAL_CASES,
    Case,
    EngineConformance,
    dense_weights,
    exact_case,
    kinds,
    reference,
)
from scipy import sparse

from spdnn import cli, record
from spdnn.challenge import Inputs, Instance, run_instance
from spdnn.data import digits
from spdnn.engine import Options
from spdnn.engines.cuda import CudaEngine, estimate
from spdnn.engines.cuda.pack import PackedNetwork
from spdnn.engines.cuda.plan import REGIMES, CudaPlan
from spdnn.engines.scipy import ScipyEngine
from spdnn.errors import InputError
from spdnn.features import Features
from spdnn.io import load_features, save_features, save_network
from spdnn.network import LazyLayers, SparseLayer, SparseNetwork
from spdnn.radixnet import RadixNet, challenge_network
from spdnn.random_network import random_network


class TestGroups(EngineConformance):
    engine = "cuda"
    optional = True
    regime: str | None = None

    def plan(self, network, rows, **switches):
        engine = CudaEngine()
        engine.regime = self.regime
        return engine.prepare(
            network, rows=rows, options=Options(**{"variant": self.variant, **self.options, **switches})
        )


class TestGeneral(TestGroups):
    variant = "general"


class TestLayers(TestGroups):
    """Layer by layer, as wide networks are run."""

    regime = "layers"


class TestGeneralLayers(TestLayers):
    variant = "general"


class TestPlaced(TestGeneral):
    """Outputs take the places of inputs, as in networks of which two buffers don't fit shared memory."""

    regime = "placed"


@pytest.fixture
def narrow_bands(monkeypatch):
    """Bands of few inputs, blocks of few outputs."""
    for name, value in {"MOST_INPUTS": 37, "WARPS": 2, "UNITS": 1}.items():
        monkeypatch.setattr(f"spdnn.engines.cuda.bands.{name}", value)


class TestBands(TestGeneral):
    """Inputs are brought in band by band, by blocks of a few outputs, as in wide networks."""

    regime = "bands"

    @pytest.fixture(autouse=True)
    def _narrow(self, narrow_bands):
        pass


def bounded(network: SparseNetwork, most: float) -> SparseNetwork:
    """The network with bounds of at most that size."""
    if network.is_lazy:
        return network
    return SparseNetwork(
        [replace(layer, lower=max(layer.lower, -most), upper=min(layer.upper, most)) for layer in network]
    )


class TestHalf(TestGroups):
    """Activations stored as float16. Values that it holds exactly, quarters up to 512, come out exact."""

    options = {"dtype": "float16"}  # noqa: RUF012
    tolerance = property(lambda self: 0.02)

    def plan(self, network, rows, **switches):
        half = switches.get("dtype", "float16") == "float16"
        return super().plan(bounded(network, 65504) if half else network, rows, **switches)

    @pytest.mark.parametrize("name", EXACT_CASES)
    def test_exact_case(self, name):
        case, _ = exact_case(name)
        case = Case(bounded(case.network, 48), case.x)
        expected = reference(case.network, case.x)
        assert expected.reach < EXACT
        for kind in kinds(case.x):
            self.assert_exact(self.run(case, kind), expected.rows)

    # a value so small that float16 makes it zero takes the bias of those that read it with it
    @pytest.mark.parametrize("name", [name for name in REAL_CASES if name != "positive_bias_on_nonzero"])
    def test_real_case(self, name):
        super().test_real_case(name)


def _layer(random, inputs, outputs, fan_in, **options) -> SparseLayer:
    rows = [np.sort(random.choice(inputs, min(inputs, int(f)), replace=False)) for f in fan_in]
    indptr = np.concatenate([[0], np.cumsum([len(r) for r in rows])])
    indices = np.concatenate(rows) if rows else np.zeros(0, int)
    scale = 1 / np.sqrt(max(1.0, np.mean(fan_in)))
    return SparseLayer(inputs, indptr, indices.astype(np.int32), random.normal(0.1, scale, indices.size), **options)


def power_law(random) -> SparseNetwork:
    """Between 0 and 2,000 inputs per neuron, rectangular, per-neuron biases."""
    widths = (2200, 300, 170, 333, 90)
    layers = []
    for a, b in itertools.pairwise(widths):
        fan_in = np.minimum(a, (random.pareto(0.8, b) * 3).astype(int))
        fan_in[:2] = 0, min(a, 2000)
        layers.append(_layer(random, a, b, fan_in, bias=random.normal(0, 0.2, b)))
    return SparseNetwork(layers)


def dense(random) -> SparseNetwork:
    shapes = itertools.pairwise((100, 64, 130, 10))
    layers = [
        SparseLayer.from_matrix(random.normal(0, 0.2, s), random.normal(0, 0.1, s[1]), bias_rule="all") for s in shapes
    ]
    return SparseNetwork(layers)


def radix(random) -> SparseNetwork:
    net = RadixNet([[2] * 5] * 3, [4] * 16)
    layers = []
    for k in range(len(net)):
        layer = net.layer(k, 1 / 4, -0.1, upper=8.0)
        p = random.permutation(128).astype(np.int32)
        indices = np.sort(p[layer.indices].reshape(128, -1), axis=1).reshape(-1)
        layers.append(SparseLayer(128, layer.indptr, indices, layer.data, layer.bias, upper=8.0))
    return SparseNetwork(layers)


def positive_bias(rule):
    def make(random) -> SparseNetwork:
        shape = {"bias": 0.25, "upper": 4.0, "bias_rule": rule}
        return SparseNetwork([_layer(random, 96, 96, np.full(96, 5), **shape) for _ in range(6)])

    return make


def negative_lower(random) -> SparseNetwork:
    return SparseNetwork([_layer(random, 80, 80, np.full(80, 8), bias=-0.05, lower=-0.5, upper=0.75) for _ in range(5)])


def medium(weights: str):
    """Wide enough for tiles of 16 rows, and for more slices of outputs than a block has warps."""

    def make(random) -> SparseNetwork:
        layers = []
        for a, b in itertools.pairwise((70, 500, 1100, 37, 470)):
            fan_in = np.full(b, 16) if weights == "exact" else random.integers(0, min(a, 40), b)
            layer = _layer(random, a, b, fan_in, bias=-0.05 if weights == "exact" else random.normal(0, 0.1, b))
            data = np.sign(layer.data) / 4 if weights == "exact" else layer.data
            layers.append(SparseLayer(a, layer.indptr, layer.indices, data, layer.bias, upper=4.0))
        return SparseNetwork(layers)

    return make


NETWORKS = {
    "medium-exact": medium("exact"),
    "medium": medium("any"),
    "power-law": power_law,
    "dense": dense,
    "radix": radix,
    "positive-nonzero": positive_bias("nonzero"),
    "positive-all": positive_bias("all"),
    "lower": negative_lower,
}


def features_of(kind: str, columns: int, random) -> Features:
    array = (random.random((301, columns)) < 0.1).astype(np.float32)
    array[::7] = 0
    array[5::7] = array[5]
    if kind == "bits":
        return Features.from_bool(array)
    array *= random.normal(0, 1, array.shape).astype(np.float32)
    array[5::7] = array[5]
    return Features.from_csr(sparse.csr_matrix(array)) if kind == "csr" else Features.from_dense(array)


def check(network, features, *, regime=None, **switches):
    want = (
        ScipyEngine().prepare(network, rows=features.rows, options=Options(dtype="float64")).run(features, values=True)
    )
    options = Options(variant=switches.pop("variant", "groups"), **switches)
    plan = CudaPlan(network, features.rows, options, regime=regime)
    loaded = plan.load(features)
    reference = want.to_dense()
    for _ in range(3):  # the first run, the captured one, a replay
        got = plan.run(loaded, values=True)
        dense_rows = got.to_dense()
        error = np.abs(dense_rows - reference) / np.maximum(1, np.abs(reference))
        assert error.max(initial=0) < CudaEngine.tolerance
        clear = np.abs(reference.sum(1)) > 1e-3
        np.testing.assert_array_equal(
            np.isin(np.arange(features.rows), got.positive)[clear], (reference.sum(1) > 0)[clear]
        )
    profile = plan.run(loaded, profile=True).profile
    assert [p.layer for p in profile] == list(range(len(network)))
    assert all((p.seconds >= 0 and p.nbytes > 4 * p.computed) or p.computed == 0 for p in profile)
    plan.close()
    return profile


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("kind", ["bits", "csr", "dense"])
@pytest.mark.parametrize("name", NETWORKS)
def test_agrees_with_the_reference(name, kind, regime):
    random = np.random.default_rng(len(name))
    network = NETWORKS[name](random)
    check(network, features_of(kind, network.inputs, random), regime=regime)


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("variant", ["groups", "general"])
@pytest.mark.parametrize("switches", list(itertools.product([False, True], repeat=3)))
def test_switches_change_nothing(switches, variant, regime):
    random = np.random.default_rng(3)
    network = radix(random)
    names = dict(zip(("compact", "merge", "fold"), switches, strict=True))
    check(network, features_of("bits", 128, random), regime=regime, variant=variant, **names)


@pytest.mark.parametrize("regime", REGIMES)
def test_streams_weights_and_rows_under_a_memory_limit(regime, narrow_bands):
    random = np.random.default_rng(4)
    network = NETWORKS["power-law"](random)
    check(network, features_of("bits", network.inputs, random), regime=regime, memory_limit=6 << 20)


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("switches", [{}, {"merge": False, "fold": False}, {"fold": False, "variant": "general"}])
def test_official_layers(regime, switches):
    random = np.random.default_rng(5)
    rows = np.repeat(random.random((120, 16, 16)) < 0.35, 5, axis=0).repeat(2, 1).repeat(2, 2).reshape(600, 1024)
    profile = check(challenge_network(1024, 30), Features.from_bool(rows), regime=regime, **switches)
    if switches.get("merge", True):
        assert profile[-1].computed <= 120


def test_every_multiprocessor_has_a_narrow_tile():
    """Rows that fill all multiprocessors with tiles of 14 rows, of a network whose neighbours read the same inputs."""
    import cupy

    from spdnn.engines.cuda.plan import CudaPlan
    from spdnn.engines.cuda.stages import NARROW

    rows = NARROW * cupy.cuda.Device().attributes["MultiProcessorCount"] - 3
    network = challenge_network(1024, 7)
    array = np.random.default_rng(3).random((rows, 1024)) < 0.6
    plan = CudaPlan(network, rows, Options(variant="general", fold=False, merge=False), regime="stages")
    assert plan._packed.alike
    loaded = plan.load(Features.from_bool(array))
    reference = ScipyEngine().prepare(network, rows=rows, options=Options(dtype="float64"))
    want = reference.run(Features.from_bool(array), values=True).to_dense()
    assert (want.any(axis=1)).sum() > rows * 0.9
    np.testing.assert_allclose(plan.run(loaded, values=True).to_dense(), want, rtol=1e-5, atol=1e-5)


def test_outputs_take_the_places_of_inputs():
    """The official layers of 4096 neurons, a tile of 14 rows of which fits shared memory only once."""
    network = challenge_network(4096, 9)
    random = np.random.default_rng(11)
    array = (random.random((700, 16, 16)) < 0.4).repeat(4, 1).repeat(4, 2).reshape(700, 4096)
    array[random.random(700) < 0.3] = False
    plan = CudaPlan(network, len(array), Options(variant="general", fold=False, merge=False))
    assert plan.describe()["tile_rows"] == 14
    assert not plan._packed.through
    plan.close()
    check(network, Features.from_bool(array), variant="general", fold=False, merge=False)


@pytest.mark.parametrize("coded", [True, False])
def test_pieces_of_wide_layers(coded):
    random = np.random.default_rng(13)
    layers = [*challenge_network(4096, 9)]
    if not coded:  # weights that no bfloat16 holds, and outputs of other lengths
        layers = [replace(layer, data=layer.data * (1 + 0.1 * random.random(layer.nnz))) for layer in layers]
        few = np.concatenate(
            [np.arange(layers[3].indptr[o], layers[3].indptr[o] + 32 - 8 * (o % 2)) for o in range(4096)]
        )
        indptr = np.concatenate([[0], np.cumsum(np.where(np.arange(4096) % 2, 24, 32))])
        layers[3] = replace(layers[3], indptr=indptr, indices=layers[3].indices[few], data=layers[3].data[few])
    network = SparseNetwork(layers)
    array = (random.random((500, 16, 16)) < 0.45).repeat(4, 1).repeat(4, 2).reshape(500, 4096)
    array[random.random(500) < 0.3] = False
    switches = {"variant": "general", "fold": False, "merge": coded}
    plan = CudaPlan(network, len(array), Options(**switches), regime="layers")
    assert plan.describe()["pieced_layers"] == 8  # the first reads bits, of which chunks cost less
    plan.close()
    check(network, Features.from_bool(array), regime="layers", **switches)


def test_layers_without_free_places_go_through_memory():
    random = np.random.default_rng(12)
    fan_ins = [random.integers(0, 40, 2200) for _ in range(4)]
    network = SparseNetwork([_layer(random, 2200, 2200, f, bias=0.1, bias_rule="all", upper=4.0) for f in fan_ins])
    plan = CudaPlan(network, 300, Options(variant="general", fold=False), regime="placed")
    assert plan._packed.through
    plan.close()
    features = features_of("bits", 2200, random)
    check(network, features, variant="general", fold=False, regime="placed")
    plan = CudaPlan(network, 300, Options(variant="general", fold=False))
    assert plan._packed.tile is None  # it wouldn't pay
    plan.close()


def test_wide_layers_that_share_nothing_are_cut_into_bands():
    random = np.random.default_rng(13)
    network = SparseNetwork(list(random_network(9000, 3, 8, upper=4.0)))
    narrow = SparseNetwork([_layer(random, 9000, 60, np.full(60, 8)), _layer(random, 60, 9000, np.full(9000, 8))])
    options = Options(variant="general", fold=False, merge=False)
    for given, regime in ((network, "bands"), (narrow, "layers"), (challenge_network(16384, 2), "layers")):
        plan = CudaPlan(given, 10, options)
        assert plan.describe()["regime"] == regime
        plan.close()
    check(network, features_of("bits", 9000, random)[:10], variant="general", fold=False, merge=False)


def test_chunks_of_many_small_units():
    """Outputs by themselves, and some without inputs, beside groups: more units of 8 than warps have places for."""
    random = np.random.default_rng(5)
    lists = [np.sort(random.choice(12, 8, replace=False)) for _ in range(40)] + [np.zeros(0, int)] * 40
    for _ in range(40):
        lists += [np.sort(random.choice(60, 16, replace=False))] * 16
    for _ in range(4):
        lists = [lists[i] for i in random.permutation(len(lists))]
        indptr = np.concatenate([[0], np.cumsum([len(inputs) for inputs in lists])])
        weights = random.integers(1, 4, indptr[-1]).astype(np.float32)
        bias = np.arange(len(lists)) / 16
        layer = SparseLayer(60, indptr, np.concatenate(lists).astype(np.int32), weights, bias, bias_rule="all")
        check(SparseNetwork([layer]), features_of("bits", 60, random), regime="layers", fold=False)


def test_equal_rows_are_computed_once():
    random = np.random.default_rng(6)
    rows = np.tile(random.random((40, 96)) < 0.3, (25, 1))
    for regime in REGIMES:
        network = positive_bias("all")(np.random.default_rng(7))
        profile = check(network, Features.from_bool(rows), regime=regime, fold=False)
        assert profile[0].computed == 1000
        assert profile[-1].computed <= 40


def rounded_reference(network: SparseNetwork, x: np.ndarray) -> np.ndarray:
    """The final rows where those of every level are rounded to float16."""
    y = x.astype(np.float16).astype(np.float64)
    for layer in network:
        z = y @ dense_weights(layer)
        z = z + layer.bias if layer.bias_rule == "all" else np.where(z != 0, z + layer.bias, 0.0)
        y = np.clip(z, layer.lower, layer.upper).astype(np.float16).astype(np.float64)
    return y


def check_half(network, features, **switches):
    """Runs agree with one another to the bit and with the reference to few units of the last place."""
    plan = CudaEngine().prepare(network, rows=features.rows, options=Options(dtype="float16", **switches))
    loaded = plan.load(features)
    want = rounded_reference(network, features.to_dense(np.float64))
    first = plan.run(loaded, values=True)
    values = first.to_dense()
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, values.astype(np.float16))
    error = np.abs(values - want) / np.maximum(1, np.abs(want))
    assert error.max(initial=0) < 0.004
    assert np.median(error) < 0.0005
    for _ in range(2):
        again = plan.run(loaded, values=True)
        np.testing.assert_array_equal(again.to_dense(), values)
        np.testing.assert_array_equal(again.positive, first.positive)
    np.testing.assert_array_equal(first.positive, np.flatnonzero(values.astype(np.float64).sum(1) > 0))
    profile = plan.run(loaded, profile=True).profile
    assert [p.layer for p in profile] == list(range(len(network)))
    assert all((p.seconds or 0) >= 0 and ((p.nbytes or 0) > 2 * p.computed or p.computed == 0) for p in profile)
    plan.close()
    return profile


@pytest.mark.parametrize("variant", ["groups", "general"])
@pytest.mark.parametrize("kind", ["bits", "dense"])
@pytest.mark.parametrize("name", NETWORKS)
def test_float16_rounds_once_a_layer(name, kind, variant):
    random = np.random.default_rng(len(name))
    network = bounded(NETWORKS[name](random), 1000)
    check_half(network, features_of(kind, network.inputs, random), variant=variant)


def test_float16_streams_weights_and_rows_under_a_memory_limit():
    random = np.random.default_rng(4)
    network = bounded(NETWORKS["power-law"](random), 1000)
    check_half(network, features_of("bits", network.inputs, random), memory_limit=4 << 20)


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("variant", ["groups", "general"])
def test_float16_official_layers(variant, merge, fold):
    """Rows that die, and some that are equal to another: later layers read them by a list, over several tiles."""
    random = np.random.default_rng(5)
    rows = random.random((900, 1024)) < random.uniform(0.05, 0.5, (900, 1))
    rows[600:] = rows[random.permutation(600)[:300]]
    profile = check_half(challenge_network(1024, 6), Features.from_bool(rows), variant=variant, merge=merge, fold=fold)
    assert 300 < profile[-1].live < 800
    assert profile[-1].computed > 257
    assert not merge or profile[-1].computed < profile[-1].live


def test_float16_takes_half_the_bytes():
    network, random = bounded(dense(np.random.default_rng(1)), 100), np.random.default_rng(2)
    features = features_of("dense", 100, random)
    plans: list[Any] = [
        CudaEngine().prepare(network, rows=301, options=Options(dtype=dtype)) for dtype in ("float32", "float16")
    ]
    facts = [plan.describe() for plan in plans]
    assert [one["dtype"] for one in facts] == ["float32", "float16"]
    assert [one["activation_bytes"] for one in facts] == [4, 2]
    assert facts[1]["regime"] == "layers"
    for plan, nbytes in zip(plans, (4, 2), strict=True):
        moved = plan.run(features, profile=True).profile[0].nbytes
        assert moved == 301 * (100 + 64) * nbytes + plan._packed.layer_bytes[0]


@pytest.mark.parametrize(("g", "share"), [(1, 0.5), (8, 1.0)])
@pytest.mark.parametrize("memory", [1e6, 1e15])
def test_float16_is_expected_to_take_half_the_time_where_bytes_bound_it(memory, g, share):
    rates = estimate.Rates(memory, 1e9)
    float32, float16 = (
        estimate.expected_seconds(1000, [512] * 3, [(4096, g)] * 2, [0, 0], [(0, 1), (1, 2)], 0, rates, nbytes)
        - estimate.expected_seconds(1000, [512, 512], [(4096, g)], [0], [(0, 1)], 0, rates, nbytes)
        for nbytes in (4, 2)
    )
    assert float16 / float32 == pytest.approx(0.5 if memory < 1e9 else share)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(("lower", "upper"), [(0.0, np.inf), (0.0, 65520.0), (-np.inf, 1.0)])
def test_bounds_past_float16_are_refused(lower, upper, lazy):
    bounds = [(0.0, 32.0), (lower, upper)]
    layers = [SparseLayer.from_matrix(np.eye(8), lower=low, upper=high) for low, high in bounds]
    network = SparseNetwork(LazyLayers(lambda k: layers[k], (8, 8, 8), 16) if lazy else layers)
    for fold in (True, False):
        with pytest.raises(InputError, match=r"between -65504 and 65504, got .* in layer 2. Give it such bounds"):
            CudaEngine().prepare(network, rows=3, options=Options(dtype="float16", fold=fold))
    CudaEngine().prepare(network, rows=3).close()


def test_features_past_float16_are_refused():
    network = SparseNetwork([SparseLayer.from_matrix(np.eye(8) * 1e6, upper=32.0)])
    plan = CudaEngine().prepare(network, rows=3, options=Options(dtype="float16"))
    for dtype in (np.float32, np.float64):
        with pytest.raises(InputError, match="features that float16 holds, up to 65504, got 70000"):
            plan.load(Features.from_dense(np.full((3, 8), 70000.0, dtype)))
    assert plan.run(Features.from_dense(np.full((3, 8), 65504.0)), values=True).to_dense().tolist() == [[32.0] * 8] * 3


def test_values_that_float16_rounds_to_zero_are_dead():
    network = SparseNetwork([SparseLayer.from_matrix(np.eye(40) * 2.0**-26, upper=1.0)] * 2)
    x = np.eye(40, dtype=np.float32)
    options, features = Options(dtype="float16"), Features.from_dense(x)
    result = CudaEngine().prepare(network, rows=40, options=options).run(features, values=True)
    assert not result.to_dense().any()
    assert result.positive.size == 0
    smallest = SparseNetwork([SparseLayer.from_matrix(np.eye(40) * 2.0**-24, upper=1.0)])
    result = CudaEngine().prepare(smallest, rows=40, options=options).run(features, values=True)
    np.testing.assert_array_equal(result.to_dense(), np.eye(40) * 2.0**-24)


def test_a_challenge_in_float16_counts_the_categories_that_change():
    images, labels = digits(300)
    pixels = np.pad(images > 100, ((0, 0), (2, 2), (2, 2))).reshape(300, 1024)
    inputs = Inputs(Features.from_bool(pixels, labels=labels), "digits", 0.1)
    instance = Instance(1024, 8)
    run = run_instance(instance, inputs, engine="cuda", options=Options(dtype="float16"), repeat=1)
    truth = ScipyEngine().prepare(instance.network(), rows=300).run(inputs.features).categories
    kept = record.record_of(run)
    assert kept["plan"]["dtype"] == "float16"
    assert run.verification.method.startswith("float32 run, held against float64 reference")
    assert run.verification.missing == tuple(np.setdiff1d(truth, run.categories))
    assert run.verification.extra == tuple(np.setdiff1d(run.categories, truth))
    assert kept["verified"] == (kept["categories_missing"] + kept["categories_extra"] == 0)
    assert 0 < len(truth) < 300


def test_infer_in_float16(tmp_path, capsys):
    random = np.random.default_rng(3)
    network, features = bounded(dense(random), 16), features_of("dense", 100, random)
    save_network(network, tmp_path / "network.safetensors")
    save_features(features, tmp_path / "rows.safetensors")
    files = [str(tmp_path / name) for name in ("network.safetensors", "rows.safetensors", "out.npy")]
    assert cli.run(["infer", *files[:2], "--engine", "cuda", "--dtype", "float16", "--output", files[2], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["dtype"] == "float16"
    want = rounded_reference(network, features.to_dense(np.float64))
    np.testing.assert_allclose(load_features(files[2]).to_dense(), want, rtol=0.002, atol=0.002)
    assert cli.run(["infer", *files[:2], "--engine", "cuda", "--dtype", "float16", "--upper", "inf"]) == 1
    assert "in layer 1. Give it such bounds (--lower, --upper)" in capsys.readouterr().err


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("share", [0.6, 0.3, 0.1])
def test_weights_pass_through_the_device_window_by_window(regime, share):
    random = np.random.default_rng(8)
    network = SparseNetwork([_layer(random, 128, 128, np.full(128, 12), bias=0.05, upper=3.0) for _ in range(24)])
    features = features_of("bits", 128, random)
    whole = CudaPlan(network, 301, Options(fold=False, variant="groups"), regime=regime)
    limit = int(whole.nbytes * share)
    assert whole.describe()["windows"] == 1
    want = whole.run(features, values=True)
    whole.close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CudaPlan, "_weights_room", lambda self: limit)
        plan = CudaPlan(network, 301, Options(fold=False, variant="groups"), regime=regime)
    assert plan._packed.passing.slabs == 2
    assert plan.describe()["windows"] >= 2 / share - 1
    loaded = plan.load(features)
    for _ in range(3):
        got = plan.run(loaded, values=True)
        # windows end stages, and another kernel may add the entries of a sum in another order
        np.testing.assert_allclose(got.to_dense(), want.to_dense(), rtol=1e-5, atol=1e-6)
        assert got.seconds > 0
        assert got.streaming_seconds >= 0
    assert len(plan.run(loaded, profile=True).profile) == 24
    plan.close()


def test_a_layer_of_more_than_half_the_room_passes_alone():
    random = np.random.default_rng(9)
    network = SparseNetwork([_layer(random, 90, 90, np.full(90, 9)) for _ in range(5)])
    whole = PackedNetwork(network, False, False, 1 << 30)
    assert whole.passing is None
    packed = PackedNetwork(network, False, False, max(whole.layer_bytes) + 100)
    whole.release()
    assert packed.streamed
    assert packed.passing.slabs == 1
    assert packed.windows() == [(k, k + 1) for k in range(5)]
    packed.release()


def test_weights_the_host_cannot_hold_are_packed_anew(monkeypatch):
    random = np.random.default_rng(4)
    network = NETWORKS["power-law"](random)
    monkeypatch.setattr("spdnn.engines.cuda.pack.memory", types.SimpleNamespace(available=lambda: 1 << 10))
    check(network, features_of("bits", network.inputs, random), memory_limit=4 << 20, regime="layers")


def test_a_plan_says_beforehand_what_it_takes():
    random = np.random.default_rng(10)
    network = SparseNetwork([_layer(random, 128, 128, np.full(128, 12)) for _ in range(4)])
    facts = {}
    for regime in REGIMES:
        for rows in (100_000, 200_000, 300_000):
            plan = CudaPlan(network, rows, Options(fold=False, variant="general"), regime=regime)
            facts[rows] = plan.describe()
            assert (facts[rows]["row_tiles"], facts[rows]["windows"], facts[rows].get("remark")) == (1, 1, None)
            assert facts[rows]["expected_ms_per_layer"] == pytest.approx(facts[rows]["expected_ms"] / 4)
            plan.close()
        one, two, three = (facts[rows]["expected_ms"] for rows in (100_000, 200_000, 300_000))
        assert 0 < two - one < one  # launches and weights don't depend on the rows
        assert three - two == pytest.approx(two - one)


def test_what_does_not_fit_is_said(monkeypatch):
    random = np.random.default_rng(11)
    network = SparseNetwork([_layer(random, 256, 256, np.full(256, 12)) for _ in range(6)])
    whole = PackedNetwork(network, False, False, 1 << 30, chunked=True)
    monkeypatch.setattr(CudaPlan, "_weights_room", lambda self: whole.nbytes // 2)
    options = Options(fold=False, variant="general", memory_limit=6 << 20)
    plan = CudaPlan(network, 5000, options, regime="layers")
    features = Features.from_bool(random.random((5000, 256)) < 0.2)
    plan.load(features)
    plan.load(features[:10])
    facts = plan.describe()
    tiles, windows = facts["row_tiles"], facts["windows"]
    assert tiles == -(-5000 // facts["row_tile"]) > 1
    assert f"features larger than the memory limit: {tiles} row tiles of {facts['row_tile']:,} rows" in facts["remark"]
    assert f"in {windows} windows of layers, the next copied while one computes" in facts["remark"]
    plan.close()
