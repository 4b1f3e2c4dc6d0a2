"""FSSL and what it is compared with, as goals of one pruner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ...errors import InputError, unknown_name
from ..budget import Cost, Latency, Sparsity, Target, TimeCost, WeightCost
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
        Method("lasso", "group lasso and the same knapsack without the time term: sparsity only"),
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
) -> Goal:
    """The goal of a method that prunes. `latency` is needed for latency targets.

    For "lasso" a target is a structured `Sparsity`. Raises InputError for targets a method can't have.
    """
    if method not in METHODS:
        raise unknown_name("method", method, METHODS)
    schedule = schedule or Schedule()
    timed = isinstance(target, Latency)
    if method == "magnitude":
        if timed:
            raise InputError("Magnitude pruning has no notion of time; give a sparsity.")
        plain = Sparsity(target.removed, groups=0.0, tile=target.tile)
        schedule = replace(schedule, groups_end=schedule.start, penalty=0.0, l1=0.0, regrow=0.0)
        return Goal(plain, schedule, WeightCost(graph))
    if method == "lasso":
        if timed:
            raise InputError("The group lasso without the time term needs a sparsity.")
        return Goal(replace(target, structured=True), replace(schedule, time=0.0), WeightCost(graph))
    if method in ("flops", "shuffled") and not timed:
        raise InputError(f"Method {method!r} needs a latency target.")
    cost: Cost = WeightCost(graph)
    if timed:
        model = flops_model() if method == "flops" else latency
        if model is None:
            raise InputError("Expected a latency model for a latency target.")
        cost = TimeCost(graph, model.shuffled() if method == "shuffled" else model)
    return Goal(target, schedule, cost)
