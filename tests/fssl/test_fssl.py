"""FSSL: budgets met exactly, exact zeros, shrinking that changes nothing, resuming that changes nothing."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from fssl_models import RandomNetwork, mlp
from torch import nn

from spdnn.errors import InputError
from spdnn.fssl import FSSL, Latency, Schedule, Sparsity, flops_model
from spdnn.fssl.budget import TimeCost, WeightCost, knapsack
from spdnn.fssl.latency import LatencyModel, Shape, Timed
from spdnn.fssl.proximal import group_norms, group_prox_, soft_threshold_
from spdnn.fssl.saving import load_state, save_state
from spdnn.fssl.trace import trace

STEPS = 60
SCHEDULE = Schedule(start=0.1, groups_end=0.5, weights_end=0.8, every=5, prox_every=2, regrow=0.3)


def problem(seed: int = 0, inputs: int = 12):
    torch.manual_seed(seed)
    model = mlp(inputs, 10, 8, 3)
    x = torch.randn(64, inputs)
    y = (x[:, :3] + 0.1 * torch.randn(64, 3)).argmax(1)
    return model, x, y


def train(model, fssl, optimizer, x, y, steps: int) -> None:
    generator = torch.Generator().manual_seed(fssl.done)
    for _ in range(steps):
        rows = torch.randint(len(x), (16,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
        fssl.step()


def started(target, *, model=None, schedule=SCHEDULE, steps=STEPS, **options):
    made, x, y = problem()
    model = made if model is None else model
    fssl = FSSL(model, x[:1], target=target, steps=steps, schedule=schedule, **options)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    fssl.prepare(optimizer)
    return model, fssl, optimizer, x, y


@pytest.mark.parametrize(
    "target",
    [
        Sparsity(0.8),
        Sparsity(0.9, groups=0.9),
        Sparsity(0.7, groups=0),
        Sparsity(0.7, tile=(2, 3)),
        Sparsity(0.8, True),
    ],
)
def test_the_share_of_weights_is_removed_exactly(target: Sparsity) -> None:
    model, fssl, optimizer, x, y = started(target)
    train(model, fssl, optimizer, x, y, STEPS)
    small = fssl.compact()
    facts = fssl.report(measured=False)
    dense = 12 * 10 + 10 * 8 + 8 * 3
    assert facts["weights_dense"] == dense
    assert facts["weights"] <= dense * (1 - target.removed)
    if target.structured:
        assert facts["entries"] == facts["weights"]
    elif target.tile == (1, 1):
        assert facts["weights"] >= dense * (1 - target.removed) - 6  # what died since is gone as well
    with torch.no_grad():
        torch.testing.assert_close(small(x), model.eval()(x), atol=1e-5, rtol=1e-5)


def test_the_time_budget_is_met() -> None:
    model, fssl, optimizer, x, y = started(Latency(0.3), latency=flops_model())
    train(model, fssl, optimizer, x, y, STEPS)
    facts = fssl.report()
    assert facts["latency_model_ms"] <= 0.3 * facts["latency_model_dense_ms"] * (1 + 1e-9)
    assert facts["latency_ms"] > 0


def test_time_chooses_channels_of_a_budget_of_weights(monkeypatch) -> None:
    shapes = [Shape(a, b, a * b, form) for a in (2, 6, 12) for b in (2, 6, 12) for form in ("dense", "csr")]
    dear = LatencyModel(tuple(Timed(s, 1 + 5 * s.inputs + 0.01 * s.nnz) for s in shapes))  # its outputs cost little
    monkeypatch.setattr("spdnn.fssl.fssl.latency_model", lambda device, *, batch, limit: dear)
    live = {}
    for timed in (False, True):
        target = Sparsity(0.7, groups=0.8, timed=timed)
        model, fssl, optimizer, x, y = started(target, latency=dear if not timed else None)
        train(model, fssl, optimizer, x, y, STEPS)
        facts, dense = fssl.report(measured=False), 12 * 10 + 10 * 8 + 8 * 3
        assert dense * 0.3 - 6 <= facts["weights"] <= dense * 0.3
        assert target.inside == pytest.approx(0.3 / 0.44)
        live[timed] = fssl.live()
        assert facts["latency_model_ms"] == TimeCost(fssl.graph, dear, target.inside).total(
            dict(zip(fssl.dense_widths, facts["architecture"], strict=True))
        )
    assert sum(live[True][:3]) < sum(live[False][:3])  # what layers read


def test_a_time_budget_can_leave_zeros() -> None:
    shapes = [Shape(a, b, a * b, form) for a in (2, 6, 12) for b in (2, 6, 12) for form in ("dense", "csr")]
    times = tuple(Timed(s, 1 + s.nnz) for s in shapes)  # in either format a weight costs the same
    model, fssl, optimizer, x, y = started(Latency(0.5, density=0.5), latency=LatencyModel(times))
    train(model, fssl, optimizer, x, y, STEPS)
    facts = fssl.report(measured=False)
    assert facts["latency_model_ms"] <= 0.5 * facts["latency_model_dense_ms"] * (1 + 1e-9)
    assert facts["weights"] < 0.8 * facts["entries"]
    chosen = started(Latency(0.5, density=None), latency=LatencyModel(times))[1]
    assert isinstance(chosen.target, Latency)
    assert chosen.target.density < 1
    with pytest.raises(InputError, match="density"):
        Latency(0.5, density=0.0)


def test_the_network_shrinks_while_it_trains_and_the_optimiser_with_it() -> None:
    model, fssl, optimizer, x, y = started(Sparsity(0.8, structured=True))
    train(model, fssl, optimizer, x, y, STEPS)
    linear = model[0]
    assert linear.weight.shape[0] < 10
    assert linear.weight.shape == optimizer.state[linear.weight]["exp_avg"].shape
    assert linear.out_features == linear.weight.shape[0]
    assert model(x).shape == (64, 3)


def test_shrinking_does_not_change_what_is_learned() -> None:
    outputs = []
    for shrink in (0.0, 1.0):
        model, x, y = problem()
        model, x = model.double(), x.double()
        schedule = Schedule(**{**SCHEDULE.__dict__, "shrink": shrink, "penalty": 0.0, "regrow": 0.0})
        fssl = FSSL(model, x[:1], target=Sparsity(0.8), steps=STEPS, schedule=schedule)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        fssl.prepare(optimizer)
        train(model, fssl, optimizer, x, y, STEPS)
        outputs.append(fssl.compact()(x))
    torch.testing.assert_close(outputs[0], outputs[1])


@pytest.mark.parametrize("stop", [3, 17, 35, 55])
def test_a_run_resumes_exactly(stop: int, tmp_path) -> None:
    def whole(resume: bool) -> torch.Tensor:
        model, fssl, optimizer, x, y = started(Sparsity(0.85))
        train(model, fssl, optimizer, x, y, stop)
        if resume:
            states = [model.state_dict(), optimizer.state_dict(), fssl.state_dict()]
            save_state(states, tmp_path / "state.safetensors")
            model, fssl, optimizer, x, y = started(Sparsity(0.85))
            states = load_state(tmp_path / "state.safetensors")
            fssl.load_state_dict(states[2])
            model.load_state_dict(states[0])
            optimizer.load_state_dict(states[1])
        train(model, fssl, optimizer, x, y, STEPS - stop)
        return fssl.compact()(x)

    assert torch.equal(whole(False), whole(True))


def test_a_state_of_another_training_is_refused() -> None:
    state = started(Sparsity(0.8))[1].state_dict()
    with pytest.raises(InputError, match="same steps"):
        started(Sparsity(0.7))[1].load_state_dict(state)
    with pytest.raises(InputError, match=r"other widths|this model"):
        started(Sparsity(0.8), model=mlp(12, 5, 8, 3))[1].load_state_dict(state)


def test_weights_that_start_as_zeros_stay_zeros() -> None:
    model, x, y = problem()
    start = {}
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear):
                start[name] = torch.rand_like(module.weight) < 0.5
                module.weight *= start[name]
    schedule = Schedule(**{**SCHEDULE.__dict__, "shrink": 1.0})
    fssl = FSSL(model, x[:1], target=Sparsity(0.5, groups=0.2), steps=STEPS, schedule=schedule, keep_zeros=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    fssl.prepare(optimizer)
    train(model, fssl, optimizer, x, y, STEPS)
    for name, mask in start.items():
        assert not bool(model.get_submodule(name).weight[~mask].any())
    facts = fssl.report(measured=False)
    assert facts["weights_dense"] == sum(int(mask.sum()) for mask in start.values())
    assert facts["weights_removed"] >= 0.5


def test_ignored_layers_keep_all_their_weights_and_round_to_keeps_multiples() -> None:
    model, fssl, optimizer, x, y = started(Sparsity(0.6), ignore=["2"])
    train(model, fssl, optimizer, x, y, STEPS)
    assert int((model[2].weight != 0).sum()) == 80
    model, fssl, optimizer, x, y = started(Sparsity(0.8, structured=True), round_to=4)
    train(model, fssl, optimizer, x, y, STEPS)
    assert all(n % 4 == 0 for n in fssl.report(measured=False)["architecture"][:-1])


def test_random_networks_with_sums_norms_and_shared_layers_are_pruned() -> None:
    for seed in range(12):
        model = RandomNetwork(seed)
        x = model.example(16)
        schedule = Schedule(**{**SCHEDULE.__dict__, "shrink": 0.0})
        fssl = FSSL(model, x, target=Sparsity(0.5), steps=30, schedule=schedule)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        fssl.prepare(optimizer)
        train(model, fssl, optimizer, x, torch.arange(16) % 3, 30)
        small, model = fssl.compact().eval(), model.eval()
        with torch.no_grad():
            expected = model(x)
            torch.testing.assert_close(small(x), expected, atol=1e-5, rtol=1e-5)
        assert fssl.report(measured=False)["weights_removed"] >= 0.5


def test_the_proximal_step_of_a_group_is_exact() -> None:
    model, x, _ = problem()
    graph = trace(model, x)
    space = graph.layers["0"].writes
    before = copy.deepcopy(model)
    norms = group_norms(graph, space)
    threshold = norms.median().expand_as(norms)
    factors = group_prox_(graph, space, threshold)
    torch.testing.assert_close(group_norms(graph, space), (norms - threshold).clamp(min=0))
    for name, axis in (("0", 0), ("2", 1)):
        change = before.get_submodule(name).weight - graph.layers[name].module.weight
        # stationarity: w_old − w_new = threshold · w_new / ‖w_new‖ where the group lives
        w, norm = graph.layers[name].module.weight, group_norms(graph, space)
        scale = (threshold / norm.clamp(min=1e-12)).unsqueeze(1 - axis)
        alive = (factors > 0).unsqueeze(1 - axis)
        torch.testing.assert_close((change * alive), (scale * w * alive))
    weight = torch.tensor([-2.0, -0.1, 0.0, 0.3, 1.0])
    soft_threshold_(weight, 0.25)
    torch.testing.assert_close(weight, torch.tensor([-1.75, 0.0, 0.0, 0.05, 0.75]))


def test_the_knapsack_fills_its_budget() -> None:
    graph = trace(mlp(30, 20, 10, 4), torch.randn(2, 30))
    cost = WeightCost(graph)
    rng = np.random.default_rng(0)
    counts = graph.sizes
    importance = {k: rng.random(n) for k, n in counts.items() if not graph.spaces[k].fixed}
    for budget in (700.0, 300.0, 80.0, 9.0):
        gone = knapsack(cost, counts, importance, budget)
        left = {k: n - int(gone[k].sum()) if k in gone else n for k, n in counts.items()}
        assert cost.total(left) <= budget
        for k, dropped in gone.items():
            if dropped.any():
                assert cost.total({**left, k: left[k] + 1}) > budget
    with pytest.raises(InputError, match="can't be met"):
        knapsack(cost, counts, importance, 2.0)


def test_a_budget_that_nothing_meets_is_refused_before_training() -> None:
    flat = LatencyModel((Timed(Shape(8, 8, 64), 1.0), Timed(Shape(64, 64, 4096), 1.0)))
    with pytest.raises(InputError, match="can't be met"):
        FSSL(mlp(30, 20, 10, 4), torch.randn(2, 30), target=Latency(0.5), steps=9, latency=flat)


def test_a_dear_layer_loses_more_channels() -> None:
    """The time term acts through the derivative of the cost: of two equal layers the dearer one is cut more."""

    class Skewed:
        def __init__(self, graph):
            self.graph, self.layers = graph, list(graph.layers.values())

        def total(self, counts):
            first, second, _ = self.layers
            return 5.0 * counts[first.writes] + counts[second.writes]

        def prices(self, counts):
            first, second, _ = self.layers
            return {**dict.fromkeys(self.graph.spaces, 1e-3), first.writes: 5.0, second.writes: 1.0}

        def savings(self, counts, prices):
            return prices

    graph = trace(mlp(6, 20, 20, 4), torch.randn(2, 6))
    first, second, _ = graph.layers.values()
    importance = {first.writes: np.linspace(1, 2, 20), second.writes: np.linspace(1, 2, 20)}
    gone = knapsack(Skewed(graph), {k: s.size for k, s in graph.spaces.items()}, importance, 60.0)
    assert gone[first.writes].sum() > gone[second.writes].sum()


def test_inputs_brought_in_together_go_together() -> None:
    inputs, run, flops = 48, 8, flops_model()
    broken = {}
    for together in (1, run):
        model, x, _ = problem(inputs=inputs)
        table = LatencyModel(flops.table, {**flops.facts, "together": together})
        pruner = FSSL(model, x[:1], target=Latency(0.5), steps=STEPS, schedule=SCHEDULE, latency=table).pruner
        k = pruner.graph.input_space
        for j in pruner.prunable():
            pruner.importance[j] = torch.rand(pruner.importance[j].shape) * (1 if j == k else 100)
        pruner._drop_groups([0], [1.0])
        left = np.flatnonzero(pruner.alive[k].numpy())
        assert 0 < len(left) < inputs
        runs = np.bincount(left // run, minlength=inputs // run)
        broken[together] = int(((runs > 0) & (runs < run)).sum())
    assert broken[run] <= 1 < broken[1]


def test_tiles_are_of_neurons_that_live() -> None:
    """Neurons that stage 1 left stand side by side in the tiles of stage 2, each pair of one list of inputs."""
    schedule = Schedule(0.1, 0.5, 0.8, every=5, prox_every=2, shrink=1.0)
    model, fssl, optimizer, x, y = started(Sparsity(0.8, groups=0.6, tile=(2, 1)), schedule=schedule)
    train(model, fssl, optimizer, x, y, STEPS // 2)
    first = fssl.pruner.graph.layers["0"]
    living = fssl.pruner.alive[first.writes].nonzero().flatten()
    assert 2 < len(living) < 10
    train(model, fssl, optimizer, x, y, STEPS // 2)
    places = fssl.pruner.places[first.writes]
    living = living[places[living].argsort()]
    assert torch.equal(places[living], torch.arange(len(living)))
    rows = first.module.weight[living] != 0
    kept = fssl.pruner.alive[first.writes][living]
    for one, other in zip(range(0, len(living) - 1, 2), range(1, len(living), 2), strict=True):
        if kept[one] and kept[other]:
            assert torch.equal(rows[one], rows[other])
    assert not bool(rows.all())


def test_neurons_that_read_alike_share_a_tile() -> None:
    """By the squares of their weights, whatever their signs, sizes and places; one that is left over is the last."""
    _, fssl, *_ = started(Sparsity(0.8, groups=0.6, tile=(2, 1)))
    pruner = fssl.pruner
    layer = pruner.graph.layers["0"]
    outputs, inputs = layer.module.weight.shape
    kinds = np.random.default_rng(0).permutation(outputs) // 2
    with torch.no_grad():
        for j, kind in enumerate(kinds):
            layer.module.weight[j] = 0.01
            layer.module.weight[j, kind % inputs] = (-1) ** j * (1 + j)
    pruner.alive[layer.writes][int(np.flatnonzero(kinds == kinds[0])[1])] = False  # the twin of the smallest
    alive = pruner.alive[layer.writes].nonzero()[:, 0]
    with torch.no_grad():
        order = alive[pruner._alike(layer.writes, 0)].numpy()
    assert sorted(order) == alive.tolist()
    found = kinds[order].tolist()
    pairs = [found[k : k + 2] for k in range(0, len(found), 2)]
    assert all(pair[0] == pair[1] for pair in pairs[:-1])
    assert pairs[-1] == [kinds[0]]


def test_the_time_term_shares_the_penalty(monkeypatch: pytest.MonkeyPatch) -> None:
    """It moves pressure between layers: the mean threshold is the same for every share of it."""
    from spdnn.fssl import pruner

    means = []
    for time in (0.0, 1.0, 4.0):
        thresholds = []

        def note(norms, threshold, thresholds=thresholds):
            thresholds.append(threshold.expand_as(norms))
            return torch.ones_like(norms)

        monkeypatch.setattr(pruner, "shrink_factors", note)
        schedule = Schedule(0.0, 0.5, 0.5, every=100, prox_every=1, penalty=1e-4, time=time)
        _, fssl, _, _, _ = started(Latency(0.5), schedule=schedule, latency=flops_model())
        fssl.step()
        means.append(float(torch.cat(thresholds).mean()))
        assert len({float(t[0]) for t in thresholds}) == len(thresholds)  # layers differ
    assert means == pytest.approx([means[0]] * 3, rel=1e-4)
    assert means[0] > 0


def test_step_before_prepare_and_bad_options_are_refused() -> None:
    model, x, _ = problem()
    with pytest.raises(InputError, match="prepare"):
        FSSL(model, x[:1], target=Sparsity(0.5), steps=10).step()
    for bad in (lambda: Sparsity(1.0), lambda: Latency(0.0), lambda: Schedule(start=0.5, groups_end=0.2)):
        with pytest.raises(InputError, match="Expected"):
            bad()
    with pytest.raises(InputError, match="starts sparse"):
        FSSL(model, x[:1], target=Sparsity(0.5, structured=True), steps=10, keep_zeros=True)
