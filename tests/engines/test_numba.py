"""The CPU engine against the float64 reference, over all paths: tile widths, blocks, repacking, batches, streaming."""

import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from spdnn.engine import Options, prepare
from spdnn.engines.numba import NumbaEngine
from spdnn.engines.numba import run as run_module
from spdnn.engines.numba.packing import pack
from spdnn.errors import MemoryLimitError
from spdnn.features import Features
from spdnn.network import LazyLayers, SparseLayer, SparseNetwork
from spdnn.radixnet import challenge_network

SWITCHES = [{"merge": m, "fold": f, "compact": c} for m in (True, False) for f in (True, False) for c in (True, False)]


def reference(network, features):
    plan = prepare(network, rows=features.rows, engine="scipy", dtype="float64", merge=False, compact=False)
    return plan.run(features, values=True)


def error(result, expected):
    """Largest |difference| / max(1, |value|)."""
    want = expected.to_dense()
    return (np.abs(result.to_dense() - want) / np.maximum(1, np.abs(want))).max(initial=0.0)


def random_network(rng, widths, *, density=0.4, bias_rule="nonzero", lower=0.0, upper=4.0, bias=(-0.3, 0.1)):
    layers = []
    for inputs, outputs in pairwise(widths):
        weights = rng.normal(0.1, 1.0, (inputs, outputs)) * (rng.random((inputs, outputs)) < density)
        weights[:, rng.random(outputs) < 0.2] = 0  # some outputs read nothing
        weights[:, rng.random(outputs) < 0.3] = weights[:, :1]  # some are copies
        weights /= np.sqrt(max(1.0, inputs * density))
        biases = rng.uniform(*bias, outputs)
        layers.append(SparseLayer.from_matrix(weights, biases, lower=lower, upper=upper, bias_rule=bias_rule))
    return SparseNetwork(layers)


def assert_agrees(network, features, **switches):
    expected = reference(network, features)
    result = prepare(network, rows=features.rows, engine="numba", **switches).run(features, values=True)
    assert error(result, expected) <= NumbaEngine.tolerance
    sums = expected.to_dense().sum(1)
    sure = np.abs(sums) > 1e-3
    positive = np.zeros(features.rows, bool)
    positive[result.positive] = True
    assert (positive == (sums > 0))[sure].all()
    assert (np.diff(result.positive) > 0).all()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    rows=st.sampled_from([0, 1, 3, 17, 64, 65, 150, 400]),
    widths=st.lists(st.integers(1, 70), min_size=2, max_size=16),
    kind=st.sampled_from(["bits", "dense", "csr"]),
    bias_rule=st.sampled_from(["nonzero", "all"]),
    bounds=st.sampled_from([(0.0, 4.0), (0.0, float("inf")), (-1.0, 1.0), (-float("inf"), float("inf")), (0.25, 2.0)]),
    switches=st.sampled_from(SWITCHES),
    threads=st.sampled_from([1, 2, 3]),
)
def test_any_network_agrees_with_the_reference(seed, rows, widths, kind, bias_rule, bounds, switches, threads):
    rng = np.random.default_rng(seed)
    network = random_network(rng, widths, bias_rule=bias_rule, lower=bounds[0], upper=bounds[1])
    x = rng.random((rows, widths[0])) < rng.random((rows, 1))
    if kind == "bits":
        features = Features.from_bool(x)
    else:
        x = x * rng.integers(-8, 9, x.shape) / 4
        features = Features.from_dense(x) if kind == "dense" else Features.from_csr(sparse.csr_matrix(x))
    assert_agrees(network, features, threads=threads, **switches)


@pytest.mark.parametrize("switches", SWITCHES)
def test_challenge_beginning_agrees_in_every_row(switches):
    rng = np.random.default_rng(1)
    network = challenge_network(1024, 30)
    x = rng.random((300, 1024)) < rng.choice([0.05, 0.2, 0.3, 0.5], (300, 1))
    x[200:] = x[:100]
    features = Features.from_bool(x)
    expected = reference(network, features)
    assert 0 < expected.positive.size < 300
    result = prepare(network, rows=300, engine="numba", **switches).run(features, values=True)
    assert np.array_equal(result.positive, expected.positive)
    assert error(result, expected) <= NumbaEngine.tolerance


