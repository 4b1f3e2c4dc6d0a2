"""The laws every engine keeps (DESIGN: an engine's result is the network's, however it is computed).

Inherit, name the engine, and run: every test below then runs for it.

    class TestScipy(EngineConformance):
        engine = "scipy"

The reference is computed here in dense float64 NumPy and shares no code with any engine. Most cases use small
integers for weights and quarters for all else: sums of those are exact in float32 in any order, so the rows must
equal the reference bit for bit, and whether a sum is exactly zero (which decides where a bias is added) is no
matter of rounding. The other cases are real-valued and must agree within the engine's stated tolerance.
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse

from spdnn.engine import Activations, Options, Plan, get_engine
from spdnn.errors import InputError, MemoryLimitError
from spdnn.features import Features
from spdnn.network import LazyLayers, SparseLayer, SparseNetwork

INFINITY = math.inf
EXACT = 2.0**22
"""Sums of multiples of a quarter below this are exact in float32."""


# -- the reference ---------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Reference:
    """levels : float64 (rows, width) of every level, the features first. reach : the largest value any partial
    sum can take. gap : the smallest distance of a value that decides something (is it zero, is it inside the
    bounds) from the point of decision, over the values that are not exactly on it."""

    levels: list[np.ndarray]
    reach: float
    gap: float

    @property
    def rows(self) -> np.ndarray:
        return self.levels[-1]


def dense_weights(layer: SparseLayer) -> np.ndarray:
    weights = np.zeros((layer.inputs, layer.outputs))
    weights[layer.indices, np.repeat(np.arange(layer.outputs), np.diff(layer.indptr))] = layer.data
    return weights


def reference(network: SparseNetwork, x: np.ndarray) -> Reference:
    levels, reach, gap = [np.asarray(x, np.float64)], 0.0, INFINITY
    for layer in network:
        weights, bias = dense_weights(layer), np.asarray(layer.bias, np.float64)
        z = levels[-1] @ weights
        y = z + bias if layer.bias_rule == "all" else np.where(z != 0, z + bias, 0.0)
        reach = max(reach, (np.abs(levels[-1]) @ np.abs(weights) + np.abs(bias)).max(initial=0.0))
        for distance in (np.abs(z), np.abs(y), np.abs(y - layer.lower), np.abs(y - layer.upper)):
            gap = min(gap, distance[distance > 0].min(initial=INFINITY))
        levels.append(np.minimum(np.maximum(y, layer.lower), layer.upper))
    return Reference(levels, reach, gap)


# -- networks --------------------------------------------------------------------------------------------------
def integer_layer(
    rng: np.random.Generator, inputs: int, outputs: int, *, density: float = 0.3, bias: Any = None, **options: Any
) -> SparseLayer:
    """Weights in -2..2, biases in quarters."""
    weights = rng.integers(-2, 3, (inputs, outputs)) * (rng.random((inputs, outputs)) < density)
    bias = rng.integers(-4, 5, outputs) / 4 if bias is None else bias
    return SparseLayer.from_matrix(weights.astype(np.float32), bias, **options)


def integer_network(rng: np.random.Generator, widths: tuple[int, ...], **options: Any) -> SparseNetwork:
    return SparseNetwork([integer_layer(rng, a, b, **options) for a, b in itertools.pairwise(widths)])


def real_layer(
    rng: np.random.Generator, inputs: int, outputs: int, *, fan_in: np.ndarray | int = 8, dtype: Any = np.float32, **kw
) -> SparseLayer:
    """Normal weights of variance about 1 / fan-in, `fan_in` inputs an output."""
    counts = np.broadcast_to(fan_in, (outputs,))
    indptr = np.concatenate([[0], np.cumsum(counts)])
    lists = [np.sort(rng.choice(inputs, count, replace=False)) for count in counts]
    indices = np.concatenate(lists) if lists else np.zeros(0, int)
    scale = np.sqrt(np.repeat(np.maximum(1, counts), counts))
    return SparseLayer(inputs, indptr, indices, (rng.normal(0.1, 1, indptr[-1]) / scale).astype(dtype), **kw)


def real_network(rng: np.random.Generator, widths: tuple[int, ...], **options: Any) -> SparseNetwork:
    return SparseNetwork([real_layer(rng, a, b, **options) for a, b in itertools.pairwise(widths)])


def binary(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """0/1 rows of very different densities, some empty."""
    return (rng.random((rows, columns)) < rng.choice([0.0, 0.05, 0.3, 0.8], (rows, 1))) * 1.0


def quarters(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Sparse rows of positive and negative quarters, with zeros of both signs."""
    values = rng.integers(-8, 9, (rows, columns)) / 4
    return np.where(rng.random((rows, columns)) < rng.choice([0.0, 0.1, 0.6], (rows, 1)), values, -0.0)


