"""The training loop: data, augmentation, distillation, resuming, fleets."""

from __future__ import annotations

import contextlib
import gzip
from dataclasses import replace

import numpy as np
import pytest
import torch
from fssl.stripes import stripes
from torch import nn

from spdnn.errors import InputError
from spdnn.fssl import FSSL, Latency, Schedule, Sparsity, facts_of, flops_model, load_state, save_state
from spdnn.fssl.budget import Cost, SwappedCost, TimeCost, WeightCost, knapsack, shrunk
from spdnn.fssl.fleet import Fleet
from spdnn.fssl.latency import LatencyModel, Shape, Timed, grid
from spdnn.fssl.pruner import Pruner
from spdnn.fssl.trace import ChannelGraph, trace
from spdnn.fssl.training import (
    Augmentation,
    ImageData,
    Job,
    Recipe,
    Trainer,
    dense_network,
    load_images,
    radix_network,
    record_of,
)
from spdnn.fssl.training.fleets import Found, train_fleet
from spdnn.fssl.training.loop import Teacher, accuracy, losses
from spdnn.fssl.training.methods import CONTROLS, METHODS, PER_SEED, goal_of, right_by_chance
from spdnn.fssl.training.runs import train

SCHEDULE = Schedule(every=5, prox_every=2)


@pytest.fixture(scope="module")
def data() -> ImageData:
    return stripes()


def test_a_network_learns_and_is_pruned(data: ImageData) -> None:
    model = dense_network([36, 20, 10, 3], seed=1)
    recipe = Recipe(epochs=20, batch=16, rate=1e-2)
    fssl = FSSL(model, torch.zeros(2, 6, 6), target=Sparsity(0.9), steps=recipe.steps(160), schedule=SCHEDULE)
    trainer = Trainer(model, data, recipe, pruning=fssl)
    for _ in range(recipe.epochs):
        trainer.epoch()
    assert trainer.done == trainer.steps == 200
    assert trainer.accuracy("test")[0] >= 95
    assert fssl.report(measured=False)["weights_removed"] >= 0.9


def test_a_training_resumes_exactly(data: ImageData, tmp_path) -> None:
    def made():
        model = dense_network([36, 20, 10, 3], seed=1)
        recipe = Recipe(epochs=6, batch=16, augmentation=Augmentation(shift=0.5, fade=0.2))
        fssl = FSSL(model, torch.zeros(2, 6, 6), target=Sparsity(0.8), steps=recipe.steps(160), schedule=SCHEDULE)
        return Trainer(model, data, recipe, pruning=fssl, seeds=[3])

    whole = made()
    for _ in range(60):
        whole.step()
    first = made()
    for _ in range(33):
        first.step()
    save_state(first.state_dict(), tmp_path / "state")
    second = made()
    second.load_state_dict(load_state(tmp_path / "state"))
    for _ in range(27):
        second.step()
    for a, b in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)
    other = Trainer(dense_network([36, 20, 10, 3]), data, Recipe(epochs=7))
    with pytest.raises(InputError, match="same recipe"):
        other.load_state_dict(load_state(tmp_path / "state"))


def test_a_fleet_trains_every_seed_and_goal(data: ImageData) -> None:
    seeds = [1, 2]
    models = [dense_network([36, 20, 10, 3], seed=s) for _ in range(3) for s in seeds]
    fleet = Fleet(models, torch.zeros(2, 6, 6))
    recipe = Recipe(epochs=20, batch=16, rate=1e-2)
    targets = {"fssl": Sparsity(0.9), "magnitude": Sparsity(0.9), "flops": Latency(0.2)}
    model = flops_model()
    goals = [
        goal_of(name, t, fleet.graph, schedule=SCHEDULE, latency=model) for name, t in targets.items() for _ in seeds
    ]
    pruner = Pruner(fleet.graph, goals, steps=recipe.steps(160))
    trainer = Trainer(fleet, data, recipe, seeds=seeds, pruning=pruner)
    for _ in range(recipe.epochs):
        trainer.epoch()
    assert min(trainer.accuracy("test")) >= 90
    assert pruner.weights(0) <= 0.1 * 950
    assert pruner.weights(2) <= 0.1 * 950
    assert pruner.counts(4) != pruner.counts(0)


