"""FSSL and what it is compared with, as goals of one pruner."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from ...errors import InputError, unknown_name
from ..budget import (
    Cost,
    GuidedCost,
    Latency,
    Sparsity,
    SwappedCost,
    Target,
    TimeCost,
    WeightCost,
    cost_of,
    settled,
    shrunk,
    time_cost,
)
from ..latency import LatencyModel, flops_model
from ..pruner import Goal
from ..schedule import Schedule
from ..trace import ChannelGraph


@dataclass(frozen=True)
class Method:
    """What a method is. `prunes`: it is given a goal; else it trains without one."""

    name: str
    about: str
    prunes: bool = True


METHODS: Mapping[str, Method] = {
    m.name: m
    for m in (
        Method("fssl", "neurons, inputs and weights under the fused loss; with a latency target, measured time"),
        Method("dense", "the dense network", prunes=False),
        Method("magnitude", "global magnitude pruning of single weights, gradual (Zhu & Gupta 2017)"),
        Method("lasso", "the group lasso and knapsack without the time term: prices are weights"),
        Method("flops", "multiplications in place of measured time"),
        Method("shuffled", "a latency table whose times are dealt out at random: a negative control"),
        Method("judged", "that table, judged before it is gone by, as every table is: weights take its place"),
        Method("residual", "a latency table in which what weights don't explain is dealt out: a negative control"),
        Method("swapped", "measured time charged to other layers' channels: a negative control"),
        Method("scratch", "a dense network of the small architecture, from the start", prunes=False),
        Method("torch-pruning", "Torch-Pruning's group-norm pruner at the same weights", prunes=False),
    )
}


CONTROLS = ("shuffled", "residual", "swapped")
"""Methods that do what "fssl" does by a wrong time, another for each seed."""
PER_SEED = (*CONTROLS, "judged")
"""Methods whose goals differ with the seed."""
WRONG_TABLES: Mapping[str, Callable[[LatencyModel, int], LatencyModel]] = {
    "shuffled": LatencyModel.shuffled,
    "judged": LatencyModel.shuffled,
    "residual": LatencyModel.residuals_shuffled,
}
"""What methods make of the measured table and a seed, to go by or to judge, with a sparsity that is timed."""


def goal_of(
    method: str,
    target: Target,
    graph: ChannelGraph,
    *,
    schedule: Schedule | None = None,
    latency: LatencyModel | None = None,
    seed: int = 0,
) -> Goal:
    """The goal of a method that prunes. `latency`: the model of the target device, for latency targets. `seed`: of the
    `CONTROLS`.

    A latency target is one budget of modelled time for "fssl", "lasso" and "flops"; they differ in the prices that they
    choose channels by: the time's derivative, weights, multiplications. The controls do all that "fssl" does by a wrong
    time, budget and density included: see `LatencyModel.residuals_shuffled`, `_shuffled` and `_swapped`.
    With a sparsity that is timed the budget is one of weights, and a method's prices alone differ; "judged" is given
    the table of "shuffled" and judges it as "fssl" does (`cost_of`). For "lasso" a sparsity is by whole channels.
    Raises InputError for targets a method can't have and, for a latency, but for the controls, for a latency model that
    predicts nothing (`LatencyModel.credible`).
    """
    if method not in METHODS:
        raise unknown_name("method", method, METHODS)
    schedule = schedule or Schedule()
    weights = WeightCost(graph)
    if method == "judged" and target.timed and latency is not None:
        method, latency = "fssl", WRONG_TABLES[method](latency, seed)
    if isinstance(target, Latency):
        if method == "magnitude":
            raise InputError("Magnitude pruning has no notion of time; give a sparsity.")
        if latency is None:
            raise InputError("Expected a latency model for a target of time.")
        if method not in CONTROLS:
            latency.require_credible(dense=target.structured)
        if method == "shuffled":
            return _shuffled(target, graph, schedule, latency, seed)
        if method == "residual":
            latency = WRONG_TABLES[method](latency, seed)
        target = settled(target, graph, latency)
        time = time_cost(target, graph, latency)
        dense = TimeCost(graph, latency).total(graph.sizes)
        if method == "swapped":
            return Goal(target, schedule, _swapped(time, seed), dense)
        if method in ("lasso", "flops"):
            guide = weights if method == "lasso" else TimeCost(graph, flops_model())
            schedule = replace(schedule, time=0.0) if method == "lasso" else schedule
            return Goal(target, schedule, GuidedCost(time, guide), dense)
        return Goal(target, schedule, time, dense)
    if method in ("flops", "judged", *CONTROLS):
        if not target.timed or latency is None:
            raise InputError(f"Method {method!r} needs a target of time: a latency, or a sparsity that is timed.")
        return Goal(target, schedule, GuidedCost(weights, _wrong(method, target, graph, latency, seed)))
    if method == "magnitude":
        plain = Sparsity(target.removed, groups=0.0, tile=target.tile)
        rest = {"penalty": 0.0, "l1": 0.0, "regrow": 0.0, "score": "magnitude"}
        return Goal(plain, replace(schedule, groups_end=schedule.start, **rest), weights)
    if method == "lasso":
        return Goal(replace(target, structured=True, timed=False), replace(schedule, time=0.0), weights)
    return Goal(target, schedule, cost_of(target, graph, latency))


def _wrong(method: str, target: Sparsity, graph: ChannelGraph, latency: LatencyModel, seed: int) -> Cost:
    """What guides a method's choice of channels in place of measured time."""
    if method == "flops":
        return TimeCost(graph, flops_model())
    if method == "swapped":
        return _swapped(time_cost(target, graph, latency), seed)
    return time_cost(target, graph, WRONG_TABLES[method](latency, seed))


