"""The latency model: monotone, fitted to what was measured, kept on disk under what it was measured on."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import nnls

from spdnn.errors import FileFormatError, InputError
from spdnn.fssl import FSSL, Latency, Sparsity
from spdnn.fssl.budget import GuidedCost, TimeCost, WeightCost, inside_for, knapsack
from spdnn.fssl.latency import (
    JUDGED,
    VERSION,
    LatencyModel,
    Shape,
    Timed,
    TimedChain,
    _ranking,
    compiled_model,
    flops_model,
    grid,
    latency_model,
    measure,
    measure_shapes,
    unseen,
)
from spdnn.fssl.trace import trace

from fssl_models import mlp  # isort: skip


def invented(shape: Shape) -> float:
    """A device: 10 µs a call, slow rows, a cache that 2¹⁶ weights outgrow."""
    if shape.format == "select":
        return 0.002 + 1e-5 * shape.outputs
    work = shape.inputs * shape.outputs if shape.format == "dense" else 3 * shape.nnz
    return 0.01 + 2e-5 * shape.outputs + 2e-6 * work + 2e-6 * max(work - 2**16, 0)


def model_of(shapes: list[Shape]) -> LatencyModel:
    return LatencyModel(tuple(Timed(s, invented(s)) for s in shapes), {"device": "invented"})


MODEL = model_of(grid())


@given(
    a=st.integers(1, 3000),
    b=st.integers(1, 3000),
    more=st.integers(1, 500),
    share=st.floats(0.01, 1.0),
    axis=st.booleans(),
)
def test_more_is_never_faster(a: int, b: int, more: int, share: float, axis: bool) -> None:
    bigger = (a + more, b) if axis else (a, b + more)
    assert MODEL.layer(*bigger) >= MODEL.layer(a, b) > 0
    n = share * a * b
    assert MODEL.layer(a, b, n + more, "csr") >= MODEL.layer(a, b, n, "csr")
    assert min(MODEL.slopes(a, b)) >= 0


def test_it_predicts_shapes_it_has_not_seen() -> None:
    found = MODEL.agreement([Timed(s, invented(s)) for s in unseen()])
    assert found["spearman"] >= 0.95
    assert found["mean_error"] <= 0.1


def test_the_shuffled_table_predicts_nothing() -> None:
    found = MODEL.shuffled(3).agreement([Timed(s, invented(s)) for s in unseen()])
    assert found["mean_error"] > 0.3


def test_shuffled_residuals_keep_what_weights_say() -> None:
    """Prices are by weights but for chance; of times that weights explain nothing is left to shuffle."""
    graph = trace(mlp(784, 300, 100, 10), torch.zeros(2, 784))
    layers = [t for t in MODEL.table if t.shape.format != "select"]
    for form in ("dense", "csr"):
        rows = [t for t in layers if t.shape.format == form]
        basis = np.array([[1.0, t.shape.nnz] for t in rows])
        known = basis @ nnls(basis / np.array([[t.ms] for t in rows]), np.ones(len(rows)))[0]
        shares = sorted(t.ms / ms for t, ms in zip(rows, known, strict=True))
        for seed in range(3):
            dealt = [t for t in MODEL.residuals_shuffled(seed).table if t.shape.format == form]
            assert [t.shape for t in dealt] == [t.shape for t in rows]
            assert sorted(t.ms / ms for t, ms in zip(dealt, known, strict=True)) == pytest.approx(shares)
            assert [t.ms for t in dealt] != [t.ms for t in rows]
    assert MODEL.residuals_shuffled(1).table == MODEL.residuals_shuffled(1).table != MODEL.residuals_shuffled(2).table
    assert MODEL.select(50) > 0 == MODEL.residuals_shuffled(1).select(50)

    plain = LatencyModel(tuple(Timed(t.shape, 0.01 + 1e-6 * t.shape.nnz) for t in layers))
    for t, dealt in zip(plain.table, plain.residuals_shuffled(1).table, strict=True):
        assert dealt.ms == pytest.approx(t.ms)
    wrong = [(t.shape.inputs + 1e-5 * t.shape.nnz) / 1e4 for t in layers]  # inputs alone, nearly
    model = LatencyModel(tuple(Timed(t.shape, ms) for t, ms in zip(layers, wrong, strict=True)))
    weights = WeightCost(graph).prices(graph.sizes)
    inputs, first = graph.input_space, next(k for k in graph.spaces if graph.sizes[k] == 300)
    true = TimeCost(graph, model).prices(graph.sizes)
    assert true[inputs] / true[first] > 2.5 * weights[inputs] / weights[first]
    dealt = [TimeCost(graph, model.residuals_shuffled(s)).prices(graph.sizes) for s in range(10)]
    ratios = [prices[inputs] / prices[first] for prices in dealt]
    assert 0.8 < np.median(ratios) / (weights[inputs] / weights[first]) < 1.25


@pytest.mark.parametrize("across", [False, True])
def test_times_that_say_nothing_are_refused(across: bool, tmp_path, monkeypatch) -> None:
    """Before anything is trained, and they aren't kept; a table of a few shapes isn't judged."""
    assert MODEL.cross_validation > 0.95
    rng = np.random.default_rng(0)
    example = torch.randn(2, 400)
    fssl = FSSL(mlp(400, 30, 20, 10), example, target=Latency(0.7), steps=9, latency=MODEL)
    assert fssl.report(measured=False)["latency_model_spearman"] == MODEL.cross_validation
    for seed in range(20):
        shuffled = MODEL.shuffled(seed, across=across)
        assert shuffled.cross_validation < 0.4
        with pytest.raises(InputError, match=r"device invented.*again.*sparsity"):
            FSSL(mlp(400, 30, 20, 10), example, target=Latency(0.7), steps=9, latency=shuffled)
    FSSL(mlp(400, 30, 20, 10), example, target=Sparsity(0.9), steps=9, latency=shuffled)  # by weights

    monkeypatch.setenv("SPDNN_CACHE", str(tmp_path))
    for times, kept in ((shuffled.table, 0), (MODEL.table, 1)):
        monkeypatch.setattr("spdnn.fssl.latency.measure_shapes", lambda *_, times=times, **__: times)
        latency_model(batch=4)
        assert len(list(tmp_path.iterdir())) == kept
    (file,) = tmp_path.iterdir()
    shuffled.save(file)  # as tables were kept before they were judged
    assert latency_model(batch=4).credible
    noisy = [Timed(t.shape, t.ms * float(np.exp(rng.normal()))) for t in MODEL.table]  # by factors of two and more
    LatencyModel(tuple(noisy)).require_credible()
    bad = LatencyModel(tuple(t for t in MODEL.table if t.shape.format != "csr")).table
    bad += tuple(Timed(t.shape, float(rng.random())) for t in MODEL.table if t.shape.format == "csr")
    half = LatencyModel(bad, MODEL.facts)  # of a target without zeros dense layers alone count
    FSSL(mlp(400, 30, 20, 10), example, target=Latency(0.7), steps=9, latency=half)
    with pytest.raises(InputError, match=r"\(csr\)"):
        FSSL(mlp(400, 30, 20, 10), example, target=Latency(0.7, None), steps=9, latency=half)
    few = [t for t in shuffled.table if t.shape.format == "dense"][: JUDGED - 1]
    assert LatencyModel(tuple(few)).cross_validation is None
    LatencyModel(tuple(few)).require_credible()


def priced_by(model: LatencyModel, structured: bool = False) -> str:
    target = Sparsity(0.9, timed=True, structured=structured)
    fssl = FSSL(mlp(400, 30, 20, 10), torch.randn(2, 400), target=target, steps=9, latency=model)
    return fssl.report(measured=False)["priced_by"]


def test_a_sparsity_goes_by_time_where_it_tells_more_than_weights() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert priced_by(MODEL) == priced_by(MODEL, structured=True) == "time"
    wrong = {"shuffled": MODEL.shuffled, "residuals": MODEL.residuals_shuffled}
    for seed in range(20):
        for of in wrong.values():
            with pytest.warns(UserWarning, match=r"device invented foretell no more.*\(dense\).*by their weights"):
                assert priced_by(of(seed)) == "weights"
        assert wrong["residuals"](seed).credible  # they foretell times, as weights do
    plain = LatencyModel(tuple(Timed(t.shape, 0.01 + 1e-6 * t.shape.nnz) for t in MODEL.table))
    with pytest.warns(UserWarning, match="by their weights"):
        assert priced_by(plain) == "weights"

    rng = np.random.default_rng(0)
    half = [t if t.shape.format == "dense" else Timed(t.shape, float(rng.random())) for t in MODEL.table]
    with pytest.warns(UserWarning, match="by their weights"):
        assert priced_by(LatencyModel(tuple(half))) == "weights"
    assert priced_by(LatencyModel(tuple(half)), structured=True) == "time"  # without zeros dense layers alone count
    half = [t if t.shape.format == "dense" else Timed(t.shape, 1e-6 * t.shape.nnz) for t in MODEL.table]
    assert priced_by(LatencyModel(tuple(half))) == "time"  # one format is enough
    graph = trace(mlp(400, 30, 20, 10), torch.zeros(2, 400))
    time, weights = TimeCost(graph, MODEL), WeightCost(graph)
    for cost, name in ((GuidedCost(time, weights), "weights"), (GuidedCost(weights, time), "time")):
        model, target = mlp(400, 30, 20, 10), Latency(0.7)
        fssl = FSSL(model, torch.zeros(2, 400), target=target, steps=9, latency=MODEL, cost=cost)
        assert fssl.priced_by == name
    few = [t for t in MODEL.shuffled(1).table if t.shape.format == "dense"][: JUDGED - 1]
    assert priced_by(LatencyModel(tuple(few))) == "time"  # not judged


def test_partial_rank_correlations_are_of_residuals_of_ranks() -> None:
    rng = np.random.default_rng(0)
    chances = []
    for _ in range(300):
        given = rng.normal(size=40)
        a, b = given + rng.normal(size=40), np.exp(given + rng.normal(size=40))
        ranks = [stats.rankdata(v) for v in (a, b, given)]
        lines = [np.polyval(np.polyfit(ranks[2], r, 1), ranks[2]) for r in ranks[:2]]
        expected = np.corrcoef(ranks[0] - lines[0], ranks[1] - lines[1])[0, 1]
        found, chance = _ranking(a, b, given)
        assert found == pytest.approx(expected)
        chances.append(chance)
        assert _ranking(a, b)[0] == pytest.approx(stats.spearmanr(a, b)[0])
        assert _ranking(a, b)[1] == pytest.approx(stats.spearmanr(a, b, alternative="greater")[1])
        assert _ranking(a, given, given) == (0.0, 1.0)  # nothing is left of it
    assert 0.3 < np.median(chances) < 0.6
    assert np.mean(np.array(chances) < 0.01) < 0.04


def test_whole_networks_that_say_nothing_are_refused() -> None:
    rng = np.random.default_rng(0)
    chains = []
    for k in range(60):
        a, b = (int(v) for v in rng.integers(20, 400, 2))
        form = "pairs" if k == 7 else ("dense", "csr")[k % 2]  # one that no other can foretell
        shapes = (Shape(a, b, a * b if form == "dense" else a * b // 10, form), Shape(b, 10, 10 * b))
        chains.append(TimedChain(shapes, 1 + 1e-4 * sum(s.nnz for s in shapes)))
    model = LatencyModel((), {"device": "cpu"}, tuple(chains))
    assert model.cross_validation > 0.9
    model.require_credible()
    for seed in range(5):
        with pytest.raises(InputError, match="for device cpu"):
            model.shuffled(seed).require_credible()


@pytest.mark.parametrize("across", [False, True])
def test_wrong_tables_do_not_know_what_is_known_without_times(across: bool) -> None:
    layers = [t for t in MODEL.table if t.shape.format != "select"]
    shuffled = MODEL.shuffled(1, across=across)
    assert MODEL.select(50) > 0 == shuffled.select(50)
    assert [t.shape for t in shuffled.table] == [t.shape for t in layers]
    filled = LatencyModel(MODEL.table, {**MODEL.facts, "multiples": [8, 8], "together": 8})
    graph = trace(mlp(784, 300, 100, 10), torch.zeros(2, 784))
    assert (filled.multiples, TimeCost(graph, filled).together) == ((8, 8), 8)
    for wrong in (filled.shuffled(1, across=across), filled.residuals_shuffled(1)):
        assert (wrong.multiples, TimeCost(graph, wrong).together) == ((1, 1), 1)
        assert wrong.facts["device"] == "invented"
    assert sorted(t.ms for t in shuffled.table) == sorted(t.ms for t in layers)


def test_flops_count_multiplications() -> None:
    assert flops_model().layer(123, 45) == pytest.approx(123 * 45 / 1e6, rel=0.02)


def test_prices_are_the_derivative_of_the_total() -> None:
    graph = trace(mlp(400, 30, 20, 10), torch.randn(2, 400))
    cost = TimeCost(graph, MODEL)
    counts = graph.sizes
    prices = cost.prices(counts)
    for k, n in counts.items():
        difference = (cost.total({**counts, k: n + 1}) - cost.total({**counts, k: n - 1})) / 2
        if k == graph.input_space:  # one feature less doesn't pay for picking the others; a quarter less does
            assert prices[k] > 0 == cost.total(counts) - cost.total({**counts, k: n - 1})
        else:
            assert prices[k] == pytest.approx(difference, rel=0.1)


def test_picking_inputs_is_paid_for() -> None:
    graph = trace(mlp(400, 30, 10), torch.randn(2, 400))
    cost = TimeCost(graph, MODEL)
    counts = graph.sizes
    k = graph.input_space
    whole = cost.total(counts)
    assert cost.total({**counts, k: 399}) == whole  # reading all is faster
    few = cost.total({**counts, k: 50})
    first = graph.layers["0"].writes
    assert few == pytest.approx(whole - MODEL.layer(400, 30) + MODEL.layer(50, 30) + MODEL.select(50))
    assert few < whole
    assert cost.prices({**counts, k: 399})[first] == pytest.approx(cost.prices(counts)[first])


def test_a_table_agrees_with_itself_selections_included() -> None:
    assert {t.shape.format for t in MODEL.table} == {"dense", "csr", "select"}
    assert MODEL.agreement(MODEL.table)["mean_error"] < 0.1
    selections = [t for t in MODEL.table if t.shape.format == "select"]
    assert MODEL.agreement(selections)["mean_error"] < 0.01
    wrong = [Timed(t.shape, 2 * t.ms) for t in selections]
    assert MODEL.agreement(wrong)["mean_error"] == pytest.approx(0.5, abs=0.01)


def test_real_layers_are_measured_and_the_table_is_kept(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SPDNN_CACHE", str(tmp_path))
    monkeypatch.setattr(
        "spdnn.fssl.latency.grid", lambda limit: [Shape(8, 8, 64), Shape(64, 32, 2048), Shape(64, 32, 200, "csr")]
    )
    first = latency_model(batch=4)
    assert len(list(tmp_path.glob(f"latency-v{VERSION}-*.json"))) == 1
    assert all(timed.ms > 0 for timed in first.table)
    again = latency_model(batch=4)
    assert again.table == first.table
    assert again.facts == first.facts
    assert again.facts["batch"] == 4
    latency_model(batch=8)
    assert len(list(tmp_path.glob(f"latency-v{VERSION}-*.json"))) == 2


def test_all_formats_are_measured() -> None:
    shapes = [Shape(16, 8, 40, form) for form in ("dense", "csr", "ell", "block")]
    assert all(timed.ms > 0 for timed in measure_shapes(shapes, batch=2, rounds=1, seconds=0.001))


def test_whole_networks_in_one_compiled_call_are_modelled(tmp_path) -> None:
    model = compiled_model(60, outputs=5, batch=3, limit=40, chains=25)
    assert {s.format for chain in model.chains for s in chain.shapes} == {"dense", "csr"}
    assert all(chain.ms > 0 and chain.shapes[-1].outputs == 5 for chain in model.chains)
    model.save(tmp_path / "table.json")
    again = LatencyModel.load(tmp_path / "table.json")
    assert again.chains == model.chains
    assert again.facts["engine"] == "spdnn-compiled"
    assert again.whole(model.chains[0].shapes) == pytest.approx(model.whole(model.chains[0].shapes))
    assert sorted(c.ms for c in model.shuffled(1).chains) == sorted(c.ms for c in model.chains)
    by_eight = compiled_model(60, outputs=5, batch=4, limit=40, chains=8, cache=False)
    assert by_eight.facts["together"] == 8
    assert all((c.shapes[0].inputs % 8) in (0, 4) for c in by_eight.chains)  # 60 inputs: seven runs and a half
    assert {s.format for chain in by_eight.chains for s in chain.shapes} == {"dense", "csr", "pairs"}

    work = lambda s: s.nnz if s.format == "csr" else s.inputs * s.outputs  # noqa: E731
    invented = [TimedChain(c.shapes, 1 + sum(map(work, c.shapes)) / 100) for c in model.chains]
    exact = LatencyModel((), {}, tuple(invented))
    assert exact.agreement(invented)["mean_error"] < 0.05
    graph = trace(mlp(60, 30, 5), torch.randn(2, 60))
    counts = graph.sizes
    assert TimeCost(graph, exact).total(counts) == pytest.approx(1 + 60 * 30 / 100 + 30 * 5 / 100, rel=0.2)


def test_what_fills_a_panel_costs_nothing() -> None:
    shapes = [Shape(a, b, a * b) for a in (8, 16, 40, 64, 100) for b in (8, 16, 40, 64, 100)]
    padded = lambda s: -(-s.inputs // 4) * 4 * -(-s.outputs // 16) * 16  # noqa: E731
    model = LatencyModel(tuple(Timed(s, 1 + 0.01 * padded(s)) for s in shapes), {"multiples": [4, 16]})
    assert model.layer(33, 17) == model.layer(36, 32) < model.layer(36, 33)
    assert model.layer(21, 90) == pytest.approx(1 + 0.01 * 24 * 96, rel=0.01)
    assert model.slopes(33, 17)[1] == pytest.approx(0.01 * 36, rel=0.05)
    assert min(model.slopes(5, 5)) > 0


def test_picking_costs_what_it_was_measured_to_cost() -> None:
    picks = [Timed(Shape(784, k, k, "select"), 0.01 + 1e-3 * k**0.5) for k in (8, 32, 104, 200, 400, 720)]
    model = LatencyModel((*MODEL.table[:20], *picks))
    for k in (16, 104, 300):
        assert model.select(k) == pytest.approx(0.01 + 1e-3 * k**0.5, rel=0.01)


def test_a_channel_that_begins_a_panel_saves_the_panel() -> None:
    shapes = [Shape(a, b, a * b) for a in (8, 16, 40, 64, 100) for b in (8, 16, 40, 64, 100)]
    padded = lambda s: -(-s.inputs // 4) * 4 * -(-s.outputs // 16) * 16  # noqa: E731
    model = LatencyModel(tuple(Timed(s, 1 + 0.01 * padded(s)) for s in shapes), {"multiples": [4, 16]})
    graph = trace(mlp(64, 49, 40, 10), torch.randn(2, 64))
    cost = TimeCost(graph, model)
    counts = graph.sizes
    k = graph.layers["0"].writes
    savings = lambda counts: cost.savings(counts, cost.prices(counts))  # noqa: E731
    saved = cost.total(counts) - cost.total({**counts, k: 48})
    assert savings(counts)[k] == pytest.approx(saved)
    assert savings({**counts, k: 50})[k] == pytest.approx(saved / 2)
    panel = cost.total({**counts, k: 48}) - cost.total({**counts, k: 32})
    assert savings({**counts, k: 48})[k] == pytest.approx(panel / 16)
    importance = {j: np.linspace(1, 2, counts[j]) for j in (k, graph.layers["2"].writes)}
    gone = knapsack(cost, counts, importance, cost.total(counts) - 0.5 * saved)
    assert gone[k].sum() == 1  # rather than eight of the other layer, of which none alone saves anything
    assert not gone[graph.layers["2"].writes].any()


def test_measured_time_says_how_dense_to_be() -> None:
    graph = trace(mlp(400, 100, 50, 10), torch.randn(2, 400))
    shapes = grid(400)
    slow = {s: (0.01 + 1e-4 * s.nnz) * (5 if s.format == "csr" else 1) for s in shapes}  # zeros cost as much
    slow = {s: 0.06 * s.inputs if s.format == "csr" else ms for s, ms in slow.items()}
    fast = {s: 0.01 + 1e-4 * s.nnz for s in shapes}  # a weight costs as much in CSR as in a dense layer
    dense, sparse = (LatencyModel(tuple(Timed(s, times[s]) for s in shapes)) for times in (slow, fast))
    assert inside_for(graph, dense, 0.1) == (1, (1, 1))
    density, tile = inside_for(graph, sparse, 0.1)
    assert density < 0.5
    assert tile == (1, 1)
    sizes = graph.sizes
    whole, half = TimeCost(graph, sparse), TimeCost(graph, sparse, 0.5)
    assert half.total(sizes) < 0.6 * whole.total(sizes)
    assert max(half.prices(sizes).values()) < max(whole.prices(sizes).values())


@pytest.mark.parametrize(("cheaper", "tile"), [(0.95, (1, 1)), (0.6, (2, 1))])
def test_measured_time_says_whether_outputs_share_their_inputs(cheaper: float, tile: tuple[int, int]) -> None:
    """They do where a weight of a pair is cheaper by more than it is worth less."""
    work = {"dense": lambda s: s.inputs * s.outputs, "csr": lambda s: s.nnz, "pairs": lambda s: cheaper * s.nnz}
    rng, chains = np.random.default_rng(0), []
    for k in range(60):
        a, b = (int(v) for v in rng.integers(20, 400, 2))
        form = ("dense", "csr", "pairs")[k % 3]
        shapes = (Shape(a, b, a * b if form == "dense" else int(0.1 * a * b), form), Shape(b, 10, 10 * b))
        chains.append(TimedChain(shapes, 1 + 1e-4 * sum(work[s.format](s) for s in shapes)))
    model = LatencyModel((), {}, tuple(chains))
    assert model.agreement(chains)["mean_error"] < 0.02
    graph = trace(mlp(400, 100, 50, 10), torch.randn(2, 400))
    ratio = 0.3
    density, found = inside_for(graph, model, ratio)
    assert found == tile
    assert density < 0.5
    single, pairs = (TimeCost(graph, model, 0.1, t).total(graph.sizes) for t in ((1, 1), (2, 1)))
    assert pairs < single
    fssl = FSSL(mlp(400, 100, 50, 10), torch.randn(2, 400), target=Latency(ratio, None), steps=9, latency=model)
    assert (fssl.target.density, fssl.target.tile) == (density, tile)


def test_a_damaged_table_is_refused(tmp_path) -> None:
    path = tmp_path / "table.json"
    for content in ("{", "{}", json.dumps({"version": 99, "facts": {}, "table": []}), json.dumps([1])):
        path.write_text(content)
        with pytest.raises(FileFormatError):
            LatencyModel.load(path)
    with pytest.raises(InputError, match="dense"):
        LatencyModel(())
    with pytest.raises(InputError, match="measured"):
        flops_model().layer(3, 3, 2, "csr")


def test_measure_measures() -> None:
    assert 0 < measure(lambda x: x + 1, torch.zeros(3), seconds=0.01) < 10