def test_distillation_pulls_towards_the_teacher(data: ImageData) -> None:
    fleet = Fleet([dense_network([36, 8, 3], seed=s) for s in range(2)], torch.zeros(2, 6, 6))
    teacher = Teacher(fleet, 2.0, data.side)
    images = data.train[0][:10].float()[None] / 255
    wanted = teacher(images)
    assert wanted.shape == (1, 10, 3)
    torch.testing.assert_close(wanted.exp().sum(-1), torch.ones(1, 10))
    recipe = Recipe(distill=1.0, temperature=2.0)
    labels = torch.zeros(1, 10, dtype=torch.int64)
    fully = torch.ones(1)
    found = losses(wanted * 2.0, labels, wanted, recipe, fully)
    torch.testing.assert_close(found, torch.zeros(1), atol=1e-5, rtol=0)
    assert float(losses(-wanted, labels, wanted, recipe, fully)) > 0
    both = losses((-wanted).repeat(2, 1, 1), labels.repeat(2, 1), wanted, recipe, torch.tensor([0.0, 1.0]))
    assert float(both[1]) == pytest.approx(float(losses(-wanted, labels, wanted, recipe, fully)))
    assert float(both[0]) == pytest.approx(float(losses(-wanted, labels, None, recipe, fully)))
    with pytest.raises(InputError, match="teacher"):
        Trainer(dense_network([36, 8, 3]), data, recipe)


def test_augmentation_moves_images_a_little() -> None:
    images = torch.zeros(50, 28, 28)
    images[:, 10:18, 10:18] = 1
    changed = Augmentation()(images, torch.Generator().manual_seed(0))
    assert changed.shape == images.shape
    assert (changed - images).flatten(1).abs().sum(1).min() > 1
    ratio = changed.sum() / images.sum()
    assert 0.9 < ratio < 1.1
    assert Augmentation().scaled(0).off
    torch.testing.assert_close(Augmentation().scaled(0)(images), images, atol=1e-5, rtol=0)
    shifted = Augmentation(shift=2, turn=0, stretch=0, slant=0, bend=0)(images, torch.Generator().manual_seed(1))
    columns = torch.arange(28.0)
    centre = (shifted.sum(1) * columns).sum(1) / shifted.sum((1, 2))
    assert 0.5 < (centre - 13.5).abs().max() <= 2.01


def test_the_radix_network_has_the_challenge_topology() -> None:
    model = radix_network(2)
    linears = [m for m in model if isinstance(m, nn.Linear)]
    assert [int((m.weight != 0).sum()) for m in linears] == [32768, 32768, 10240]
    assert trace(model, torch.zeros(2, 32, 32)).layers.keys() == {"1", "3", "5"}
    normed = radix_network(2, norm=True)
    assert [type(m).__name__ for m in normed].count("BatchNorm1d") == 2
    assert torch.equal(normed[1].weight, model[1].weight)


def test_networks_are_drawn_from_their_seed() -> None:
    a, b, c = (dense_network([9, 5, 2], seed=s, norm=True, dropout=0.1) for s in (1, 1, 2))
    assert torch.equal(a[1].weight, b[1].weight)
    assert not torch.equal(a[1].weight, c[1].weight)
    assert isinstance(a[-1], nn.Linear)


