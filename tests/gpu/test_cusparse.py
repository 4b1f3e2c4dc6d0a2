"""The cuSPARSE engine against the float64 reference, all variants; and that a wrong product doesn't pass."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from engines.conformance import EngineConformance, binary, exact_case, features_of, real_layer, reference

from spdnn.engine import Options
from spdnn.engines.cusparse import CusparseEngine
from spdnn.errors import MemoryLimitError
from spdnn.features import Features
from spdnn.network import SparseLayer, SparseNetwork
from spdnn.radixnet import challenge_network

VARIANTS = CusparseEngine.variants


@pytest.fixture(autouse=True)
def _engine() -> None:
    why = CusparseEngine().available()
    if why is not None:
        pytest.skip(why)


class TestFilter(EngineConformance):
    engine = "cusparse"
    variant = "filter"
    optional = True


class TestReuse(TestFilter):
    variant = "reuse"


class TestSpmm(TestFilter):
    variant = "spmm"


class TestBuffer(TestFilter):
    variant = "buffer"

    @pytest.mark.parametrize("compact", [True, False])
    def test_profile_counts_live_and_computed_rows(self, compact):
        """These variants compute all rows in every layer, by definition."""
        case, expected = exact_case("radix_rows_die_and_become_equal")
        plan = self.plan(case.network, len(case.x), compact=compact)
        profile = plan.run(features_of(case.x, "bits"), profile=True).profile
        assert [p.live for p in profile] == [int(level.any(1).sum()) for level in expected.levels[1:]]
        assert {p.computed for p in profile} == {len(case.x)}


class TestNobuffer(TestBuffer):
    variant = "nobuffer"


def irregular(random) -> tuple[SparseNetwork, Features]:
    """0 to 700 inputs per neuron, rectangular layers, a bias for each neuron."""
    layers = []
    for a, b in itertools.pairwise((800, 300, 170, 333, 90)):
        fan_in = np.minimum(a, (random.pareto(0.8, b) * 3).astype(int))
        fan_in[:2] = 0, min(a, 700)
        layers.append(real_layer(random, a, b, fan_in=fan_in, bias=random.normal(0, 0.2, b)))
    return SparseNetwork(layers), features_of(binary(random, 3000, 800), "bits")


def check(network, features, *, plan=None, **switches):
    """Three runs against the float64 reference; gives the plan's facts and the profile."""
    expected = reference(network, features.to_dense(np.float64)).rows
    plan = plan or CusparseEngine().prepare(network, rows=features.rows, options=Options(**switches))
    loaded = plan.load(features)
    for _ in range(3):
        EngineConformance.assert_close(plan.run(loaded, values=True), expected, CusparseEngine.tolerance)
    profile = plan.run(loaded, profile=True).profile
    facts = plan.describe()
    plan.close()
    assert facts["peak_device_bytes"] >= facts["nbytes"] > 0
    return facts, profile


@pytest.mark.parametrize("variant", VARIANTS)
def test_official_layers(variant):
    random = np.random.default_rng(5)
    rows = np.repeat(random.random((120, 16, 16)) < 0.3, 5, axis=0).repeat(2, 1).repeat(2, 2).reshape(600, 1024)
    facts, profile = check(challenge_network(1024, 30), Features.from_bool(rows), variant=variant)
    assert facts["retries" if "retries" in facts else "tile_rows"] in (0, 600)
    if variant in ("buffer", "nobuffer"):
        assert {p.computed for p in profile} == {600}
    else:
        assert profile[-1].computed == profile[-2].live < 600


@pytest.mark.parametrize("variant", VARIANTS)
def test_small_strips_and_a_memory_limit_change_nothing(variant):
    network, features = irregular(np.random.default_rng(4))
    facts, _ = check(network, features, variant=variant, memory_limit=12 << 20)
    assert facts["peak_device_bytes"] <= 12 << 20
    assert facts["tile_rows"] < 3000