def test_switches_and_threads_change_nothing_bitwise():
    """Every path sums in the same order, so all agree bit for bit as long as nothing is folded."""
    rng = np.random.default_rng(2)
    network = random_network(rng, [90, 40, 64, 33, 50, 50, 50, 50, 50, 50, 50, 50, 50, 20], bias=(-0.2, 0.2))
    x = np.repeat(rng.random((120, 90)) < 0.3, 3, axis=0)
    results = [
        prepare(network, rows=360, engine="numba", fold=False, merge=merge, compact=compact, threads=threads)
        .run(features, values=True)
        .to_dense()
        for merge in (True, False)
        for compact in (True, False)
        for threads in (1, 2)
        for features in (Features.from_bool(x), Features.from_dense(x * 1.0))
    ]
    assert results[0].any()
    assert all(np.array_equal(results[0], other) for other in results)
    order = rng.permutation(360)
    plan = prepare(network, rows=360, engine="numba", fold=False)
    shuffled = plan.run(Features.from_bool(x[order]), values=True).to_dense()
    assert np.array_equal(shuffled, results[0][order])
    alone = plan.run(Features.from_bool(x[7:8]), values=True).to_dense()
    assert np.array_equal(alone[0], results[0][7])


def test_dense_layers_and_large_fan_in():
    rng = np.random.default_rng(3)
    network = random_network(rng, [2000, 7, 300, 1], density=1.0)
    assert_agrees(network, Features.from_bool(rng.random((130, 2000)) < 0.5))


def test_more_inputs_than_uint16_counts():
    rng = np.random.default_rng(4)
    inputs = 70_000
    layers = [
        SparseLayer.from_matrix(sparse.random(inputs, 30, 0.001, random_state=5, dtype=np.float32)),
        SparseLayer.from_matrix(sparse.random(30, 66_000, 0.1, random_state=6, dtype=np.float32)),
        SparseLayer.from_matrix(sparse.random(66_000, 9, 0.001, random_state=7, dtype=np.float32)),
    ]
    network = SparseNetwork(layers)
    assert pack(layers[0]).arrays[1].dtype == np.uint32
    x = rng.random((70, inputs)) < 0.5
    assert_agrees(network, Features.from_bool(x))
    assert_agrees(network, Features.from_csr(sparse.csr_matrix(x * 0.5)), fold=False)


def test_outputs_of_one_input_set_share_their_indices():
    weights = np.zeros((10, 9))
    weights[[1, 5, 7], :7] = np.arange(21).reshape(3, 7) + 1
    weights[2, 8] = 1
    packed = pack(SparseLayer.from_matrix(weights))
    blocks, index, weight, _ = packed.arrays
    assert (blocks[:, 1] & 7).tolist() == [4, 2, 1, 1, 1]
    assert (blocks[:, 1] >> 3).tolist() == [3, 3, 3, 0, 1]
    assert index.tolist() == [1, 5, 7, 2]
    assert (packed.groups, packed.grouped) == (3, 7)
    assert packed.position.tolist() == list(range(9))
    assert weight[:4].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("lazy", [False, True])
def test_streamed_weights_give_the_same(lazy):
    rng = np.random.default_rng(8)
    network = random_network(rng, [64] * 120, density=0.5, bias=(-0.1, 0.1))
    if lazy:
        layers = network.layers
        network = SparseNetwork(LazyLayers(lambda k: layers[k], network.widths, network.edges))
    features = Features.from_bool(rng.random((900, 64)) < 0.4)
    whole = prepare(network, rows=900, engine="numba", threads=2)
    assert not whole.describe()["streamed"]
    need = whole.nbytes
    plan = prepare(network, rows=900, engine="numba", threads=2, memory_limit=int(need * 0.9))
    assert plan.describe()["streamed"]
    assert plan.nbytes == 0
    result = plan.run(features, values=True)
    assert result.streaming_seconds > 0
    expected = whole.run(features, values=True)
    assert expected.streaming_seconds == 0
    assert expected.live.size > 100
    assert np.array_equal(result.to_dense(), expected.to_dense())
    assert np.array_equal(result.positive, expected.positive)


def test_rows_that_do_not_fit_the_pool_run_in_batches(monkeypatch):
    rng = np.random.default_rng(9)
    network = random_network(rng, [64] * 13, density=0.5, bias=(0.0, 0.3))
    features = Features.from_bool(rng.random((5000, 64)) < 0.4)
    plan = prepare(network, rows=5000, engine="numba", threads=2)
    expected = plan.run(features, values=True)
    assert expected.live.size > 4000
    batches = []
    original = run_module.Run._batch
    monkeypatch.setattr(run_module.Run, "_batch", lambda self: batches.append(1) or original(self))
    plan.pool_bytes = 24 * 64 * 64 * 4
    result = plan.run(features, values=True)
    assert len(batches) > 1
    assert np.array_equal(result.to_dense(), expected.to_dense())
    assert np.array_equal(result.positive, expected.positive)


def test_a_limit_too_small_for_one_layer_says_so():
    with pytest.raises(MemoryLimitError, match="memory limit"):
        prepare(challenge_network(1024, 2), rows=10, engine="numba", memory_limit=10_000)