def test_images_come_from_idx_folders(tmp_path) -> None:
    def write(name: str, array: np.ndarray) -> None:
        header = bytes([0, 0, 8, array.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in array.shape)
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))

    with pytest.raises(InputError, match="train-images"):
        load_images(str(tmp_path))
    rng = np.random.default_rng(0)
    for split, n in (("train", 30), ("t10k", 10)):
        write(f"{split}-images-idx3-ubyte", rng.integers(0, 256, (n, 5, 4)))
        write(f"{split}-labels-idx1-ubyte", np.arange(n) % 7)
    data = load_images(str(tmp_path))
    assert (len(data.train[0]), len(data.held_out[0]), len(data.test[0])) == (27, 3, 10)
    assert (data.side, data.inputs, data.classes) == ((5, 4), 20, 7)
    assert data.padded(8).train[0].shape == (27, 8, 8)
    assert int(data.padded(8).train[0].sum()) == int(data.train[0].sum())
    with pytest.raises(InputError, match="side"):
        data.padded(4)
    with pytest.raises(InputError, match="folder"):
        load_images(str(tmp_path / "none"))


def test_methods_refuse_targets_they_cannot_have() -> None:
    graph = trace(dense_network([36, 20, 3]), torch.zeros(2, 36))
    refused = [
        ("magnitude", Latency(0.1)),
        *((name, Sparsity(0.5)) for name in ("shuffled", "judged", "residual", "swapped", "flops")),
    ]
    for method, target in refused:
        with pytest.raises(InputError, match=r"needs|no notion"):
            goal_of(method, target, graph)
    with pytest.raises(InputError, match="Unknown method"):
        goal_of("fsll", Sparsity(0.5), graph)
    with pytest.raises(InputError, match="latency model"):
        goal_of("fssl", Latency(0.5), graph)
    for control in CONTROLS:
        assert goal_of(control, Latency(0.5), graph, latency=device()).structured
    narrow = trace(dense_network([36, 3]), torch.zeros(2, 36))
    with pytest.raises(InputError, match="two layers"):
        goal_of("swapped", Latency(0.5), narrow, latency=device())
    assert not goal_of("lasso", Latency(0.5, density=0.5), graph, latency=flops_model()).structured
    for method in ("fssl", "flops", *PER_SEED):
        with pytest.raises(InputError, match="target of time"):
            goal_of(method, Sparsity(0.5, timed=True), graph)


def test_prices_alone_differ_where_a_sparsity_is_timed() -> None:
    graph, model = trace(dense_network([784, 300, 100, 10]), torch.zeros(2, 784)), device()
    sizes, target = graph.sizes, Sparsity(0.9, groups=0.8, timed=True)
    weights, time = WeightCost(graph), TimeCost(graph, model, 0.1 / 0.28)
    goals = {m: goal_of(m, target, graph, latency=model, seed=3) for m in ("fssl", "flops", *CONTROLS)}
    prices = {m: goal.cost.prices(sizes) for m, goal in goals.items()}
    assert prices["fssl"] == time.prices(sizes)
    assert prices["flops"] == TimeCost(graph, flops_model()).prices(sizes)
    shuffled = model.shuffled(3)
    assert prices["shuffled"] == TimeCost(graph, shuffled, 0.1 / 0.28).prices(sizes)
    assert prices["residual"] == TimeCost(graph, model.residuals_shuffled(3), 0.1 / 0.28).prices(sizes)
    assert sorted(prices["swapped"].values()) != sorted(prices["fssl"].values()) != sorted(prices["shuffled"].values())
    half = shrunk(graph, 0.5)
    for goal in goals.values():
        assert (goal.target, goal.dense_cost) == (target, None)
        assert goal.cost.total(half) == weights.total(half)
    assert isinstance(goal_of("fssl", replace(target, timed=False), graph, latency=model).cost, WeightCost)
    assert goal_of("lasso", target, graph, latency=model).target == Sparsity(0.9, structured=True, groups=0.8)