def radix_layer(rng: np.random.Generator, width: int, shift: int, bias: float, upper: float) -> SparseLayer:
    """The challenge's kind: 4 × 4 blocks, all weights 1, input rows in any order."""
    block = np.eye(width // 4) + np.roll(np.eye(width // 4), shift, axis=1)
    weights = np.kron(block, np.ones((4, 4)))[rng.permutation(width)]
    return SparseLayer.from_matrix(weights.astype(np.float32), bias, upper=upper)


# -- cases -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Case:
    network: SparseNetwork
    x: np.ndarray


Maker = Callable[[np.random.Generator], Case]
EXACT_CASES: dict[str, Maker] = {}
REAL_CASES: dict[str, Maker] = {}


def exact(make: Maker) -> Maker:
    EXACT_CASES[make.__name__] = make
    return make


def real(make: Maker) -> Maker:
    REAL_CASES[make.__name__] = make
    return make


def exact_case(name: str) -> tuple[Case, Reference]:
    case = EXACT_CASES[name](np.random.default_rng(len(name)))
    expected = reference(case.network, case.x)
    assert expected.reach < EXACT
    return case, expected


@exact
def radix_rows_die_and_become_equal(rng):
    layers = [radix_layer(rng, 128, 1 << k % 5, -3.5, 16.0) for k in range(40)]
    x = (rng.random((330, 128)) < rng.uniform(0.1, 0.5, (330, 1))) * 1.0
    return Case(SparseNetwork(layers), x)


@exact
def per_neuron_biases_on_nonzero(rng):
    return Case(integer_network(rng, (70, 50, 40, 30), bias_rule="nonzero"), quarters(rng, 90, 70))


@exact
def per_neuron_biases_on_all(rng):
    return Case(integer_network(rng, (70, 50, 40, 30), bias_rule="all"), quarters(rng, 90, 70))


@exact
def positive_bias_on_nonzero_with_cancellation(rng):
    network = integer_network(rng, (40, 40, 40, 20), density=0.12, bias=0.75, upper=6.0)
    return Case(network, binary(rng, 130, 40))


@exact
def positive_bias_on_all_brings_dead_rows_to_life(rng):
    layers = [
        integer_layer(rng, 40, 40, bias=-1.0, upper=8.0),
        integer_layer(rng, 40, 40, bias=0.25, bias_rule="all", upper=8.0),
        integer_layer(rng, 40, 40, bias=-0.5, upper=8.0),
    ]
    return Case(SparseNetwork(layers), binary(rng, 60, 40))


@exact
def rules_and_bounds_differ_by_layer(rng):
    layers = [
        integer_layer(rng, 66, 40, upper=4.0),
        integer_layer(rng, 40, 64, bias_rule="all", lower=-1.0, upper=1.0),
        integer_layer(rng, 64, 33, lower=0.25, upper=2.0),
        integer_layer(rng, 33, 65, lower=-INFINITY, upper=8.0),
        integer_layer(rng, 65, 20, bias=-0.25, lower=0.0, upper=16.0),
    ]
    return Case(SparseNetwork(layers), quarters(rng, 75, 66))


@exact
def lower_below_zero(rng):
    return Case(integer_network(rng, (50, 50, 50), lower=-2.5, upper=3.0), quarters(rng, 60, 50))


@exact
def lower_above_zero_revives_every_row(rng):
    return Case(integer_network(rng, (30, 30, 30), lower=0.25, upper=2.0), binary(rng, 60, 30))


@exact
def upper_below_zero(rng):
    return Case(integer_network(rng, (30, 30, 30), lower=-2.0, upper=-0.5, bias_rule="all"), binary(rng, 60, 30))


@exact
def no_upper_bound(rng):
    return Case(integer_network(rng, (60, 40, 30), upper=INFINITY), binary(rng, 60, 60))


@exact
def no_bounds(rng):
    return Case(integer_network(rng, (50, 30, 40), lower=-INFINITY), quarters(rng, 60, 50))


@exact
def zero_weights_kept_in_the_structure(rng):
    layers = []
    for inputs, outputs in ((40, 30), (30, 20)):
        layer = integer_layer(rng, inputs, outputs, density=0.5, bias=0.5)
        data = layer.data.copy()
        data[rng.random(data.size) < 0.5] = 0.0
        data[rng.random(data.size) < 0.1] = -0.0
        layers.append(SparseLayer(inputs, layer.indptr, layer.indices, data, 0.5))
    return Case(SparseNetwork(layers), binary(rng, 60, 40))


@exact
def inputs_nobody_reads_and_neurons_that_read_nothing(rng):
    layers = []
    for inputs, outputs in ((50, 60), (60, 40), (40, 30)):
        weights = rng.integers(-2, 3, (inputs, outputs)) * (rng.random((inputs, outputs)) < 0.3)
        weights[rng.random(inputs) < 0.4] = 0
        weights[:, rng.random(outputs) < 0.4] = 0
        layers.append(SparseLayer.from_matrix(weights, rng.integers(-2, 3, outputs) / 4, bias_rule="all"))
    return Case(SparseNetwork(layers), quarters(rng, 60, 50))


@exact
def a_layer_without_weights(rng):
    layers = [integer_layer(rng, 20, 30), integer_layer(rng, 30, 25, density=0.0), integer_layer(rng, 25, 10)]
    return Case(SparseNetwork(layers), binary(rng, 40, 20))


@exact
def a_constant_layer_without_weights(rng):
    layers = [
        integer_layer(rng, 20, 30),
        integer_layer(rng, 30, 25, density=0.0, bias_rule="all"),
        integer_layer(rng, 25, 10),
    ]
    return Case(SparseNetwork(layers), binary(rng, 40, 20))


@exact
def dense_layers(rng):
    return Case(integer_network(rng, (100, 64, 130, 10), density=1.0, upper=8.0), binary(rng, 70, 100))


@exact
def narrow_and_wide_layers(rng):
    return Case(integer_network(rng, (3, 200, 1, 257, 2, 63, 1), density=0.7, upper=8.0), quarters(rng, 80, 3))


@exact
def one_layer(rng):
    return Case(integer_network(rng, (65, 30)), quarters(rng, 67, 65))


@exact
def one_row(rng):
    return Case(integer_network(rng, (65, 40, 30), density=0.6), quarters(rng, 5, 65)[-1:] + 0.25)


@exact
def zero_rows(rng):
    return Case(integer_network(rng, (65, 40, 30)), np.zeros((0, 65)))


@exact
def equal_rows(rng):
    x = quarters(rng, 30, 50)[rng.integers(0, 30, 400)]
    return Case(integer_network(rng, (50, 50, 50, 50, 20), upper=8.0), x)


@exact
def equal_neurons(rng):
    layers = []
    for inputs, outputs, copies in ((40, 12, 5), (60, 20, 3), (60, 10, 2)):
        weights = rng.integers(-2, 3, (inputs, outputs)) * (rng.random((inputs, outputs)) < 0.3)
        order = rng.permutation(outputs * copies)
        bias = np.tile(rng.integers(-3, 4, outputs) / 4, copies)[order]
        layers.append(SparseLayer.from_matrix(np.tile(weights, copies)[:, order], bias, upper=6.0))
    return Case(SparseNetwork(layers), quarters(rng, 90, 40))


@exact
def every_row_dies(rng):
    network = integer_network(rng, (40, 40, 40, 40), bias=-1000.0)
    return Case(network, binary(rng, 100, 40))


@exact
def every_row_is_dead(rng):
    return Case(integer_network(rng, (40, 40, 40), bias=0.5), np.zeros((50, 40)))


@real
def negative_bias(rng):
    return Case(real_network(rng, (96,) * 8, bias=-0.1, upper=32.0), rng.random((150, 96)))


@real
def positive_bias_on_nonzero(rng):
    return Case(real_network(rng, (96,) * 5, fan_in=3, bias=0.2, upper=4.0), binary(rng, 60, 96))


@real
def positive_bias_on_all(rng):
    return Case(real_network(rng, (96,) * 5, bias=0.2, upper=4.0, bias_rule="all"), rng.normal(0, 1, (60, 96)))


@real
def fan_in_by_power_law_up_to_2000(rng):
    def layer(inputs, outputs):
        fan_in = np.minimum(inputs, (2 * rng.pareto(0.6, outputs)).astype(int))
        fan_in[:2] = 0, inputs
        return real_layer(rng, inputs, outputs, fan_in=fan_in, bias=rng.normal(0, 0.1, outputs), bias_rule="all")

    return Case(SparseNetwork([layer(2000, 700), layer(700, 2000), layer(2000, 50)]), binary(rng, 50, 2000))


@real
def dense_layers_of_real_weights(rng):
    layers = [
        SparseLayer.from_matrix(rng.normal(0, 0.1, (a, b)), rng.normal(0, 0.1, b), bias_rule="all")
        for a, b in itertools.pairwise((120, 90, 70, 10))
    ]
    return Case(SparseNetwork(layers), rng.normal(0, 1, (50, 120)))


@real
def bounded_on_both_sides(rng):
    layers = [
        real_layer(rng, 80, 80, bias=rng.normal(0, 0.2, 80), lower=-0.5, upper=0.75, bias_rule="all") for _ in range(6)
    ]
    return Case(SparseNetwork(layers), rng.normal(0, 1, (70, 80)))


@real
def linear(rng):
    return Case(real_network(rng, (60, 60, 60), lower=-INFINITY, bias=0.1, bias_rule="all"), rng.normal(0, 1, (70, 60)))


def features_of(x: np.ndarray, kind: str) -> Features:
    if kind == "bits":
        return Features.from_bool(x != 0)
    return Features.from_csr(sparse.csr_matrix(x)) if kind == "csr" else Features.from_dense(x)


def kinds(x: np.ndarray) -> tuple[str, ...]:
    return ("bits", "csr", "dense") if ((x == 0) | (x == 1)).all() else ("csr", "dense")


SWITCHES = [
    dict(zip(("compact", "merge", "fold"), on, strict=True)) for on in itertools.product((True, False), repeat=3)
]
INHERITED = [HealthCheck.differing_executors, HealthCheck.function_scoped_fixture]
HARD = (
    "radix_rows_die_and_become_equal",
    "rules_and_bounds_differ_by_layer",
    "positive_bias_on_all_brings_dead_rows_to_life",
    "positive_bias_on_nonzero_with_cancellation",
    "equal_neurons",
    "equal_rows",
)
"""The cases that reach most of what an engine may do with rows and neurons."""


@st.composite
def small_networks(draw) -> tuple[Case, str]:
    """A small exact network and features, and the features' kind."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    bounds = st.sampled_from([(0.0, 4.0), (0.0, 8.0), (-1.0, 1.0), (-8.0, 8.0), (0.25, 2.0), (-2.0, -0.25), (0.0, 0.0)])
    layers, inputs = [], draw(st.integers(1, 70))
    width = inputs
    for _ in range(draw(st.integers(1, 6))):
        outputs, (lower, upper) = draw(st.integers(1, 40)), draw(bounds)
        rule, density = draw(st.sampled_from(["nonzero", "all"])), draw(st.sampled_from([0.0, 0.1, 0.4, 1.0]))
        bias = draw(st.sampled_from([None, 0.0, -0.5, 0.5]))
        layers.append(
            integer_layer(rng, width, outputs, density=density, bias=bias, lower=lower, upper=upper, bias_rule=rule)
        )
        width = outputs
    rows, kind = draw(st.sampled_from([0, 1, 2, 31, 64, 65, 130])), draw(st.sampled_from(["bits", "csr", "dense"]))
    x = (binary if kind == "bits" else quarters)(rng, rows, inputs)
    if draw(st.booleans()) and rows:
        x = x[rng.integers(0, max(1, rows // 4), rows)]
    return Case(SparseNetwork(layers), x), kind


# -- the laws --------------------------------------------------------------------------------------------------
class EngineConformance:
    """Inherit and set these; every test then runs for that engine.

    engine : registry name. variant : one of the engine's, None for the default. options : further fields of
    Options for every run. optional : skip where the engine can't run; else that is a failure.
    bytes_per_element : device bytes the large case needs for each activation.
    """

    engine: str
    variant: str | None = None
    options: dict[str, Any] = {}  # noqa: RUF012
    optional = False
    bytes_per_element = 32

    @pytest.fixture(autouse=True)
    def _here(self):
        why = get_engine(self.engine).available()
        if why is not None:
            if not self.optional:
                pytest.fail(f"engine {self.engine!r} can't run here: {why}")
            pytest.skip(why)

    # -- helpers
    @property
    def tolerance(self) -> float:
        return get_engine(self.engine).tolerance

    def plan(self, network: SparseNetwork, rows: int, **switches: Any) -> Plan:
        options = Options(**{"variant": self.variant, **self.options, **switches})
        return get_engine(self.engine).prepare(network, rows=rows, options=options)

    def run(self, case: Case, kind: str | None = None, **switches: Any) -> Activations:
        """A run of its own plan, values kept."""
        plan = self.plan(case.network, len(case.x), **switches)
        result = plan.run(features_of(case.x, kind or kinds(case.x)[0]), values=True)
        plan.close()
        return result

    @staticmethod
    def assert_exact(result: Activations, rows: np.ndarray) -> None:
        """Values, live rows and categories equal the reference bit for bit (zeros of either sign are equal)."""
        np.testing.assert_array_equal(result.to_dense(), rows)
        assert result.rows == len(rows)
        assert result.outputs == rows.shape[1]
        assert result.live is not None
        assert result.values is not None
        assert result.values.shape == (result.live.size, rows.shape[1])
        np.testing.assert_array_equal(result.live, np.flatnonzero(rows.any(1)))
        np.testing.assert_array_equal(result.positive, np.flatnonzero(rows.sum(1) > 0))
        np.testing.assert_array_equal(result.categories, result.positive + 1)
        assert result.live.dtype == result.positive.dtype == np.int64

    @staticmethod
    def assert_close(result: Activations, rows: np.ndarray, tolerance: float) -> None:
        """Values within `tolerance` · max(1, |value|); categories equal where the sum's sign is beyond doubt."""
        error = np.abs(result.to_dense() - rows) / np.maximum(1, np.abs(rows))
        assert error.max(initial=0.0) <= tolerance
        sums, doubt = rows.sum(1), tolerance * np.maximum(1, np.abs(rows)).sum(1)
        positive = np.zeros(len(rows), bool)
        positive[result.positive] = True
        sure = (np.abs(sums) > doubt) | ~rows.any(1)
        np.testing.assert_array_equal(positive[sure], (sums > 0)[sure])
        assert (np.diff(result.positive) > 0).all()

    # -- rows equal the reference
    @pytest.mark.parametrize("name", EXACT_CASES)
    def test_exact_case(self, name):
        case, expected = exact_case(name)
        for kind in kinds(case.x):
            self.assert_exact(self.run(case, kind), expected.rows)

    @pytest.mark.parametrize("name", REAL_CASES)
    def test_real_case(self, name):
        case = REAL_CASES[name](np.random.default_rng(len(name)))
        expected = reference(case.network, case.x)
        assert expected.gap > 1e-7
        for kind in kinds(case.x):
            self.assert_close(self.run(case, kind), expected.rows, self.tolerance)

    @settings(max_examples=100, deadline=None, suppress_health_check=INHERITED)
    @given(made=small_networks(), switches=st.sampled_from(SWITCHES))
    def test_any_small_network(self, made, switches):
        case, kind = made
        expected = reference(case.network, case.x)
        assert expected.reach < EXACT
        self.assert_exact(self.run(case, kind, **switches), expected.rows)

    def test_float64(self):
        if "float64" not in get_engine(self.engine).dtypes:
            pytest.skip(f"engine {self.engine!r} has no float64")
        rng = np.random.default_rng(5)
        network = real_network(rng, (60, 50, 40, 30), dtype=np.float64, bias=rng.normal(0, 0.1), bias_rule="all")
        case = Case(network, rng.normal(0, 1, (40, 60)))
        for kind in kinds(case.x):
            result = self.run(case, kind, dtype="float64")
            assert result.to_dense().dtype == np.float64
            self.assert_close(result, reference(network, case.x).rows, 1e-12)

    def test_float64_weights_and_features_in_float32(self):
        rng = np.random.default_rng(6)
        network = real_network(rng, (60, 50, 40, 30), dtype=np.float64, bias=0.1, bias_rule="all")
        case = Case(network, rng.normal(0, 1, (40, 60)))
        result = self.run(case, dtype="float32")
        assert result.to_dense().dtype == np.float32
        self.assert_close(result, reference(network, case.x).rows, self.tolerance)

    # -- and don't depend on how they are computed
    @pytest.mark.parametrize("switches", SWITCHES, ids=lambda s: "-".join(k for k, on in s.items() if on) or "none")
    @pytest.mark.parametrize("name", HARD)
    def test_switches_change_nothing(self, name, switches):
        case, expected = exact_case(name)
        self.assert_exact(self.run(case, **switches), expected.rows)

    @pytest.mark.parametrize("name", HARD)
    def test_row_order_changes_nothing(self, name):
        case, expected = exact_case(name)
        order = np.random.default_rng(7).permutation(len(case.x))
        self.assert_exact(self.run(Case(case.network, case.x[order])), expected.rows[order])

    @pytest.mark.parametrize("name", HARD)
    def test_splitting_rows_changes_nothing(self, name):
        case, expected = exact_case(name)
        plan = self.plan(case.network, len(case.x))
        features = features_of(case.x, kinds(case.x)[0])
        ends = [0, 1, 1, 30, len(case.x)]
        for start, stop in itertools.pairwise(ends):
            self.assert_exact(plan.run(features[start:stop], values=True), expected.rows[start:stop])

    def test_real_rows_do_not_depend_on_order_or_splitting(self):
        rng = np.random.default_rng(8)
        network = real_network(rng, (96,) * 6, bias=rng.normal(0, 0.1), bias_rule="all", upper=8.0)
        x = rng.random((201, 96)) * binary(rng, 201, 96)
        x[100:150] = x[:50]
        plan, expected = self.plan(network, 201), reference(network, x).rows
        order = rng.permutation(201)
        self.assert_close(plan.run(features_of(x[order], "dense"), values=True), expected[order], self.tolerance)
        for start, stop in ((0, 7), (7, 8), (8, 201)):
            part = plan.run(features_of(x[start:stop], "csr"), values=True)
            self.assert_close(part, expected[start:stop], self.tolerance)

    @pytest.mark.parametrize("rows", [0, 3, 10_000])
    def test_the_number_of_rows_prepared_for_is_only_a_hint(self, rows):
        case, expected = exact_case(HARD[0])
        self.assert_exact(self.plan(case.network, rows).run(features_of(case.x, "bits"), values=True), expected.rows)

    @pytest.mark.parametrize("keeps_zero", [None, True])
    def test_lazy_layers_change_nothing(self, keeps_zero):
        case, expected = exact_case(HARD[0])
        layers = case.network.layers
        lazy = LazyLayers(lambda k: layers[k], case.network.widths, case.network.edges, keeps_zero=keeps_zero)
        self.assert_exact(self.run(Case(SparseNetwork(lazy), case.x)), expected.rows)

    def test_lazy_layers_that_bring_rows_to_life(self):
        case, expected = exact_case("positive_bias_on_all_brings_dead_rows_to_life")
        layers = case.network.layers
        lazy = LazyLayers(lambda k: layers[k], case.network.widths, case.network.edges)
        self.assert_exact(self.run(Case(SparseNetwork(lazy), case.x)), expected.rows)

    @pytest.mark.parametrize("threads", [1, 3])
    def test_threads_change_nothing(self, threads):
        case, expected = exact_case(HARD[0])
        self.assert_exact(self.run(case, threads=threads), expected.rows)

    @pytest.mark.parametrize("limit", [1, 200_000, 2_000_000])
    def test_a_memory_limit_changes_nothing_or_is_refused(self, limit):
        """Whatever doesn't fit is streamed, or refused with MemoryLimitError: never a wrong result."""
        case, expected = exact_case(HARD[0])
        refusal = None
        try:
            self.assert_exact(self.run(case, memory_limit=limit), expected.rows)
        except MemoryLimitError as error:
            refusal = error
        if refusal is not None:
            assert refusal.needed > refusal.limit
            assert refusal.limit <= limit

    # -- loaded features
    def test_loaded_features_run_again_unchanged(self):
        case, expected = exact_case(HARD[0])
        other = case.x[::-1]
        for kind in ("bits", "csr", "dense"):
            features = features_of(case.x, kind)
            before = features.to_dense().copy()
            plan = self.plan(case.network, len(case.x))
            loaded, second = plan.load(features), plan.load(features_of(other, kind))
            assert loaded.rows == len(case.x)
            for values in (True, False, True):
                result = plan.run(loaded, values=values)
                if values:
                    self.assert_exact(result, expected.rows)
                self.assert_exact(plan.run(second, values=True), expected.rows[::-1])
            np.testing.assert_array_equal(features.to_dense(), before)

    def test_earlier_results_stay_as_they_were(self):
        case, expected = exact_case("per_neuron_biases_on_all")
        plan = self.plan(case.network, len(case.x))
        first = plan.run(features_of(case.x, "dense"), values=True)
        plan.run(features_of(-case.x, "dense"), values=True)
        self.assert_exact(first, expected.rows)

    def test_a_run_without_values_keeps_categories_only(self):
        case, expected = exact_case(HARD[0])
        result = self.plan(case.network, len(case.x)).run(features_of(case.x, "bits"))
        np.testing.assert_array_equal(result.positive, np.flatnonzero(expected.rows.sum(1) > 0))
        assert 0 < result.positive.size < len(case.x)
        assert result.values is None
        with pytest.raises(InputError, match="values=True"):
            result.to_dense()

    def test_features_of_another_width_are_refused(self):
        case, _ = exact_case("one_layer")
        with pytest.raises(InputError, match="65 columns"):
            self.plan(case.network, 3).run(Features.from_dense(np.zeros((3, 64))))

    def test_features_loaded_by_another_plan_are_refused(self):
        case, _ = exact_case("one_layer")
        loaded = self.plan(case.network, 3).load(features_of(case.x, "dense"))
        with pytest.raises(InputError, match="another plan"):
            self.plan(case.network, 3).run(loaded)

    def test_numbers_past_float32_are_refused_in_float32(self):
        case, _ = exact_case("one_layer")
        large = SparseNetwork([SparseLayer.from_matrix(np.full((65, 3), -1e39))])
        biased = SparseNetwork([SparseLayer.from_matrix(np.ones((65, 3)), 1e39)])
        for network, what in ((large, "weights of layer 1"), (biased, "biases of layer 1")):
            with pytest.raises(InputError, match=f"{what} that float32 holds"):
                self.plan(network, 3, dtype="float32")
        plan = self.plan(case.network, 3, dtype="float32")
        for features in (Features.from_dense(case.x * 1e39), Features.from_csr(sparse.csr_matrix(case.x * 1e39))):
            with pytest.raises(InputError, match="features that float32 holds"):
                plan.load(features)

    # -- what a run tells about itself
    def test_progress_reaches_the_last_layer(self):
        case, _ = exact_case(HARD[0])
        calls: list[tuple[int, int]] = []
        self.plan(case.network, len(case.x)).run(
            features_of(case.x, "bits"), progress=lambda done, depth: calls.append((done, depth))
        )
        depth = len(case.network)
        assert calls[-1] == (depth, depth)
        assert all(of == depth for _, of in calls)
        done = [d for d, _ in calls]
        assert done == sorted(done)
        assert done[0] >= 0

    def test_an_interruption_gets_out_and_the_plan_still_works(self):
        class Interrupted(Exception):
            pass

        def stop(done: int, depth: int) -> None:
            raise Interrupted

        case, expected = exact_case(HARD[0])
        plan = self.plan(case.network, len(case.x))
        loaded = plan.load(features_of(case.x, "bits"))
        with pytest.raises(Interrupted):
            plan.run(loaded, progress=stop)
        self.assert_exact(plan.run(loaded, values=True), expected.rows)

    @pytest.mark.parametrize("switches", SWITCHES, ids=lambda s: "-".join(k for k, on in s.items() if on) or "none")
    def test_profile_counts_live_and_computed_rows(self, switches):
        case, expected = exact_case(HARD[0])
        result = self.plan(case.network, len(case.x), **switches).run(features_of(case.x, "bits"), profile=True)
        assert result.profile, "every built-in engine can tell"
        assert [p.layer for p in result.profile] == list(range(len(case.network)))
        live = [int(level.any(1).sum()) for level in expected.levels]
        assert live[0] > live[2] > live[-1] > 0
        assert [p.live for p in result.profile] == live[1:]
        has = get_engine(self.engine).switches
        for k, layer in enumerate(result.profile):
            assert layer.seconds is None or layer.seconds >= 0
            assert layer.nbytes is None or layer.nbytes >= 0
            distinct = len(np.unique(expected.levels[k][expected.levels[k].any(1)], axis=0))
            assert distinct <= layer.computed <= len(case.x)
            if not (switches["compact"] and "compact" in has) and not (switches["merge"] and "merge" in has):
                assert layer.computed == len(case.x)
        if switches["compact"] and "compact" in has:
            assert result.profile[-1].computed < live[0]
        if switches["merge"] and "merge" in has:
            assert result.profile[-1].computed <= len(np.unique(expected.levels[len(case.network) // 2], axis=0))

    def test_times_and_sizes_are_told(self):
        case, _ = exact_case(HARD[0])
        plan = self.plan(case.network, len(case.x))
        loaded = plan.load(features_of(case.x, "bits"))
        result = plan.run(loaded)
        assert 0 < result.seconds < 60
        assert 0 <= result.streaming_seconds < 60
        assert loaded.nbytes > 0
        assert plan.nbytes > 0
        facts = plan.describe()
        assert facts["nbytes"] == plan.nbytes
        assert all(value is None or isinstance(value, str | int | float | bool) for value in facts.values())
        json.dumps(facts)

    # -- sizes past int32
    @pytest.mark.slow
    @pytest.mark.skipif(bool(os.environ.get("CI")), reason="needs tens of gigabytes of memory")
    def test_more_than_two_to_the_31_activations(self):
        rows, width = (1 << 31) // 1000 + 1000, 1000
        needed = rows * width * self.bytes_per_element
        free = free_bytes(get_engine(self.engine).device)
        if needed > free:
            pytest.skip(f"needs about {needed / 2**30:.0f} GiB of free memory, there are {free / 2**30:.0f}")
        bits = np.full((rows, -(-width // 64)), ~np.uint64(0))
        last = np.random.default_rng(9).random(rows) < 0.3
        bits[:, -1] = np.uint64((1 << (width - 1) % 64) - 1) | (last.astype(np.uint64) << np.uint64((width - 1) % 64))
        through = SparseLayer.from_matrix(sparse.identity(width, np.float32, "csr") * 2, -1.0)
        read_last = np.zeros((width, 2), np.float32)
        read_last[-1, 1] = 1.0
        network = SparseNetwork([through, SparseLayer.from_matrix(read_last)])
        result = self.plan(network, rows, merge=False).run(Features.from_bits(bits, width))
        np.testing.assert_array_equal(result.positive, np.flatnonzero(last))


def free_bytes(device: str) -> int:
    """Free memory of the machine or of the first GPU."""
    if device == "gpu":
        import cupy

        return int(cupy.cuda.runtime.memGetInfo()[0])
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