def shuffled_groups(random, widths=(320, 640, 160, 480)) -> tuple[SparseNetwork, Features]:
    """Inputs that the same outputs read, in groups of 8 in any order, under a bias for each neuron."""
    layers = []
    for a, b in itertools.pairwise(widths):
        block = np.kron(random.random((a // 8, b)) < 0.1, np.ones((8, 1)))[random.permutation(a)]
        weights = (block * random.normal(0.05, 0.2, (a, b))).astype(np.float32)
        layers.append(SparseLayer.from_matrix(weights, random.normal(0, 0.1, b), upper=4.0))
    return SparseNetwork(layers), Features.from_bool(random.random((700, 320)) < 0.2)


@pytest.mark.parametrize("kind", ["bits", "csr", "dense"])
@pytest.mark.parametrize("variant", ["filter", "buffer", "nobuffer", "reuse"])
def test_neurons_are_renumbered_and_nobody_notices(variant, kind):
    network, features = shuffled_groups(np.random.default_rng(11))
    facts, _ = check(network, features_of(features.to_dense(np.float64), kind), variant=variant)
    assert facts["levels_renumbered"] == 3
    network, features = irregular(np.random.default_rng(12))
    assert check(network, features, variant=variant)[0]["levels_renumbered"] == 0


@pytest.mark.parametrize("variant", ["filter", "buffer", "nobuffer", "reuse"])
def test_streamed_weights_are_renumbered_too(variant):
    network, features = shuffled_groups(np.random.default_rng(13), (320, *[640] * 12))
    facts, _ = check(network, features, variant=variant, memory_limit=7 << 20)
    assert not facts["weights_resident"]
    assert facts["levels_renumbered"] == 12


@pytest.mark.parametrize("variant", ["filter", "buffer", "nobuffer", "reuse"])
def test_strips(variant):
    network, features = irregular(np.random.default_rng(6))
    plan = CusparseEngine().prepare(network, rows=features.rows, options=Options(variant=variant))
    load = plan.load

    def load_with_small_strips(features):
        loaded = load(features)
        plan.strip_products = 20_000
        return loaded

    plan.load = load_with_small_strips
    check(network, features, plan=plan)


def test_too_little_memory_is_said():
    network = challenge_network(4096, 4)
    with pytest.raises(MemoryLimitError, match="Not enough memory"):
        CusparseEngine().prepare(network, rows=10, options=Options(memory_limit=1 << 20))


def spoil_empty(plan, product, n):
    plan._kernels.zero(product.values, 4 * product.nnz)
    return product


def spoil_column(plan, product, n):
    plan._kernels.copy(product.columns, product.columns + 4, 4)
    return product


def spoil_offsets(plan, product, n):
    plan._kernels.copy(product.ptr + 4, product.ptr + 4 * n, 4)
    return product


def spoil_one_value(plan, product, n):
    plan._kernels.zero(product.values, 4)
    return product


@pytest.mark.parametrize("spoil", [spoil_empty, spoil_column, spoil_offsets, spoil_one_value])
@pytest.mark.parametrize("variant", ["filter", "nobuffer"])
def test_a_wrong_product_is_found_and_computed_again(spoil, variant, monkeypatch):
    """A product spoilt once is computed again in halves, and the result is right."""
    from spdnn.engines.cusparse.spgemm import SpgemmPlan

    multiply, spoilt = SpgemmPlan._multiply, []

    def unreliable(plan, ptr, entries, n, nnz, layer, products):
        product = multiply(plan, ptr, entries, n, nnz, layer, products)
        if n > 100 and not spoilt:
            spoilt.append(n)
            return spoil(plan, product, n)
        return product

    monkeypatch.setattr(SpgemmPlan, "_multiply", unreliable)
    random = np.random.default_rng(8)
    network = challenge_network(1024, 6)
    features = Features.from_bool(random.random((300, 1024)) < 0.2)
    plan = CusparseEngine().prepare(network, rows=300, options=Options(variant=variant))
    facts, _ = check(network, features, plan=plan)
    assert spoilt
    assert facts["retries"] == 1