def device(call: float = 0.01) -> LatencyModel:
    """Slow inputs, no zeros that pay."""
    shapes = grid(shapes=20, formats=("dense",))
    return LatencyModel(tuple(Timed(s, call + 1e-4 * s.inputs + 1e-6 * s.nnz) for s in shapes if s.format == "dense"))


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.prunes])
@pytest.mark.parametrize("target", [Latency(0.99), Sparsity(0.9, timed=True)])
def test_methods_refuse_times_that_say_nothing_or_go_by_weights(method: str, target: Latency | Sparsity) -> None:
    """Those that are wrong on purpose take them, and those that look at weights only."""
    graph = trace(dense_network([784, 300, 100, 10]), torch.zeros(2, 784))
    rng = np.random.default_rng(0)
    shapes = grid(shapes=30, formats=("dense",))
    nothing = LatencyModel(tuple(Timed(s, float(rng.uniform(1, 1.2))) for s in shapes), {"device": "cpu"})
    if isinstance(target, Sparsity):
        by_weights = [m for m in ("fssl", "judged") if m == method]
        with pytest.warns(UserWarning, match="cpu foretell no more") if by_weights else contextlib.nullcontext():
            cost = goal_of(method, target, graph, latency=nothing).cost
        assert isinstance(cost, WeightCost) or not by_weights
    elif method in ("fssl", "lasso", "flops", "judged"):
        with pytest.raises(InputError, match="may be chance, for device cpu"):
            goal_of(method, target, graph, latency=nothing)
    elif method != "magnitude":
        goal_of(method, target, graph, latency=nothing)


QUICK = Recipe(epochs=10, batch=16, rate=1e-2)


def fleet_of(jobs: list[Job], data: ImageData, latency: list[LatencyModel | None]) -> list[Found]:
    """Two seeds of 36-20-10-3."""
    build = lambda seed: dense_network([36, 20, 10, 3], seed=seed)  # noqa: E731
    return train_fleet(jobs, data, seeds=[1, 2], recipe=QUICK, build=build, latency=latency)


def test_a_table_that_says_nothing_changes_nothing(data: ImageData) -> None:
    """A sparsity that is timed then gives the networks of one that isn't, to the last bit; a true table others."""
    options = {"hidden": (20, 10), "schedule": SCHEDULE}
    on, off = Sparsity(0.8, groups=0.6, timed=True), Sparsity(0.8, groups=0.6)
    jobs = [Job(method=m, target=t, **options) for m, t in (("fssl", off), ("judged", on), ("fssl", on))]
    with pytest.warns(UserWarning, match="by their weights"):
        found = fleet_of(jobs, data, [None, device(), device()])
    states = [one.model.state_dict() for one in found]
    for seed in (0, 1):
        without, judged, timed = (states[2 * k + seed] for k in range(3))
        assert without.keys() == judged.keys()
        assert all(torch.equal(without[key], judged[key]) for key in without)
        assert any(a.shape != b.shape for a, b in zip(without.values(), timed.values(), strict=True))


def ends(graph: ChannelGraph, cost: Cost) -> tuple[float, float]:
    """The cost of the dense network, and with one channel a layer."""
    return cost.total(graph.sizes), cost.total(shrunk(graph, 0.0))


@pytest.mark.parametrize("density", [1.0, None])
def test_a_shuffled_table_has_a_budget_of_its_own(density: float | None) -> None:
    graph, model = trace(dense_network([784, 300, 100, 10]), torch.zeros(2, 784)), device()
    sizes = graph.sizes
    dense, least = ends(graph, TimeCost(graph, model))
    ratio = 1.01 * least / dense
    raw = [ends(graph, TimeCost(graph, model.shuffled(s, across=density is None))) for s in range(5)]
    assert all(low > ratio * high for high, low in raw)  # no shuffled table could meet it as it is
    importance = {k: np.random.default_rng(k).random(n) for k, n in sizes.items() if not graph.spaces[k].fixed}
    for seed in range(5):
        goal = goal_of("shuffled", Latency(ratio, density), graph, latency=model, seed=seed)
        assert goal.dense_cost is not None
        high, low = ends(graph, goal.cost)
        assert (high, low / high) == (pytest.approx(goal.dense_cost), pytest.approx(least / dense))
        prices = goal.cost.prices(sizes)
        assert min(prices[k] for k in importance) > 0
        assert prices != TimeCost(graph, model).prices(sizes)
        gone = knapsack(goal.cost, sizes, importance, ratio * goal.dense_cost)
        left = {k: n - int(gone[k].sum()) if k in gone else n for k, n in sizes.items()}
        assert goal.cost.total(left) <= ratio * goal.dense_cost
    goals = [goal_of("shuffled", Latency(0.5), graph, latency=model, seed=s) for s in (1, 1, 2)]
    assert goals[0].dense_cost == goals[1].dense_cost != goals[2].dense_cost


