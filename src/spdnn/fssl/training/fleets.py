"""Many jobs on one architecture trained at once as a fleet: every seed of every method, the same data for each seed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import fx, nn

from ...errors import InputError
from ..budget import Latency, Sparsity
from ..fleet import Fleet
from ..latency import LatencyModel
from ..pruner import Goal, Pruner
from ..schedule import Schedule
from . import rivals
from .data import ImageData
from .loop import Recipe, Teacher, Trainer
from .methods import METHODS, PER_SEED, goal_of
from .runs import Job

EpochDone = Callable[[int, Trainer], None]


@dataclass(frozen=True, eq=False)
class Found:
    """What came of one job: its compact network, and its share of the seconds the fleet took."""

    job: Job
    model: fx.GraphModule
    seconds: float


def train_fleet(
    jobs: Sequence[Job],
    data: ImageData,
    *,
    seeds: Sequence[int],
    recipe: Recipe,
    build: Callable[[int], nn.Module],
    latency: Sequence[LatencyModel | None] | None = None,
    teacher: Teacher | None = None,
    keep_zeros: bool = False,
    graphs: bool = True,
    after_epoch: EpochDone | None = None,
    distill: Sequence[float] | None = None,
) -> list[Found]:
    """Train every job with every seed; the jobs' own seeds and recipes are replaced by these.

    build : the start of a seed; all of one architecture. latency : the model of each job that needs one.
    distill : of each job, in place of the recipe's.
    Results come job by job, and within a job seed by seed. Raises InputError for methods that are no goal of a pruner,
    but for "dense".
    """
    device = data.train[0].device
    models = [build(seed) for _ in jobs for seed in seeds]
    example = torch.zeros(2, *data.side)
    fleet = Fleet(models, example).to(device)
    steps = recipe.steps(len(data.train[0]))
    goals: list[Goal] = []
    for job, model in zip(jobs, latency or [None] * len(jobs), strict=True):
        fitted = replace(job, schedule=job.schedule.fitting(steps))
        alike = job.method not in PER_SEED
        made = [_goal(replace(fitted, seed=0 if alike else s), fleet, model) for s in seeds[: 1 if alike else None]]
        goals += made * (len(seeds) if alike else 1)
    pruner = Pruner(fleet.graph, goals, steps=steps, keep_zeros=keep_zeros)
    recipes = [recipe if distill is None else replace(recipe, distill=share) for share in distill or jobs]
    shares = [own.distill for own in recipes for _ in seeds]
    trainer = Trainer(fleet, data, recipe, seeds=seeds, pruning=pruner, teacher=teacher, graphs=graphs, distill=shares)
    started = time.perf_counter()
    for epoch in range(recipe.epochs):
        trainer.epoch()
        if after_epoch:
            after_epoch(epoch + 1, trainer)
    seconds = (time.perf_counter() - started) / len(models)
    found = []
    for c, job in enumerate(jobs):
        for s, seed in enumerate(seeds):
            member = fleet.eval().member(c * len(seeds) + s)
            small = rivals.compacted(member, example.to(device))
            if isinstance(job.target, Latency):  # with the density that was chosen
                job = replace(job, target=goals[c * len(seeds) + s].target)
            found.append(Found(replace(job, seed=seed, recipe=recipes[c]), small, seconds))
    return found


def resting_fleet(
    models: Sequence[nn.Module],
    data: ImageData,
    *,
    seeds: Sequence[int],
    recipe: Recipe,
    teacher: Teacher | None = None,
) -> Trainer:
    """A trainer whose steps cost what those of `train_fleet` do between decisions, to find out how long they take."""
    device = data.train[0].device
    fleet = Fleet(models, torch.zeros(2, *data.side)).to(device)
    steps = recipe.steps(len(data.train[0]))
    pruner = Pruner(fleet.graph, [_goal(Job(method="dense"), fleet, None)] * len(models), steps=steps)
    return Trainer(fleet, data, recipe, seeds=seeds, pruning=pruner, teacher=teacher, graphs=True)


def _goal(job: Job, fleet: Fleet, latency: LatencyModel | None) -> Goal:
    if job.method == "dense":
        rest = Schedule(penalty=0.0, time=0.0, start=1.0, groups_end=1.0, weights_end=1.0)
        return goal_of("fssl", Sparsity(0.0), fleet.graph, schedule=rest)
    if not METHODS[job.method].prunes or job.target is None:
        raise InputError(f"Method {job.method!r} can't be trained in a fleet.")
    return goal_of(job.method, job.target, fleet.graph, schedule=job.schedule, latency=latency, seed=job.seed)


def widest(jobs: Sequence[Job], data: ImageData) -> int:
    """The widest layer of these jobs, for `latency_model`."""
    return max(data.inputs, *(width for job in jobs for width in job.hidden))