DRAWS = 1000
"""Tables that are shuffled in search of one that has a price for what the true one has a price for."""


def _shuffled(target: Latency, graph: ChannelGraph, schedule: Schedule, latency: LatencyModel, seed: int) -> Goal:
    """A budget of the time of a shuffled table, dealt out to layers of all formats where it is to choose a density.

    What is fitted to shuffled times is nearly constant: one neuron a layer takes half to all of the dense network's
    time, and hardly any budget could be met. A constant is taken off, so that channels make up as large a share of the
    dense network's time as by the true table; `ratio` is of that. Tables by which the channels of a space cost nothing
    are drawn again, unless they cost nothing by the true one.
    """
    sizes, least = graph.sizes, shrunk(graph, 0.0)
    priced = _priced(graph, latency)
    for k in range(DRAWS):
        wrong = latency.shuffled(seed + 1_000_003 * k, across=target.density is None)
        if priced <= _priced(graph, wrong):
            break
    else:
        raise InputError(f"None of {DRAWS} shuffled latency tables has prices: the table is too small.")
    true, time = TimeCost(graph, latency), TimeCost(graph, wrong)
    share = true.total(least) / true.total(sizes)
    dense = time.total(sizes)
    less = (time.total(least) - share * dense) / (1 - share) if share < 1 else 0.0
    target = settled(target, graph, wrong, (less + target.ratio * (dense - less)) / dense)
    time = time_cost(target, graph, wrong)
    return Goal(target, schedule, GuidedCost(time, time, less), dense - less)


def right_by_chance(graph: ChannelGraph, latency: LatencyModel, wrong: LatencyModel) -> bool:
    """Whether a wrong table says what measured time says of channels that cost nothing, such as inputs on a GPU: that
    these do, and no others."""
    priced = _priced(graph, latency)
    prunable = {k for k, space in graph.spaces.items() if not space.fixed}
    return priced != prunable and priced == _priced(graph, wrong)


def _swapped(time: TimeCost, seed: int) -> SwappedCost:
    """Measured time with the spaces of channels that cause it exchanged at random, never all left as they are: as much
    can be saved, by as many zeros, but elsewhere."""
    spaces = [k for k, space in time.graph.spaces.items() if not space.fixed]
    if len(spaces) < 2:
        raise InputError("Method 'swapped' needs channels of at least two layers.")
    rng = np.random.default_rng(seed)
    while (order := rng.permutation(spaces).tolist()) == spaces:
        pass
    return SwappedCost(time, dict(zip(spaces, order, strict=True)), time.graph.sizes)


def _priced(graph: ChannelGraph, model: LatencyModel) -> set[int]:
    """Spaces whose channels cost something in the dense network, of those that may lose some."""
    prices = TimeCost(graph, model).prices(graph.sizes)
    return {k for k, space in graph.spaces.items() if not space.fixed and prices[k] > 0}