def test_profile_counts_live_and_computed_rows():
    rng = np.random.default_rng(10)
    network = challenge_network(1024, 14)
    x = rng.random((200, 1024)) < rng.choice([0.05, 0.2, 0.3, 0.5], (200, 1))
    x[100:] = x[:100]
    features = Features.from_bool(x)
    expected = prepare(network, rows=200, engine="scipy", dtype="float64", merge=False).run(features, profile=True)
    plan = prepare(network, rows=200, engine="numba")
    result = plan.run(features, profile=True)
    assert [p.live for p in result.profile] == [p.live for p in expected.profile]
    assert [p.layer for p in result.profile] == list(range(14))
    assert result.profile[0].computed == 200
    assert result.profile[-1].computed <= result.profile[8].live // 2
    assert sum(p.seconds for p in result.profile) <= result.seconds


def test_profile_counts_the_least_bytes_of_every_layer():
    network = SparseNetwork([SparseLayer.from_matrix(np.eye(6), 1.0, bias_rule="all")] * 3)
    plan = prepare(network, rows=5, engine="numba", merge=False)
    for value, least in ((1.0, 6 * 8), (0.5, 6 * plan.lanes * 4)):  # bits in words of 64 rows, tiles
        loaded = plan.load(Features.from_dense(np.full((5, 6), value, np.float32)))
        first, *rest = plan.run(loaded, profile=True).profile
        weights = plan.layer_bytes
        assert least <= loaded.nbytes < least + 16
        assert first.nbytes == loaded.nbytes + 5 * 6 * 4 + weights[0]
        assert [p.nbytes for p in rest] == [2 * 5 * 6 * 4 + size for size in weights[1:]]


def test_progress_reaches_the_last_layer_and_errors_in_it_get_out():
    network = challenge_network(1024, 30)
    features = Features.from_bool(np.random.default_rng(11).random((100, 1024)) < 0.4)
    plan = prepare(network, rows=100, engine="numba")
    calls = []
    plan.run(features, progress=lambda done, total: calls.append((done, total)))
    assert calls == sorted(calls)
    assert calls[-1] == (30, 30)

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plan.run(features, progress=interrupt)
    assert plan.run(features).positive.size


def test_code_without_avx512_gives_the_same():
    """The portable code paths, in a process whose compiler is told of a plainer CPU."""
    code = """
import numpy as np
from spdnn.engine import prepare
from spdnn.engines.numba import vector
from spdnn.features import Features
from spdnn.radixnet import challenge_network
assert not vector.AVX512
x = np.random.default_rng(1).random((300, 1024)) < np.linspace(0.05, 0.5, 300)[:, None]
result = prepare(challenge_network(1024, 12), rows=300, engine="numba", fold=False).run(Features.from_bool(x))
print(",".join(map(str, result.positive)))
"""
    env = {**os.environ, "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    x = np.random.default_rng(1).random((300, 1024)) < np.linspace(0.05, 0.5, 300)[:, None]
    expected = reference(challenge_network(1024, 12), Features.from_bool(x)).positive
    assert 0 < expected.size < 300
    assert done.stdout.strip() == ",".join(map(str, expected))


def test_engine_facts():
    engine = NumbaEngine()
    assert engine.available() is None
    assert set(engine.versions()) == {"numba", "llvmlite", "numpy"}
    plan = engine.prepare(challenge_network(1024, 6), rows=1, options=Options(fold=True))
    facts = plan.describe()
    assert facts["folded_neurons"] == 5 * (1024 - 64) + (1024 - 32)
    assert facts["nbytes"] == plan.nbytes > 0


@pytest.mark.parametrize("kind", ["bits", "dense", "csr"])
def test_narrow_tiles_for_wide_layers_give_the_same(kind, monkeypatch):
    from spdnn.engines.numba import plan as plan_module

    rng = np.random.default_rng(12)
    network = random_network(rng, [90, 40, 64, 33, *[50] * 12], bias=(-0.2, 0.2))
    x = rng.random((500, 90)) < 0.3
    features = {
        "bits": Features.from_bool(x),
        "dense": Features.from_dense(x * 0.5),
        "csr": Features.from_csr(sparse.csr_matrix(x * 0.5)),
    }[kind]
    results = []
    for limit, lanes in ((1 << 30, 64), (0, 16)):
        monkeypatch.setattr(plan_module, "_WIDE_TILE", limit)
        plan = prepare(network, rows=500, engine="numba", fold=False)
        assert plan.describe()["tile_rows"] == lanes
        results.append(plan.run(features, values=True).to_dense())
    assert results[0].any()
    assert np.array_equal(*results)
