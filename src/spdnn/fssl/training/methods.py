"""FSSL and what it is compared with, as goals of one pruner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ...errors import InputError, unknown_name
from ..budget import Cost, GuidedCost, Latency, Sparsity, Target, TimeCost, WeightCost, density_for
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
        Method("shuffled", "a latency table whose times are dealt out at random: the negative control"),
        Method("scratch", "a dense network of the small architecture, from the start", prunes=False),
        Method("torch-pruning", "Torch-Pruning's group-norm pruner at the same weights", prunes=False),
    )
}


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
    shuffled table, whose times are dealt out to layers of all formats where it is to choose a density, too.

    A latency target is one budget of modelled time for all methods; they differ in the prices that they choose
    channels by: the time's derivative ("fssl"), weights ("lasso"), multiplications ("flops"), a shuffled table's.
    With a sparsity a shuffled table's prices guide a budget of weights, its density left as without the time term. For
    "lasso" a sparsity is by whole channels. Raises InputError for targets a method can't have.
    """
    if method not in METHODS:
        raise unknown_name("method", method, METHODS)
    schedule = schedule or Schedule()
    weights = WeightCost(graph)
    if isinstance(target, Latency):
        if method == "magnitude":
            raise InputError("Magnitude pruning has no notion of time; give a sparsity.")
        if latency is None:
            raise InputError("Expected a latency model for a latency target.")
        wrong = latency.shuffled(seed, across=target.density is None)
        if target.density is None:
            target = replace(
                target, density=density_for(graph, wrong if method == "shuffled" else latency, target.ratio)
            )
        assert target.density is not None
        time = TimeCost(graph, latency, target.density)
        guides: dict[str, Cost] = {"fssl": time, "lasso": weights, "flops": TimeCost(graph, flops_model())}
        guides["shuffled"] = TimeCost(graph, wrong, target.density)
        guide = guides[method]
        schedule = replace(schedule, time=0.0) if method == "lasso" else schedule
        dense = TimeCost(graph, latency).total({k: space.size for k, space in graph.spaces.items()})
        return Goal(target, schedule, time if method == "fssl" else GuidedCost(time, guide), dense)
    if method == "shuffled" and latency is not None:
        return Goal(target, schedule, GuidedCost(weights, TimeCost(graph, latency.shuffled(seed))))
    if method in ("flops", "shuffled"):
        raise InputError(f"Method {method!r} needs a latency target.")
    if method == "magnitude":
        plain = Sparsity(target.removed, groups=0.0, tile=target.tile)
        rest = {"penalty": 0.0, "l1": 0.0, "regrow": 0.0, "score": "magnitude"}
        return Goal(plain, replace(schedule, groups_end=schedule.start, **rest), weights)
    if method == "lasso":
        return Goal(replace(target, structured=True), replace(schedule, time=0.0), weights)
    return Goal(target, schedule, weights)