def test_a_shuffled_table_is_right_by_chance_where_it_leaves_the_same_channels_unpriced() -> None:
    graph = trace(dense_network([784, 300, 100, 10]), torch.zeros(2, 784))
    picks = [Timed(Shape(784, n, n, "select"), 10.0) for n in (8, 100, 400, 700)]  # take longer than reading all
    model = LatencyModel((*device().table, *picks))
    k = graph.input_space
    assert TimeCost(graph, model).prices(graph.sizes)[k] == 0
    found = {}
    for seed in range(40):
        prices = TimeCost(graph, model.shuffled(seed)).prices(graph.sizes)
        free = {j for j, space in graph.spaces.items() if not space.fixed and prices[j] == 0}
        found[seed] = right_by_chance(graph, model, model.shuffled(seed))
        assert found[seed] == (free == {k})
    assert 0 < sum(found.values()) < 40
    priced = device()  # inputs, too
    assert not any(right_by_chance(graph, priced, priced.shuffled(seed)) for seed in range(5))


def test_swapped_time_is_as_much_for_other_channels() -> None:
    graph, model = trace(dense_network([784, 300, 100, 10]), torch.zeros(2, 784)), device()
    sizes = graph.sizes
    time = TimeCost(graph, model)
    orders = set()
    for seed in range(20):
        goal = goal_of("swapped", Latency(0.5, density=None), graph, latency=model, seed=seed)
        assert isinstance(goal.cost, SwappedCost)
        assert goal.target == goal_of("fssl", Latency(0.5, density=None), graph, latency=model).target
        assert ends(graph, goal.cost) == ends(graph, time)
        payers, prices, true = goal.cost.payers, goal.cost.prices(sizes), time.prices(sizes)
        assert any(k != j for k, j in payers.items())
        for k, j in payers.items():
            assert prices[k] * (sizes[k] - 1) == pytest.approx(true[j] * (sizes[j] - 1))
            half = {**sizes, k: 1 + (sizes[k] - 1) // 2}
            fewer = {**sizes, j: 1 + round(((sizes[k] - 1) // 2) * (sizes[j] - 1) / (sizes[k] - 1))}
            assert goal.cost.total(half) == time.total(fewer)
        assert goal.cost.savings(sizes, prices) == pytest.approx(prices)
        orders.add(tuple(payers.items()))
    assert len(orders) == 5


def test_controls_train_in_a_fleet_and_alone(data: ImageData, tmp_path) -> None:
    table = device(call=1e-4)
    options = {"hidden": (20, 10), "schedule": SCHEDULE, "recipe": QUICK}
    jobs = [Job(method=m, target=Latency(0.4, density=0.5), **options) for m in CONTROLS]
    found = fleet_of(jobs, data, [table] * len(jobs))
    for one in found:
        widths = facts_of(one.model, 950)["architecture"]
        graph = trace(dense_network([36, 20, 10, 3]), torch.zeros(2, 36))
        goal = goal_of(one.job.method, jobs[0].target, graph, latency=table, seed=one.job.seed)
        counts = dict(zip(sorted(graph.spaces), widths, strict=True))
        assert goal.cost.total(counts) <= 0.4 * goal.dense_cost
    alone = train(replace(jobs[0], seed=2), data, tmp_path, latency=table)
    assert alone.record["density"] == 0.5
    counts = dict(zip(sorted(graph.spaces), map(int, alone.record["architecture"].split("-")), strict=True))
    goal = goal_of("shuffled", jobs[0].target, graph, latency=table, seed=2)
    assert goal.cost.total(counts) <= 0.4 * goal.dense_cost


def test_a_fleet_of_jobs_meets_every_target(data: ImageData) -> None:
    jobs = [
        Job(method="dense", hidden=(20, 10)),
        Job(method="fssl", hidden=(20, 10), target=Sparsity(0.9), schedule=SCHEDULE),
        Job(method="lasso", hidden=(20, 10), target=Sparsity(0.8), schedule=SCHEDULE),
        Job(method="flops", hidden=(20, 10), target=Latency(0.3), schedule=SCHEDULE),
    ]
    found = fleet_of(jobs, data, [None, None, None, flops_model()])
    assert [(f.job.method, f.job.seed) for f in found] == [(j.method, s) for j in jobs for s in (1, 2)]
    removed = [facts_of(f.model, 950)["weights_removed"] for f in found]
    assert removed[:2] == [0, 0]
    assert min(removed[2:4]) >= 0.9
    assert min(removed[4:6]) >= 0.8
    assert all(accuracy(f.model, *data.test)[0] > 60 for f in found[:6])
    assert record_of(found[2].model, found[2].job, data, dense_weights=950, timed=False)["weights_removed"] >= 0.9
    with pytest.raises(InputError, match="in a fleet"):
        train_fleet(
            [Job(method="torch-pruning", hidden=(20, 10), target=Sparsity(0.5))],
            data,
            seeds=[1],
            recipe=Recipe(epochs=1, batch=16),
            build=lambda seed: dense_network([36, 20, 10, 3], seed=seed),
        )


def test_a_held_rate_falls_later(data: ImageData) -> None:
    rates = {}
    for hold in (0.0, 0.5):
        trainer = Trainer(dense_network([36, 4, 3]), data, Recipe(epochs=10, batch=16, rate=1e-2, hold=hold))
        rates[hold] = [trainer.rate() for trainer.done in range(trainer.steps)]
    assert rates[0.5][10:50] == [1e-2] * 40
    assert rates[0.0][49] < 0.6e-2
    assert max(rates[0.0][-1], rates[0.5][-1]) < 1e-5
    with pytest.raises(InputError, match="hold"):
        Recipe(hold=1.0)


def test_curvature_tells_weights_apart_that_magnitude_does_not() -> None:
    torch.manual_seed(0)
    model = dense_network([6, 4, 2], seed=3)
    with torch.no_grad():
        for layer in (model[1], model[3]):
            layer.weight.copy_(layer.weight.sign())  # pyright: ignore
    schedule = Schedule(start=0.0, groups_end=0.0, weights_end=1.0, every=10, prox_every=1, score="fisher", shrink=1)
    fssl = FSSL(model, torch.zeros(2, 6), target=Sparsity(0.25, groups=0.0), steps=10, schedule=schedule)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9)
    fssl.prepare(optimizer)
    for _ in range(10):
        x = torch.randn(64, 6) * torch.tensor([1, 1, 1, 1, 1, 1e-3])
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        fssl.step()
    assert not model[1].weight[:, 5].any()  # pyright: ignore
    assert fssl.pruner.weights() == 24


def test_networks_with_norms_become_plain_ones(data: ImageData) -> None:
    recipe, schedule = Recipe(epochs=20, batch=16, rate=1e-2), replace(SCHEDULE, score="fisher")
    jobs = [
        Job(hidden=(20, 10), norm=True, target=Sparsity(0.8, structured=s), schedule=schedule) for s in (False, True)
    ]
    build = lambda seed: dense_network([36, 20, 10, 3], seed=seed, norm=True)  # noqa: E731
    for found in train_fleet(jobs, data, seeds=[1], recipe=recipe, build=build):
        assert not any(isinstance(m, nn.BatchNorm1d) for m in found.model.modules())
        assert facts_of(found.model, 36 * 20 + 200 + 30)["weights_removed"] >= 0.8
        assert accuracy(found.model, *data.test)[0] >= 90
