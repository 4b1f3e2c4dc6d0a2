"""All FSSL experiments on MNIST, five seeds each, on one GPU: train fleets, compact, test, time, record.

    SPDNN_DATA=… PYTHONPATH=src python benchmarks/fssl_campaign.py --device cuda --output results

writes one JSON file per experiment, a list of flat records each, and the compact networks beside them, and prints mean
± sd as it goes. With `--times-later` nothing is timed: `--time FOLDER` does so for the networks of such a folder, on
this machine's CPU or, with `--time-on cuda`, GPU. `--share 460` does it all with a process for every part of `--only`,
which train at the same time and take as many epochs as fit into so many seconds. `--tune` instead trains two seeds of
many settings for `--seconds` and writes what the held-out images say of them; the test set isn't looked at. `--small`
is a miniature of everything for a CPU.
"""

from __future__ import annotations

import argparse
import functools
import gc
import itertools
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from fssl_compare import PRICED, compared, comparisons, interval
from torch import nn

from spdnn import machine
from spdnn.fssl import (
    FSSL,
    Latency,
    LatencyModel,
    Schedule,
    Sparsity,
    latency_model,
    load_model,
    load_state,
    save_model,
    save_state,
)
from spdnn.fssl.build import describe, graph_module
from spdnn.fssl.fleet import Fleet
from spdnn.fssl.formats import reading_all
from spdnn.fssl.latency import Shape, compiled_model, grid, measure, measure_shapes, unseen
from spdnn.fssl.latency import recorded as recorded_graph
from spdnn.fssl.ops import Select
from spdnn.fssl.pruner import Pruner
from spdnn.fssl.speed import Speed, _add_own, fastest
from spdnn.fssl.trace import ChannelGraph, trace
from spdnn.fssl.training import Augmentation, ImageData, Job, Recipe, Trainer, dense_network, load_images, radix_network
from spdnn.fssl.training.fleets import Found, resting_fleet, train_fleet
from spdnn.fssl.training.loop import Teacher
from spdnn.fssl.training.methods import CONTROLS, PER_SEED, WRONG_TABLES, right_by_chance
from spdnn.fssl.training.runs import record_of, train_teacher
from spdnn.record import write_json

BUDGET = {"97.6": 0.976, "98.85": 0.9885, "9560": 1 - 9560 / 266200}
TIME_RATIOS = (0.25, 0.18, 0.13, 0.1)
REHEARSAL = 5.0
"""Seconds for which a fleet's steps are tried."""
DECISION = 0.015
"""Seconds that one decision for one network is taken to last where processes share a GPU."""
TARGET_RATIOS = {"cpu1": (0.5, 0.35, 0.26), "cpu128": (0.12, 0.06, 0.035)}
"""Of the dense network's time on a target, for networks tuned for it that are timed on all."""
GPU_RATIOS = (0.35, 0.25, 0.18)
SPLIT_REMOVED = (0.9, 0.94, 0.964, 0.978, 0.988, 0.9925)
SPLIT_RATIOS = {"cpu1": (0.135, 0.115, 0.098, 0.085, 0.075), "cpu128": (0.15, 0.11, 0.08, 0.06, 0.044, 0.035),
                "cuda60000": (0.76, 0.66, 0.58, 0.51, 0.45)}  # fmt: skip
"""What networks of `split` that are tuned for nothing remove, and those tuned for a target keep of its dense time."""
SPLIT_CONTROLS: Mapping[str, Sequence[float]] = {
    "cpu1-shuffled": (0.4, 0.25, 0.15, 0.1, 0.07),
    "cpu128-shuffled": (0.4, 0.25, 0.15, 0.1, 0.07),
    "cuda60000-shuffled": (0.58, 0.45, 0.35, 0.27, 0.2),
    "cpu1-swapped": (0.19, 0.155, 0.13, 0.112, 0.1),
}
"""What controls keep, where that differs: of a wrong time, so that as much is another size of network."""
SPLIT_WIDE = {"off": (0.976, 0.988, 0.994), "cpu1": (0.025, 0.0125, 0.0065), "cpu128": (0.018, 0.009, 0.0045),
              "cuda60000": (0.06, 0.04, 0.03)}  # fmt: skip
"""The same for two wide hidden layers."""
SPLIT_TILES = (0.87, 0.92, 0.953, 0.971, 0.984)
"""What they remove in tiles of four outputs, of which the compiled call brings in the inputs once."""
MORE = 0.9
"""The weight of the teacher's answers that is tried beside the usual one."""


@dataclass
class Setting:
    """How much of everything. `targets`: (device, batch) that latency is tuned for and measured on.

    The recipe and the schedules are what held-out images chose (`--tune`): batch norms in training, the learning rate
    at its height for half of it, most weights taken as neurons, the others by a second-order score.
    ends : time.time() by which fleets should have trained; they take fewer epochs where the machine asks for it.
    together : time.time() at which processes that share a GPU find out how fast they are; with it, processes whose
        methods are compared agree on the least epochs any of them can afford. hurry : how much faster than then they
        will be on the whole, as the others end earlier.
    variants : of `m500`, `radix`, `split` and `split_wide`, also other settings, to choose among by held-out images.
    times_later : keep the networks, time none. tables : a folder of latency tables, `DEVICE-BATCH-WIDEST.json` and
        `compiled-BATCH-WIDEST.json`; compiled calls that it lacks are measured and kept there.
    """

    device: str
    seeds: list[int]
    epochs: Mapping[str, int]
    batch: int = 128
    wide: int = 4096
    wide_batch: int = 256
    teacher_hidden: tuple[int, ...] = (1200, 1200)
    teachers: int = 5
    targets: list[tuple[str, int]] = field(default_factory=lambda: [("cpu", 1), ("cpu", 128)])
    augment: float = 0.5
    fade: float = 0.1
    distill: float = 0.5
    temperature: float = 2.0
    rate: float = 2e-3
    hold: float = 0.5
    groups: float = 0.8
    norm: bool = True
    end: float = 0.5
    schedule: Schedule = field(
        default_factory=lambda: Schedule(weights_end=Setting.end, every=400, regrow=0.1, score="fisher")
    )
    structured: Schedule = field(
        default_factory=lambda: Schedule(groups_end=0.21, weights_end=0.35, every=400, penalty=0.2)
    )
    wide_jobs: Sequence[str] = ()
    ratios: Sequence[float] = GPU_RATIOS
    radix_jobs: Sequence[str] = ()
    m500_jobs: Sequence[str] = ()
    split_jobs: Sequence[str] = ()
    variants: bool = False
    hurry: float = 1.0
    ends: float | None = None
    together: float | None = None
    times_later: bool = False
    tables: Path | None = None
    tables_widest: int = 4096
    shapes: int = 60
    seconds: float = 0.02
    wide_ratio: float = 0.03

    def recipe(self, name: str, **changes: Any) -> Recipe:
        changed = Augmentation().scaled(self.augment)
        options: dict[str, Any] = {
            "epochs": self.epochs[name],
            "batch": self.batch,
            "rate": self.rate,
            "hold": self.hold,
            "distill": self.distill,
            "temperature": self.temperature,
            "augmentation": replace(changed, fade=self.fade, share=1 if self.device == "cuda" else 4),
        }
        return Recipe(**{**options, **changes})


def l300_jobs(setting: Setting) -> list[Job]:
    """784-300-100-10: FSSL and magnitude pruning at the sparsities others have published. In fours with neurons and
    inputs chosen by time is what is as accurate as magnitude pruning and fastest for 128 rows."""
    options: dict[str, Any] = {"norm": setting.norm, "schedule": setting.schedule}
    on: dict[str, Any] = {"target_device": "cpu", "target_batch": 128, **options}
    jobs = [Job(method="dense", norm=setting.norm)]
    for key in ("97.6", "98.85"):
        for groups in (setting.groups, 0.95):
            jobs.append(Job(target=Sparsity(BUDGET[key], groups=groups), **options))
        jobs.append(Job(target=Sparsity(BUDGET[key], groups=setting.groups, tile=(2, 1)), **options))
        jobs.append(Job(target=Sparsity(BUDGET[key], groups=0.9, tile=(4, 1), timed=True), **on))
        jobs.append(Job(method="magnitude", target=Sparsity(BUDGET[key]), **options))
    return jobs


def compact_jobs(setting: Setting) -> list[Job]:
    """784-300-100-10: networks that are small and dense inside, and others of as many weights."""
    options: dict[str, Any] = {"norm": setting.norm, "schedule": setting.structured}
    small = Sparsity(BUDGET["9560"], structured=True)
    jobs = [Job(target=small, **options), Job(method="lasso", target=small, **options)]
    for share in (0.3, 0.1):
        lighter = replace(setting.structured, penalty=share * setting.structured.penalty)
        jobs.append(Job(target=small, **{**options, "schedule": lighter}))
    jobs.append(Job(target=Sparsity(0.9, structured=True), **options))
    options["schedule"] = setting.schedule
    jobs.append(Job(target=Sparsity(0.9, groups=0.95), **options))
    jobs += [Job(method="magnitude", target=Sparsity(removed), **options) for removed in (0.9, BUDGET["9560"])]
    return jobs


def split_jobs(setting: Setting, wide: bool = False) -> tuple[list[Job], list[str]]:
    """How dense to be inside chosen by measured time, by none, and by wrong times, for all targets; and without a time,
    in pairs, and by magnitude alone.

    wide : two hidden layers of `setting.wide`, in place of 784-300-100-10.
    Returns the jobs, and the name of the curve of accuracy against time that each is a point of.
    """
    options: dict[str, Any] = {"norm": setting.norm, "schedule": setting.schedule}
    options |= {"hidden": (setting.wide,) * 2} if wide else {}
    points = 6 if setting.epochs["wide" if wide else "split"] > 2 else 1
    removals = (SPLIT_WIDE["off"] if wide else SPLIT_REMOVED)[:points]
    curves: dict[str, list[Job]] = {}
    for name, share in {"off": setting.groups, "off-0.95": 0.95}.items():
        curves[name] = [Job(target=Sparsity(r, groups=share), **options) for r in removals]
    pairs = [Sparsity(r, groups=setting.groups, tile=(2, 1)) for r in removals]
    curves["pairs"] = [Job(target=target, **options) for target in pairs]
    curves["magnitude"] = [Job(method="magnitude", target=Sparsity(r), **options) for r in removals]
    for device, batch in setting.targets:
        name, on = f"{device}{batch}", {"target_device": device, "target_batch": batch, **options}
        tried: dict[str, tuple[str, float | None]] = {name: ("fssl", None)}
        tried |= {f"{name}-{control}": (control, None) for control in CONTROLS}
        if name != "cpu128":  # where dense networks are chosen, also channels priced by weights
            tried[f"{name}-lasso"] = ("lasso", 1.0)
        elif wide and setting.variants:
            tried |= {f"{name}-{density:g}": ("fssl", density) for density in (1.0, 0.3)}
        for curve, (method, density) in tried.items():
            ratios = SPLIT_WIDE[name] if wide else SPLIT_CONTROLS.get(curve, SPLIT_RATIOS[name])
            ratios = (setting.wide_ratio,) if wide and points == 1 else ratios[:points]
            curves[curve] = [Job(method=method, target=Latency(r, density), **on) for r in ratios]
        for kind, method in PRICED.items():
            timed = [Sparsity(r, groups=setting.groups, timed=True) for r in removals]
            curves[f"off-{kind}-{name}"] = [Job(method=method, target=t, **on) for t in timed]
    chosen = [c for c in setting.split_jobs or curves if c in curves]  # not all curves are of both parts
    return [job for c in chosen for job in curves[c]], [c for c in chosen for _ in curves[c]]


def split_variants(setting: Setting) -> tuple[list[Job], list[str]]:
    """Other settings of `split_jobs`, to choose among by held-out images."""
    options: dict[str, Any] = {"norm": setting.norm}
    plan = setting.schedule
    few = slice(0, None, 2) if setting.epochs["split"] > 2 else slice(1)
    curves: dict[str, list[Job]] = {}

    def sparse(name: str, removed: Sequence[float] = SPLIT_REMOVED, schedule: Schedule = plan, **target: Any) -> None:
        target.setdefault("groups", setting.groups)
        curves[name] = [Job(target=Sparsity(r, **target), schedule=schedule, **options) for r in removed[few]]

    def timed(
        name: str, at: str, density: float | None = None, method: str = "fssl", schedule: Schedule = plan
    ) -> None:
        device, batch = next(t for t in setting.targets if f"{t[0]}{t[1]}" == at)
        on = {"target_device": device, "target_batch": batch, "schedule": schedule, **options}
        curves[name] = [Job(method=method, target=Latency(r, density), **on) for r in SPLIT_RATIOS[at][few]]

    for share in (0.65, 0.88):
        sparse(f"off-{share:g}", groups=share)
    for share in (0.7, 0.8, 0.9):
        sparse(f"tiles-{share:g}", SPLIT_TILES, groups=share, tile=(4, 1))
    for density in (0.07, 0.14, 0.2):
        timed(f"cpu128-{density:g}", "cpu128", density)
    timed("cpu128-lasso", "cpu128", method="lasso")
    targets = [f"{device}{batch}" for device, batch in setting.targets]
    sparse("off-penalty0", schedule=replace(plan, penalty=0.0))
    for at in targets:
        timed(f"{at}-penalty0", at, schedule=replace(plan, penalty=0.0))
    for at in targets:
        if at != "cpu128":
            timed(f"{at}-early", at, schedule=replace(plan, **_ends(0.35)))
    return [job for jobs in curves.values() for job in jobs], [name for name, jobs in curves.items() for _ in jobs]


def time_jobs(
    hidden: tuple[int, ...], target: tuple[str, int], ratios: Sequence[float], schedule: Schedule, norm: bool
) -> list[Job]:
    """Curves of accuracy against time: the time term on, off, with multiplications, with a shuffled table."""
    options: dict[str, Any] = {"hidden": hidden, "target_device": target[0], "target_batch": target[1], "norm": norm}
    methods = ("fssl", "lasso", "flops", "shuffled")
    return [Job(method=m, target=Latency(r), schedule=schedule, **options) for r in ratios for m in methods]


FLEETS: dict[str, dict[str, Any]] = {
    "norm": {"norm": True},
    "plain": {},
    "norm-alone": {"norm": True, "distill": 0.0},
    "norm-scale-0.25": {"norm": True, "scale": 0.25},
    "norm-rest": {"norm": True, "rest": True},
    "norm-rate-5e-3": {"norm": True, "rate": 5e-3},
    "norm-distill-0.9": {"norm": True, "distill": 0.9, "temperature": 4.0},
    "norm-hold": {"norm": True, "hold": 0.5},
    "norm-batch-256": {"norm": True, "batch": 256, "rate": 3e-3},
    "norm-scale-0.8": {"norm": True, "scale": 0.8},
    "norm-scale-0.25-alone": {"norm": True, "scale": 0.25, "distill": 0.0},
    "plain-scale-0.25": {"scale": 0.25},
    "norm-batch-64": {"norm": True, "batch": 64},
    "norm-fade-0.4": {"norm": True, "fade": 0.4},
    "norm-rate-1e-3": {"norm": True, "rate": 1e-3},
}
"""What `--tune` tries, the most telling first: what differs from the usual recipe. `rest`: as long as fits."""


def tune_jobs(norm: bool) -> list[tuple[dict[str, Any], Job]]:
    """What is tried with every recipe: goals and schedules."""
    tried: list[dict[str, Any]] = []
    for groups, score in itertools.product((0.5, 0.8, 0.95), ("lamp", "fisher")):
        tried.append({"goal": "98.85", "groups": groups, "score": score})
    tried += [{"goal": "98.85", "weights_end": end} for end in (0.35, 0.7)]
    for penalty, end in itertools.product((0.02, 0.2), (0.35, 0.6)):
        tried.append({"goal": "9560", "penalty": penalty, "weights_end": end})
    tried += [{"goal": "97.6", "groups": groups} for groups in (0.5, 0.8)]
    usual = {"groups": 0.8, "score": "fisher", "weights_end": 0.5, "penalty": 0.02, "regrow": 0.1, "every": 400}
    found = []
    for facts in tried:
        options: dict[str, Any] = usual | facts
        goal, groups = options.pop("goal"), options.pop("groups")
        schedule = Schedule(groups_end=min(0.3, 0.6 * options["weights_end"]), **options)
        target = Sparsity(BUDGET[goal], structured=goal == "9560", groups=groups)
        found.append(({"goal": goal, "groups": groups, **options}, Job(norm=norm, target=target, schedule=schedule)))
    return found


class Campaign:
    def __init__(self, setting: Setting, data: ImageData, output: Path):
        self.setting, self.output = setting, output
        self.data = data.to(setting.device)
        self.started = time.perf_counter()
        self.models: dict[tuple[str, int], LatencyModel] = {}
        self.graphs: dict[tuple[Any, ...], ChannelGraph] = {}
        self.wrong_tables: dict[tuple[Any, ...], dict[str, Any]] = {}
        self.teacher: Teacher | None = None

    def say(self, text: str) -> None:
        print(f"[{time.perf_counter() - self.started:6.1f} s] {text}", flush=True)

    def latency(self, device: str, batch: int, widest: int) -> LatencyModel:
        key = (f"{device}-{widest}", batch)
        given = self.setting.tables and self.setting.tables / f"{device}-{batch}-{widest}.json"
        if key not in self.models and given and given.exists():
            self.models[key] = LatencyModel.load(given)
            self.say(f"latency of {device}, batch {batch}: from {given}")
        if key not in self.models:
            shapes = grid(widest, shapes=self.setting.shapes) if self.setting.shapes < 60 else None
            if device == "cuda":
                shapes = aligned_shapes(widest, self.setting.shapes)
            self.models[key] = latency_model(device, batch=batch, limit=widest, shapes=shapes)
            self.say(f"latency of {device}, batch {batch}, up to {widest} wide: measured")
        return self.models[key]

    def sparsity(self, removed: float) -> Sparsity:
        return Sparsity(removed, groups=self.setting.groups)

    def latency_check(self, *, widest: int = 1024) -> None:
        """How well shapes that weren't in the table are predicted."""
        records = []
        for device, batch in self.setting.targets:
            model = self.latency(device, batch, widest)
            rounds = {"rounds": 2, "seconds": self.setting.seconds}
            # widths of a GPU's networks are rounded up to multiples of 8, all its layers dense
            shapes = aligned_shapes(widest, 30, seed=1, corners=False) if device == "cuda" else unseen(widest)
            found = model.agreement(measure_shapes(shapes, batch=batch, device=device, **rounds))
            again = model.agreement(
                measure_shapes([t.shape for t in model.table], batch=batch, device=device, **rounds)
            )
            records.append({"kind": "latency-model", "device": device, "batch": batch, "widest": widest, **found})
            records[-1] |= {"table_error": again["mean_error"], **judged(model), **dict(model.facts), **_ran_on()}
            self.say(
                f"latency model {device} {batch}: Spearman {found['spearman']:.3f}, error {found['mean_error']:.1%}"
            )
        self.write("latency-model", records)

    def gpu_tables(self) -> None:
        """Tables of the last target, and how well unseen shapes are predicted, while nothing else runs there."""
        device, batch = self.setting.targets[-1]
        records = []
        for widest in dict.fromkeys((max(1024, self.setting.tables_widest), 1024)):
            model = self.latency(device, batch, widest)
            if self.setting.tables:
                model.save(self.setting.tables / f"{device}-{batch}-{widest}.json")
            rounds = {"rounds": 2, "seconds": self.setting.seconds}
            for kind in ("multiples of 8", "any"):
                count, multiple = (15, 1) if kind == "any" else (30, 8)
                shapes = aligned_shapes(widest, count, seed=1, corners=False, multiple=multiple)
                timed = measure_shapes(shapes, batch=batch, device=device, **rounds)
                found = model.agreement(timed)
                records.append({"kind": "latency-model", "device": device, "batch": batch, "widest": widest, **found})
                records[-1] |= {"widths": kind, "shapes": len(shapes), **judged(model)}
                records[-1] |= {**dict(model.facts), **_ran_on()}
                records[-1] |= {"measured": [[t.shape.inputs, t.shape.outputs, t.ms] for t in timed]}
                self.say(f"latency model {device} {batch} up to {widest}, {kind}: Spearman {found['spearman']:.3f}, "
                         f"error {found['mean_error']:.1%}")  # fmt: skip
                self.write("latency-model-gpu", records)

    def gpu_sparse(self) -> None:
        """CSR layers on the last target, up to 1024 wide, added to its tables."""
        device, batch = self.setting.targets[-1]
        rng = np.random.default_rng(0)
        shapes = []
        for k in range(8 if self.setting.shapes < 60 else 24):
            a, b = (8 * round(v / 8) for v in np.exp(rng.uniform(np.log(32), np.log(1024), 2)))
            shapes.append(Shape(a, b, max(1, int(a * b * (0.3, 0.1, 0.03)[k % 3])), "csr"))
        model = self.latency(device, batch, 1024)
        timed = measure_shapes(shapes, batch=batch, device=device, rounds=2, seconds=self.setting.seconds)
        ratios = [t.ms / model.layer(t.shape.inputs, t.shape.outputs) for t in timed]
        self.say(f"{device}, {batch} rows: CSR takes {statistics.median(ratios):.2f} times as long as dense layers, "
                 f"at least {min(ratios):.2f}")  # fmt: skip
        if self.setting.tables:
            for widest in dict.fromkeys((1024, max(1024, self.setting.tables_widest))):
                model = self.latency(device, batch, widest)
                others = [t for t in model.table if t.shape.format != "csr"]
                whole = LatencyModel((*others, *timed), model.facts)
                self.models[f"{device}-{widest}", batch] = whole
                whole.save(self.setting.tables / f"{device}-{batch}-{widest}.json")

    def train_teacher(self, file: Path | None = None, *, wait: bool = False) -> None:
        """The ensemble to distil from; kept in a file, if one is given, and taken from it if it is there.

        wait : until another process has left it there.
        """
        setting = self.setting
        changed = replace(Augmentation().scaled(0.7), fade=0.1, share=1 if setting.device == "cuda" else 4)
        recipe = Recipe(
            epochs=setting.epochs["teacher"],
            batch=256,
            augmentation=changed,
            temperature=setting.temperature,
            rate=1e-3,
        )
        seeds = [1000 + k for k in range(setting.teachers)]
        while file is not None and wait and not file.exists():
            time.sleep(0.5)
        if file is not None and file.exists():
            widths = [self.data.inputs, *setting.teacher_hidden, self.data.classes]
            models = [dense_network(widths, seed=seed, dropout=0.3) for seed in seeds]
            fleet = Fleet(models, torch.zeros(2, *self.data.side)).to(setting.device)
            fleet.load_state_dict(load_state(file))
            self.teacher = Teacher(fleet, recipe.temperature, self.data.side)
        else:
            self.teacher = train_teacher(self.data, setting.teacher_hidden, recipe, seeds=seeds, graphs=True)
            if file is not None:
                save_state(self.teacher.fleet.state_dict(), file)
        images, labels = self.data.held_out
        answers = torch.cat([self.teacher(x[None].float() / 255)[0] for x in images.split(1000)])
        right = float((answers.argmax(-1) == labels).double().mean())
        self.say(f"{setting.teachers} teachers: {100 * right:.2f}% held out")

    def fleet(
        self,
        name: str,
        jobs: Sequence[Job],
        *,
        data: ImageData | None = None,
        recipe: Recipe | None = None,
        models: Sequence[LatencyModel | None] = (),
        **options: Any,
    ) -> list[Found]:
        data = data or self.data
        recipe = recipe or self.setting.recipe(name)
        models = list(models)
        for job in jobs[len(models) :]:
            timed = job.target is not None and job.target.timed
            widest = max(data.inputs, *job.hidden, 1024)
            models.append(self.latency(job.target_device, job.target_batch, widest) if timed else None)
        hidden = jobs[0].hidden
        norm = jobs[0].norm
        options.setdefault("build", lambda s: dense_network([data.inputs, *hidden, data.classes], seed=s, norm=norm))
        recipe = self.affordable(name, recipe, jobs, data, **options)
        began = time.perf_counter()
        shown: list[float] = []

        def note(epoch: int, trainer: Trainer) -> None:
            if epoch * 10 // recipe.epochs > (epoch - 1) * 10 // recipe.epochs:
                shown.append(statistics.mean(trainer.accuracy("held_out")))
                spent = time.perf_counter() - began
                self.say(f"{name}: epoch {epoch} of {recipe.epochs}, {shown[-1]:.2f}% held out, {spent:.0f} s")

        options.setdefault("after_epoch", note)
        found = train_fleet(
            jobs,
            data,
            seeds=self.setting.seeds,
            recipe=recipe,
            latency=models,
            teacher=self.teacher if recipe.distill else None,
            **options,
        )
        self.say(f"{name}: trained {len(found)} networks")
        return found

    def affordable(self, name: str, recipe: Recipe, jobs: Sequence[Job], data: ImageData, **options: Any) -> Recipe:
        """The recipe, with fewer epochs where the time left says so: some steps are tried, decisions are guessed."""
        setting = self.setting
        if setting.ends is None:
            return recipe
        build = options["build"]
        trainer = resting_fleet(
            [build(seed) for _ in jobs for seed in setting.seeds],
            data,
            seeds=setting.seeds,
            recipe=recipe,
            teacher=self.teacher if recipe.distill else None,
        )
        for _ in range(20):
            trainer.step()
        float(trainer.loss.sum())
        if setting.together is not None:
            time.sleep(max(setting.together - time.time(), 0))
        began, steps = time.perf_counter(), 0
        while time.perf_counter() - began < REHEARSAL:
            for _ in range(10):
                trainer.step()
            float(trainer.loss.sum())
            steps += 10
        pace = (time.perf_counter() - began) / steps
        per_epoch = trainer.per_epoch
        decisions = 0.0
        for job in jobs:
            plan = job.schedule.fitting(trainer.steps)
            share = plan.weights_end - plan.start if job.target is not None else 0.0
            decisions += share * trainer.steps / plan.every * len(setting.seeds)
        del trainer
        if setting.device == "cuda":
            gc.collect()
            torch.cuda.empty_cache()
        left = setting.ends - time.time()
        training = setting.hurry * max(0.92 * left - DECISION * decisions, 0.3 * left)
        fits = max(int(training / (pace * per_epoch)), 1)
        self.say(f"{1e3 * pace:.2f} ms a step, {decisions:.0f} decisions, {left:.0f} s left: {fits} epochs fit of "
                 f"{recipe.epochs}")  # fmt: skip
        if setting.together is not None:
            fits = self.agreed(name.split("-")[0], fits, setting.together + REHEARSAL + 4)
        return replace(recipe, epochs=min(recipe.epochs, fits))

    def agreed(self, group: str, epochs: int, until: float) -> int:
        """The least of what the processes of a group say until then."""
        folder = self.output / "agreed"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{group}-{os.getpid()}").write_text(str(epochs))
        time.sleep(max(until - time.time(), 0))
        return min(int(file.read_text()) for file in folder.glob(f"{group}-*"))

    def record(
        self,
        name: str,
        found: Sequence[Found],
        dense_weights: int,
        *,
        data: ImageData | None = None,
        timed: Callable[[Found], bool] = lambda f: True,
        targets: Sequence[tuple[str, int]] | None = None,
        kept: Callable[[Found], bool] = lambda f: True,
        experiment: str = "",
        facts: Sequence[Mapping[str, Any]] = (),
    ) -> list[dict[str, Any]]:
        """Test, time, keep and write down. `latency_ms` is on the job's target, `latency_DEVICE_BATCH_ms` on all."""
        data = data or self.data
        targets = targets if targets is not None else self.setting.targets
        records: list[dict[str, Any]] = []
        for k, one in enumerate(found):
            record = record_of(one.model, one.job, data, dense_weights=dense_weights, seconds=one.seconds, timed=False)
            record["training_device"] = self.setting.device
            record["matmul_precision"] = torch.get_float32_matmul_precision()
            record["experiment"], record["label"] = experiment or name, label_of(one.job)
            record |= facts[k] if facts else {}
            if isinstance(one.job.target, Latency):
                record["density"] = one.job.target.density
            if kept(one):
                record["model"] = f"models/{name}-{k:03d}.safetensors"
                about = {key: record[key] for key in ("experiment", "label", "seed", "commit")}
                save_model(one.model, self.output / str(record["model"]), facts=about)
            records.append(record)
            if (k + 1) % len(self.setting.seeds) == 0:  # as it may be cut off
                self.write(name, records)
        self.write(name, records)
        self.say(f"{name}: accuracies written")
        if not self.setting.times_later:
            for record, one in zip(records, found, strict=True):
                if timed(one):
                    record |= self.speeds(one.model, targets, data.side, record)
                    one.model.to(self.setting.device)
            self.write(name, records)
        self.summary(records)
        return records

    def speeds(
        self, model: Any, targets: Sequence[tuple[str, int]], side: tuple[int, int], facts: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Flat facts of how fast a network is on all targets."""
        record: dict[str, Any] = {}
        for device, batch in targets:
            x = torch.rand(batch, *side, device=device)
            if device == "cuda":
                layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
                scattered = any(2 * int(torch.count_nonzero(m.weight)) < m.weight.numel() for m in layers)
                speed = gpu_speed(model.to(device), x, seconds=0.4 * self.setting.seconds, scattered=scattered)
            else:
                speed = fastest(model, x, rounds=3, seconds=self.setting.seconds)
            key = f"{device}_{batch}"
            record |= {f"latency_{key}_ms": speed.ms, f"latency_{key}_engine": speed.engine}
            record |= {f"latency_{key}_all_ms": speed.all, f"latency_{key}_skipped": speed.skipped or None}
            if (device, batch) == (facts["device"], facts["batch"]):
                record |= {"latency_ms": speed.ms, "latency_engine": speed.engine}
        return record

    def time_saved(self, folder: Path, device: str, only: Sequence[str] = ()) -> None:
        """Time the networks kept in a folder on this machine's CPU or GPU, and write records of their own.

        Experiment by experiment, those with wide layers first; within one seed by seed, so that the methods of a seed
        are close together in time. only : these experiments.
        """
        targets = [t for t in self.setting.targets if t[0] == device]
        trained_on = ("cpu", "cpu_cores", "memory_bytes", "gpu", "gpu_count", "gpu_memory_bytes", "driver", "system")
        given = [row for file in sorted(folder.glob("fssl-*.json")) for row in json.loads(file.read_text("utf-8"))]
        given = [r for r in given if r.get("model") and (folder / r["model"]).exists()]
        names = sorted(
            dict.fromkeys(r["experiment"] for r in given),
            key=lambda name: (name not in ("wide", "split-wide"), not name.startswith("times"), name),
        )
        names = [name for name in names if not only or name in only]
        for name in names:
            rows = [r for r in given if r["experiment"] == name]
            records: list[dict[str, Any]] = []
            for row in sorted(rows, key=lambda r: (r["seed"], r["method"] == "magnitude")):
                side = (32, 32) if row["network"].startswith("radix") else self.data.side
                model = load_model(folder / row["model"])
                record = {**row, **{f"trained_on_{key}": row.get(key) for key in trained_on}}
                record |= {"trained_commit": row["commit"], "trained_versions": row["versions"], **machine.hardware()}
                record |= {"versions": {**machine.versions(), "torch": torch.__version__}}
                record["commit"], record["dirty"] = machine.commit()
                try:
                    record |= self.speeds(model, targets, side, row)
                except (RuntimeError, MemoryError) as error:  # such as too little memory
                    self.say(f"{row['label']}, seed {row['seed']}: {type(error).__name__}: {error}"[:200])
                    continue
                record |= {"threads": torch.get_num_threads()}
                records.append(record)
                self.say(f"{row['label']}, seed {row['seed']}: " + ", ".join(
                    f"{key} {1e3 * record[f'latency_{key}_ms']:.1f} µs ({record[f'latency_{key}_engine']})"
                    for key in (f"{d}_{b}" for d, b in targets)))  # fmt: skip
                self.write(name, records)
            if records:
                self.summary(records)
                for file, rows in comparisons(name, records, targets).items():
                    self.write(file, rows)
                if name == "times-gpu":
                    curves = [{**r, "curve": r["method"] if r["method"] != "fssl" else f"{r['device']}{r['batch']}"}
                              for r in records]  # fmt: skip
                    self.write("times-gpu-equal-accuracy", compared(curves, targets))
                elif name.startswith("times") and all("latency_ms" in r for r in records):
                    self.equal_accuracy(name, records)

    def write(self, name: str, records: list[dict[str, Any]]) -> None:
        write_json(records, self.output / f"fssl-{name}.json")

    def summary(self, records: list[dict[str, Any]]) -> None:
        for label in dict.fromkeys(r["label"] for r in records):
            rows = [r for r in records if r["label"] == label]
            text = [f"{label:58s} test {_mean([r['test_accuracy'] for r in rows])} %"]
            text.append(f"held out {_mean([r['held_out_accuracy'] for r in rows])} %")
            text.append(f"weights {statistics.mean(r['weights'] for r in rows):.0f}")
            text.append(f"removed {min(r['weights_removed'] for r in rows):.4f}")
            text.append(rows[0]["architecture"])
            for key in rows[0]:
                if key.startswith("latency_") and key.endswith("_ms") and not key.endswith("all_ms"):
                    values = [r[key] for r in rows if key in r]
                    text.append(f"{key[8:-3]} {statistics.mean(values) * 1e3:.1f} µs")
            print("  " + "  ".join(text), flush=True)

    def l300(self) -> None:
        cpu = [t for t in self.setting.targets if t[0] == "cpu"]
        jobs = l300_jobs(self.setting)
        self.record("l300", self.fleet("l300", jobs, models=self.engine_models(jobs)), 266200, targets=cpu)

    def compact(self) -> None:
        cpu = [t for t in self.setting.targets if t[0] == "cpu"]
        self.record("compact", self.fleet("compact", compact_jobs(self.setting)), 266200, targets=cpu)

    def plain(self) -> None:
        """Magnitude pruning without batch norms, which make the sizes of weights say less of their worth."""
        removed = (0.9, BUDGET["9560"], BUDGET["97.6"], BUDGET["98.85"])
        jobs = [Job(method="magnitude", target=Sparsity(r), schedule=self.setting.schedule) for r in removed]
        cpu = [t for t in self.setting.targets if t[0] == "cpu"]
        self.record("plain", self.fleet("plain", jobs), 266200, targets=cpu)

    def scratch(self) -> None:
        """The small architectures found by `compact`, trained from new random weights in the same way."""
        setting = self.setting
        records = json.loads((self.output / "fssl-compact.json").read_text(encoding="utf-8"))
        rows = [r for r in records if r["method"] == "fssl" and "structured" in r["label"]]
        (row, *_) = [r for r in rows if r["label"] == rows[0]["label"] and r["seed"] == setting.seeds[0]]
        small = load_model(self.output / row["model"])
        picked = [m.index for m in small.modules() if isinstance(m, Select)]
        widths = [int(w) for w in row["architecture"].split("-")]
        pixels = picked[0] if picked else torch.arange(self.data.inputs)

        def build(seed: int) -> Any:
            model = dense_network([self.data.inputs, *widths[1:]], seed=seed, norm=setting.norm)
            kept = torch.zeros(self.data.inputs).index_fill_(0, pixels, (self.data.inputs / len(pixels)) ** 0.5)
            with torch.no_grad():
                next(model.parameters()).mul_(kept)
            return model

        recipe = setting.recipe("l300", epochs=row["epochs"])
        jobs = [Job(method="dense", hidden=tuple(widths[1:-1]), norm=setting.norm)]
        found = self.fleet("scratch", jobs, recipe=recipe, build=build, keep_zeros=True)
        found = [replace(f, job=replace(f.job, method="scratch", like=row["model"])) for f in found]
        self.record("scratch", found, 266200, targets=[t for t in setting.targets if t[0] == "cpu"])

    def m500(self) -> None:
        options: dict[str, Any] = {"hidden": (500, 300), "norm": self.setting.norm}
        schedule, usual = self.setting.schedule, self.setting.distill
        jobs = {"dense": (Job(method="dense", **options), usual)}
        for method, removed in (("fssl", 0.97), ("fssl", 0.98), ("magnitude", 0.97)):
            job = Job(method=method, target=self.sparsity(removed), schedule=schedule, **options)
            jobs[f"{removed:g}" if method == "fssl" else method] = (job, usual)
        if self.setting.variants:
            jobs["dense-more"] = (jobs["dense"][0], MORE)
            changes = {"more": (0.8, 0.5, MORE), "half": (0.5, 0.5, usual), "half-more": (0.5, 0.5, MORE)}
            for key, (groups, end, distill) in (changes | {"late": (0.8, 0.7, usual)}).items():
                plan = replace(schedule, **_ends(end))
                jobs[key] = (Job(target=Sparsity(0.97, groups=groups), schedule=plan, **options), distill)
        chosen = [jobs[key] for key in self.setting.m500_jobs or jobs]
        found = self.fleet("m500", [job for job, _ in chosen], distill=[share for _, share in chosen])
        self.record("m500", found, 545000, targets=[], kept=self.sample)

    def radix(self) -> None:
        data = self.data.padded(32)
        options: dict[str, Any] = {"hidden": (), "radix": 2, "norm": self.setting.norm}
        schedule, usual = self.setting.schedule, self.setting.distill
        jobs = {"dense": (Job(method="dense", **options), usual)}
        for groups in (0.8, 0.5, 0.25):
            target = Sparsity(0.9, groups=groups)
            jobs[f"{groups:g}"] = (Job(target=target, schedule=schedule, **options), usual)
        if self.setting.variants:
            jobs["dense-more"] = (jobs["dense"][0], MORE)
            changes: dict[str, dict[str, Any]] = {"more": {}, "unpressed": {"penalty": 0.0}, "early": _ends(0.35)}
            for key, changed in (changes | {"regrow": {"regrow": 0.3}}).items():
                job = Job(target=Sparsity(0.9, groups=0.8), schedule=replace(schedule, **changed), **options)
                jobs[key] = (job, MORE)
        chosen = self.setting.radix_jobs or list(jobs)
        build = lambda seed: radix_network(2, seed=seed, norm=self.setting.norm)  # noqa: E731
        recipe = self.setting.recipe("radix")
        if self.setting.epochs["radix"] > 2:  # as good as 128 at the same epochs, in half the steps
            recipe = replace(recipe, batch=256, rate=1.5 * recipe.rate)
        name = "-".join(["radix", *self.setting.radix_jobs])
        fleet = [jobs[key][0] for key in chosen]
        distill = [jobs[key][1] for key in chosen]
        found = self.fleet(name, fleet, data=data, recipe=recipe, build=build, keep_zeros=True, distill=distill)
        dense = 2 * 32768 + 10240
        self.record(name, found, dense, data=data, targets=[], kept=self.sample, experiment="radix")

    def sample(self, one: Found) -> bool:
        """Whether a network that isn't timed is kept: one seed of what isn't large."""
        return one.job.seed == self.setting.seeds[0] and one.job.method == "fssl"

    def times(self) -> None:
        """The time term on and off, and the controls, on 784-300-100-10 at CPU batch 128."""
        ratios = TIME_RATIOS if self.setting.epochs["times"] > 2 else (0.6, 0.4)
        jobs = []
        for target in [t for t in self.setting.targets if t == ("cpu", 128)]:
            jobs += time_jobs((300, 100), target, ratios, self.setting.structured, self.setting.norm)
        records = self.record("times", self.fleet("times", jobs), 266200, targets=[("cpu", 128)])
        if not self.setting.times_later:
            self.equal_accuracy("times", records)

    def split(self) -> None:
        """How dense to be inside chosen by measured time or not, tuned for every target, to be timed on all."""
        jobs, curves = split_jobs(self.setting)
        usual = len(jobs)
        if self.setting.variants and not self.setting.split_jobs:
            more, names = split_variants(self.setting)
            jobs, curves = jobs + more, curves + names
        recipe = self.setting.recipe("split")
        if self.setting.epochs["split"] > 2:  # as good as 128 at the same epochs, in half the steps
            recipe = replace(recipe, batch=256, rate=1.5 * recipe.rate)
        found = self.fleet("split", jobs, models=self.engine_models(jobs), recipe=recipe)
        facts = [
            self.facts_of(job, curve, s) for job, curve in zip(jobs, curves, strict=True) for s in self.setting.seeds
        ]
        first = usual * len(self.setting.seeds)
        self.record("split", found[:first], 266200, facts=facts[:first])
        if len(found) > first:
            facts = [{**f, "label": f"{label_of(one.job)}-{f['curve']}"} for f, one in zip(facts, found, strict=True)]
            self.record("split-variants", found[first:], 266200, facts=facts[first:])

    def split_wide(self) -> None:
        """The same for two wide hidden layers, curve by curve, as few of such networks fill a GPU."""
        jobs, curves = split_jobs(self.setting, wide=True)
        width, recipe, ends = self.setting.wide, self.wide_recipe(), self.setting.ends
        for k, curve in enumerate(names := list(dict.fromkeys(curves))):
            mine = [job for job, name in zip(jobs, curves, strict=True) if name == curve]
            models = self.engine_models(mine)
            if ends is not None:  # the first finds out what all can afford
                self.setting.ends = time.time() + (ends - time.time()) / len(names) if k == 0 else None
            found = self.fleet(f"split_wide-{curve}", mine, models=models, recipe=recipe)
            recipe = found[0].job.recipe
            facts = [self.facts_of(job, curve, s) for job in mine for s in self.setting.seeds]
            dense = self.data.inputs * width + width * width + width * self.data.classes
            self.record(f"split-wide-{curve}", found, dense, facts=facts, experiment="split-wide")
            if self.setting.device == "cuda":
                torch.cuda.empty_cache()
        self.setting.ends = ends

    def facts_of(self, job: Job, curve: str, seed: int) -> dict[str, Any]:
        """The curve of a network and, of the wrong table that it was given, whether it is right by chance, and what it
        foretells of shapes left out of its fit (`LatencyModel.cross_validation`, `tells_more_than_weights`)."""
        if job.method not in WRONG_TABLES or not isinstance(job.target, Sparsity):
            return {"curve": curve}
        key = (job.hidden, job.norm, job.method, job.target_device, job.target_batch, seed)
        if key not in self.wrong_tables:
            if key[:2] not in self.graphs:
                start = dense_network([self.data.inputs, *job.hidden, self.data.classes], norm=job.norm)
                self.graphs[key[:2]] = trace(start, torch.zeros(2, *self.data.side))
            graph, model = self.graphs[key[:2]], self.engine_model(job)
            wrong = WRONG_TABLES[job.method](model, seed)
            facts = {"right_by_chance": right_by_chance(graph, model, wrong)}
            facts |= {"table_tells_more_than_weights": wrong.tells_more_than_weights()}
            self.wrong_tables[key] = {**facts, "table_cross_validation": wrong.cross_validation}
        return {"curve": curve, **self.wrong_tables[key]}

    def engine_models(self, jobs: Sequence[Job]) -> list[LatencyModel | None]:
        """`engine_model` of each job that knows of time."""
        knowing = [job.target is not None and job.target.timed for job in jobs]
        return [self.engine_model(job) if knows else None for job, knows in zip(jobs, knowing, strict=True)]

    def engine_model(self, job: Job) -> LatencyModel:
        """Of the engine that is fastest on a job's target: on the CPU one compiled call, on a GPU PyTorch's layers."""
        widest = max(job.hidden)
        if job.target_device != "cpu":  # where networks are filled up to multiples of 8
            model = self.latency(job.target_device, job.target_batch, max(1024, widest))
            return LatencyModel(model.table, {**model.facts, "multiples": [8, 8]})
        key, batch = (f"compiled-{widest}", job.target_batch), job.target_batch
        given = self.setting.tables and self.setting.tables / f"compiled-{batch}-{widest}.json"
        if key not in self.models:
            known = given and given.exists()
            if given and known:
                self.models[key] = LatencyModel.load(given)
            else:
                chains = 200 if self.setting.shapes == 60 else 40
                shape = {"batch": batch, "limit": widest, "chains": chains}
                self.models[key] = compiled_model(self.data.inputs, **shape, cache=False)
                if given and self.models[key].credible:
                    self.models[key].save(given)
            how = f"from {given}" if known else "measured"
            self.say(f"latency of compiled networks up to {widest} wide, batch {batch}: {how}")
        return self.models[key]

    def compiled_check(self) -> None:
        """How well whole compiled networks that weren't measured are predicted."""
        records = []
        batches = [b for device, b in self.setting.targets if device == "cpu"]
        for hidden, batch in itertools.product(((300, 100), (self.setting.wide,) * 2), batches):
            model = self.engine_model(Job(method="dense", hidden=hidden, target_batch=batch))
            chains = 40 if self.setting.shapes == 60 else 12
            shape = {"batch": batch, "limit": max(hidden), "chains": chains}
            fresh = compiled_model(self.data.inputs, **shape, seed=10**6, cache=False)
            found = model.agreement(fresh.chains)
            records.append({"kind": "latency-model", "device": "cpu", "batch": batch, "widest": max(hidden), **found})
            records[-1] |= {"networks": chains, **dict(model.facts), **_ran_on()}
            records[-1] |= {"table_error": model.agreement(model.chains)["mean_error"], **judged(model)}
            self.say(f"compiled networks up to {max(hidden)} wide, batch {batch}: Spearman {found['spearman']:.3f}, "
                     f"error {found['mean_error']:.1%}")  # fmt: skip
        self.write("latency-model-compiled", records)

    def equal_accuracy(self, name: str, records: list[dict[str, Any]]) -> None:
        """Time of every method against FSSL's at the same accuracy, seed by seed, with a 95% interval of the mean."""
        rows = []
        methods = list(dict.fromkeys(r["method"] for r in records))
        for method in methods[1:]:
            curves = [
                [r["held_out_accuracy"] for r in records if (r["method"], r["seed"]) == (m, s)]
                for m in ("fssl", method)
                for s in self.setting.seeds
            ]
            curves = [curve for curve in curves if curve]
            lowest, highest = max(map(min, curves)), min(map(max, curves))  # what all curves reach
            for level in (0.25, 0.5, 0.75):
                accuracy_level = lowest + level * (highest - lowest)
                times = {m: [_time_at(records, m, s, accuracy_level) for s in self.setting.seeds] for m in methods}
                pairs = [(a, b) for a, b in zip(times["fssl"], times[method], strict=True) if a and b]
                logs = [math.log(b / a) for a, b in pairs]
                if len(logs) > 1:
                    found = [math.exp(v) for v in interval(logs)]
                    rows.append({"kind": "equal-accuracy", "accuracy": accuracy_level, "method": method})
                    rows[-1] |= {"slower_than_fssl": found[0], "low": found[1], "high": found[2], "seeds": len(logs)}
                    self.say(f"{name}: at {accuracy_level:.2f}% {method} takes {found[0]:.3f}x fssl's time "
                             f"[{found[1]:.3f}, {found[2]:.3f}]")  # fmt: skip
        self.write(f"{name}-equal-accuracy", rows)

    def wall(self) -> None:
        """Seconds of a whole FSSL run against those of training the dense network for the same epochs."""
        rows = []
        setting = self.setting
        wide, batches, most = (setting.wide,) * 2, setting.wide_batch, setting.epochs["wide"]
        cases = [(wide, batches, most), ((300, 100), batches, most)]
        if setting.device == "cuda":  # where the work, not launching it, takes the time
            cases.insert(0, (wide, 16 * batches, 5 * most))
        for hidden, batch, epochs in cases:
            seconds: dict[str, list[float]] = {"dense": [], "fssl": []}
            for kind in ("warm-up", "dense", "fssl"):
                model = dense_network([self.data.inputs, *hidden, self.data.classes], seed=1, norm=setting.norm)
                model = model.to(setting.device)
                recipe = setting.recipe("wide", epochs=1 if kind == "warm-up" else epochs, batch=batch, distill=0.0)
                steps = recipe.steps(len(self.data.train[0]))
                started = time.perf_counter()
                pruning = None
                if kind == "fssl":
                    example = torch.zeros(2, *self.data.side, device=setting.device)
                    schedule = replace(setting.structured, shrink=0.25).fitting(steps)  # each time it is recorded anew
                    target = Sparsity(0.976, structured=True)
                    pruning = FSSL(model, example, target=target, steps=steps, schedule=schedule)
                trainer = Trainer(model, self.data, recipe, pruning=pruning, graphs=True)
                while trainer.done < trainer.steps:
                    trainer.step()
                float(trainer.loss.sum())
                if pruning is not None:
                    pruning.compact()
                if kind in seconds:
                    seconds[kind].append(time.perf_counter() - started)
                del model, trainer, pruning
            least = {kind: min(values) for kind, values in seconds.items()}
            rows.append({"kind": "wall", "hidden": list(hidden), "device": setting.device, **least, "all": seconds})
            rows[-1] |= {"ratio": least["fssl"] / least["dense"], "batch": batch, "epochs": epochs}
            rows[-1] |= {"norm": setting.norm, "steps_recorded": setting.device == "cuda", **_ran_on()}
            self.say(f"wall time {hidden}, batch {batch}: FSSL {least['fssl']:.2f} s, dense {least['dense']:.2f} s")
            self.write("wall", rows)

    def times_gpu(self) -> None:
        """The time term on and off, and the controls, for the GPU's target: 784-1024-1024-10."""
        small = self.setting.epochs["times"] <= 2
        target = self.setting.targets[-1]
        schedule = self.setting.structured
        ratios = (0.9,) if small else self.setting.ratios
        width = 64 if small else 1024
        jobs = time_jobs((width, width), target, ratios, schedule, self.setting.norm)
        name = "times-gpu" + "".join(f"-{r:g}" for r in ratios)
        found = self.fleet(name, jobs, recipe=self.wide_recipe())
        dense = 784 * width + width * width + width * 10
        self.record(name, found, dense, targets=[target], experiment="times-gpu")

    def targets(self) -> None:
        """784-1024-1024-10 tuned for each of the CPU's targets; with those of `times_gpu`, to be timed on all."""
        small = self.setting.epochs["times"] <= 2
        width = 64 if small else 1024
        jobs = []
        for device, batch in [t for t in self.setting.targets if t[0] == "cpu"]:
            for ratio in (0.9,) if small else TARGET_RATIOS[f"{device}{batch}"]:
                target: dict[str, Any] = {"target_device": device, "target_batch": batch, "norm": self.setting.norm}
                target |= {"hidden": (width, width), "schedule": self.setting.structured}
                jobs.append(Job(target=Latency(ratio), **target))
        found = self.fleet("times-targets", jobs, recipe=self.wide_recipe())
        self.record("targets", found, 784 * width + width * width + width * 10)

    def wide_recipe(self) -> Recipe:
        return self.setting.recipe("wide", batch=self.setting.wide_batch, rate=1e-3)

    def wide(self) -> None:
        """Two wide hidden layers: magnitude pruning and FSSL at equal sparsity, and FSSL tuned for every target."""
        setting = self.setting
        hidden = (setting.wide,) * 2
        dense = 784 * hidden[0] + hidden[0] * hidden[1] + hidden[1] * 10
        removed = 0.976
        options: dict[str, Any] = {"hidden": hidden, "norm": setting.norm, "schedule": setting.structured}
        jobs = {
            "magnitude": Job(method="magnitude", target=Sparsity(removed), **{**options, "schedule": setting.schedule}),
            "structured": Job(target=Sparsity(removed, structured=True), **options),
            "off": Job(target=Sparsity(removed, groups=setting.groups), **{**options, "schedule": setting.schedule}),
        }
        for device, batch in setting.targets:
            target: dict[str, Any] = {"target_device": device, "target_batch": batch}
            jobs[f"{device}{batch}"] = Job(target=Latency(setting.wide_ratio), **options, **target)
        for name, job in jobs.items():  # one after the other: five stacked networks of this width fill a GPU
            if setting.wide_jobs and name not in setting.wide_jobs:
                continue
            found = self.fleet(f"wide-{name}", [job], recipe=self.wide_recipe())
            timed = lambda f: f.job.seed == setting.seeds[0]  # noqa: E731
            self.record(f"wide-{name}", found, dense, timed=timed, experiment="wide")
            if setting.device == "cuda":
                torch.cuda.empty_cache()

    def tune(self, seconds: float) -> None:
        """Held-out accuracy of many settings, a fleet each, as far as the time goes; the test set isn't looked at.

        Processes with the same output folder share the work: each takes the next fleet that none has taken and that it
        expects to finish. One JSON file a fleet, renewed while it trains.
        """
        ends, pace = time.perf_counter() + seconds, 0.0
        for name, changes in FLEETS.items():
            changes = dict(changes)
            norm, rest = changes.pop("norm", False), changes.pop("rest", False)
            recipe = self.setting.recipe("tune", hold=0.0)
            assert recipe.augmentation is not None
            augmentation = replace(recipe.augmentation, fade=changes.pop("fade", recipe.augmentation.fade))
            if "scale" in changes:
                scaled = Augmentation().scaled(changes.pop("scale"))
                augmentation = replace(scaled, fade=augmentation.fade, share=augmentation.share)
            recipe = replace(recipe, augmentation=augmentation, **changes)
            left, per_epoch = ends - time.perf_counter(), recipe.steps(len(self.data.train[0])) / recipe.epochs
            if rest and pace:
                recipe = replace(recipe, epochs=max(int(0.95 * left / pace / per_epoch), 1))
            if pace * per_epoch * recipe.epochs > left or not _claimed(self.output / f"tune-{name}.claimed"):
                continue
            began = time.perf_counter()
            try:
                self.tune_fleet(name, norm, recipe, ends)
            except TimeoutError:
                self.say(f"{name}: out of time")
                return
            pace = (time.perf_counter() - began) / (per_epoch * recipe.epochs)
            self.say(f"{name}: {recipe.epochs} epochs, {1e3 * pace:.2f} ms a step")

    def tune_fleet(self, name: str, norm: bool, recipe: Recipe, ends: float) -> None:
        """Train all settings with one recipe. Raises TimeoutError when the time is over."""
        settings = tune_jobs(norm)
        if self.teacher is not None:
            self.teacher.temperature = recipe.temperature
        labels = [{**facts, "seed": seed} for facts, _ in settings for seed in self.setting.seeds]
        shared = {"fleet": name, "recipe": asdict(recipe), "rows": len(self.data.train[0])}
        history: list[list[float]] = []

        def note(epoch: int, trainer: Trainer) -> None:
            if epoch % max(recipe.epochs // 10, 1) and time.perf_counter() < ends:
                return
            history.append([float(epoch), *trainer.accuracy("held_out")])
            rows = [{**x, "epoch": epoch, "history": [h[1 + k] for h in history]} for k, x in enumerate(labels)]
            rows = [{**row, "held_out_accuracy": row["history"][-1]} for row in rows]
            file = {**shared, "finished": epoch == recipe.epochs, "epochs": [h[0] for h in history], "networks": rows}
            if epoch == recipe.epochs:
                assert isinstance(trainer.pruning, Pruner)
                assert isinstance(trainer.model, Fleet)
                for k, row in enumerate(rows):
                    layers = trainer.model.graph.layers.values()
                    counts = trainer.pruning.counts(k)
                    first = next(iter(layers)).reads
                    widths = [counts[first], *(counts[layer.writes] for layer in layers)]
                    row |= {"weights": trainer.pruning.weights(k), "architecture": "-".join(map(str, widths))}
            write_json([file], self.output / f"tune-{name}.json")
            if epoch < recipe.epochs and time.perf_counter() > ends:
                raise TimeoutError

        self.fleet("tune", [job for _, job in settings], recipe=recipe, after_epoch=note)
        count = len(self.setting.seeds)
        last = history[-1][1:]
        scores = [statistics.mean(last[k * count : (k + 1) * count]) for k in range(len(settings))]
        for score, k in sorted(((v, k) for k, v in enumerate(scores)), reverse=True):
            facts = " ".join(f"{key} {value}" for key, value in settings[k][0].items())
            print(f"  {score:.3f}  {name}  {facts}", flush=True)


def aligned_shapes(limit: int, shapes: int, *, seed: int = 0, corners: bool = True, multiple: int = 8) -> list[Shape]:
    """Dense layers of random widths, log-uniform up to `limit`, as a GPU likes them: multiples of 8.

    corners : also the widest, layers with ten outputs, and selections among 784 inputs.
    """
    rng = np.random.default_rng(seed)
    pairs = [tuple(np.exp(rng.uniform(np.log(8), np.log(limit), 2))) for _ in range(shapes)]
    widths = [tuple(min(max(round(v / multiple), 1) * multiple, limit) for v in pair) for pair in pairs]
    if corners:
        widths += [(784, limit), (limit, limit), (784, limit // 4), (limit // 4, limit // 4)]
        widths += [(w, 10) for w in (16, 64, 256, limit)]
    found = [Shape(a, b, a * b) for a, b in dict.fromkeys(widths)]
    if corners:
        found += [Shape(784, k, k, "select") for k in (8, 32, 104, 200, 304, 400, 600, 720)]
    return found


def gpu_speed(model: Any, x: torch.Tensor, *, seconds: float, scattered: bool) -> Speed:
    """How fast a network is on a GPU, with CUDA graphs wherever they can be recorded.

    As it is, reading the whole input rather than picking from it, and both with widths filled up to multiples of 8;
    with scattered zeros also in CSR (cuSPARSE through torch) and with spdnn's own engines.
    """
    model.eval()
    candidates: dict[str, Callable[[], float]] = {}
    skipped: dict[str, str] = {}
    forms: dict[str, Callable[[], Any]] = {"": lambda: model, "-whole": lambda: reading_all(model, x[0].numel())}
    forms["-aligned"] = lambda: aligned(model, 8)
    forms["-whole-aligned"] = lambda: aligned(reading_all(model, x[0].numel()), 8)
    if scattered:
        forms["-csr"] = lambda: Transposed(model)
    with torch.inference_mode():
        wanted = model(x)
        for suffix, make in forms.items():
            try:
                made = make()
                if made is None:
                    continue
                if not torch.allclose(made(x), wanted, rtol=1e-2, atol=1e-2 * float(wanted.abs().max())):
                    skipped[f"torch{suffix}"] = "another answer"
                    continue
                recorded = x.device.type == "cuda" and suffix != "-csr"
                if not (recorded and suffix):
                    candidates[f"torch{suffix}"] = functools.partial(measure, made, x, seconds=seconds)
                if recorded:
                    replay = recorded_graph(made, x)
                    run = functools.partial(measure, lambda _, replay=replay: replay(), x, seconds=seconds)
                    candidates[f"torch-graph{suffix}"] = run
            except Exception as error:  # an engine that can't is passed over, and named
                skipped[f"torch{suffix}"] = f"{type(error).__name__}: {error}"[:200]
        if scattered:
            _add_own(candidates, skipped, model, x, seconds, ("cuda",))  # cuSPARSE took 500 times the best's time
        times: dict[str, list[float]] = {name: [] for name in candidates}
        for k in range(3):
            least = min((min(t) for t in times.values() if t), default=math.inf)
            for name, run in candidates.items():  # hopeless ones once only
                if k == 0 or times[name][0] < 1.2 * least:
                    times[name].append(run())
    found = {name: statistics.median(values) for name, values in times.items()}
    best = min(found, key=found.__getitem__)
    return Speed(found[best], best, found, {}, skipped)


def aligned(model: Any, multiple: int) -> Any:
    """A compact chain with its inputs and hidden widths filled up to multiples, with weights of 0; None where it isn't
    a chain or they are multiples already."""
    if model is None:
        return None
    description = describe(model)
    modules = {s["module"]: model.get_submodule(s["module"]) for s in description if s["op"] == "module"}
    linears = [s["module"] for s in description if s.get("type") == "Linear"]
    if not any(modules[name].in_features % multiple for name in linears):
        return None
    width = 0
    for name, module in list(modules.items()):
        if isinstance(module, Select):
            missing = -module.index.numel() % multiple
            modules[name] = Select(torch.cat([module.index, module.index[:1].expand(missing)]))
            width = module.index.numel() + missing
        elif isinstance(module, nn.Linear):
            inputs = width or module.in_features
            outputs = module.out_features + (-module.out_features % multiple if name != linears[-1] else 0)
            wider = nn.Linear(inputs, outputs, device=module.weight.device)
            wider.weight.zero_()[: module.out_features, : module.in_features] = module.weight
            wider.bias.zero_()[: module.out_features] = module.bias
            modules[name], width = wider, outputs
        elif not isinstance(module, (nn.ReLU, nn.Flatten)):
            return None
    return graph_module(description, modules).eval()


class Transposed(nn.Module):
    """A compact chain that keeps activations as (features, rows), its sparse layers as CSR."""

    def __init__(self, model: Any):
        super().__init__()
        modules = [model.get_submodule(s["module"]) for s in describe(model) if s["op"] == "module"]
        self.index = next((m.index for m in modules if isinstance(m, Select)), None)
        self.layers = []
        for layer in [m for m in modules if isinstance(m, nn.Linear)]:
            weight = layer.weight.detach()
            sparse = int(torch.count_nonzero(weight)) < 0.3 * weight.numel()
            self.layers.append((weight.to_sparse_csr() if sparse else weight, layer.bias.detach()[:, None]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.flatten(1).T
        y = y.contiguous() if self.index is None else y.index_select(0, self.index)
        for k, (weight, bias) in enumerate(self.layers):
            y = (weight @ y).add_(bias)
            if k + 1 < len(self.layers):
                y = y.relu_()
        return y.T


def _ran_on() -> dict[str, Any]:
    """What a record that is no network's says of where it came from."""
    commit, dirty = machine.commit()
    versions = {**machine.versions(), "torch": torch.__version__}
    return {**machine.hardware(), "versions": versions, "commit": commit, "dirty": dirty}


def judged(model: LatencyModel) -> dict[str, Any]:
    """What a latency table foretells of what is left out of its fit, and the most that 100 tables do whose times are
    dealt out at random."""
    if model.cross_validation is None:
        return {}
    random = [model.shuffled(seed).cross_validation for seed in range(100)]
    return {"cross_validation": model.cross_validation, "shuffled_cross_validation": max(v for v in random if v)}


def _ends(weights: float) -> dict[str, float]:
    return {"weights_end": weights, "groups_end": min(0.3, 0.6 * weights)}


def _claimed(file: Path) -> bool:
    """Whether this process is the first to ask."""
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        file.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _time_at(records: list[dict[str, Any]], method: str, seed: int, accuracy_level: float) -> float | None:
    """Milliseconds at which a method's curve of one seed reaches an accuracy, between its points; None outside."""
    points = sorted(
        (r["held_out_accuracy"], math.log(r["latency_ms"]))
        for r in records
        if (r["method"], r["seed"]) == (method, seed)
    )
    for (a, x), (b, y) in itertools.pairwise(points):
        if a <= accuracy_level <= b:
            return math.exp(x if a == b else x + (y - x) * (accuracy_level - a) / (b - a))
    return None


def label_of(job: Job) -> str:
    """What tells the jobs of a campaign apart, but for the seed."""
    widths = f"radix{job.radix}" if job.radix else "-".join(map(str, job.hidden))
    parts = [job.method, widths]
    if isinstance(job.target, Latency):
        parts.append(f"time{job.target.ratio:g}-{job.target_device}{job.target_batch}")
        parts += [f"{job.target.density:g}"] * (job.target.density not in (None, 1.0) and job.method == "fssl")
        parts += ["tile" + "x".join(map(str, job.target.tile))] * (job.target.tile != (1, 1) and job.method == "fssl")
    elif job.target is not None:
        parts.append(f"{job.target.removed:.4g}")
        if job.target.structured or job.method == "lasso":
            parts.append(f"structured-penalty{job.schedule.penalty:g}")
        elif job.method == "fssl":
            parts.append(f"groups{job.target.groups:g}")
            parts += [f"timed-{job.target_device}{job.target_batch}"] * job.target.timed
            parts += ["tile" + "x".join(map(str, job.target.tile))] * (job.target.tile != (1, 1))
            usual = Setting("cpu", [], {}).schedule
            for key, name in (("weights_end", "end"), ("penalty", "penalty"), ("regrow", "regrow")):
                value = getattr(job.schedule, key)
                parts += [f"{name}{value:g}"] * (value != getattr(usual, key))
        elif job.method in PER_SEED:
            parts.append(f"groups{job.target.groups:g}-{job.target_device}{job.target_batch}")
    parts += [f"distill{job.recipe.distill:g}"] * (job.recipe.distill not in (0, Setting.distill))
    return "-".join([*parts, *["plain"] * (not job.norm)])


def _mean(values: list[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.2f} ± {spread:.2f}"


PARTS = ("latency_check", "gpu_tables", "gpu_sparse", "l300", "compact", "plain", "scratch", "m500", "radix", "times",
         "times_gpu", "targets", "compiled_check", "split", "split_wide", "wall", "wide")  # fmt: skip
NO_TEACHER = {"compiled_check", "latency_check", "gpu_tables", "gpu_sparse", "wall"}


ALONE = ("latency_check", "compiled_check", "gpu_tables", "gpu_sparse", "wall")
"""Parts that measure, for which nothing else may run."""
WIDE = ("magnitude", "structured", "off", "cpu1", "cpu128", "cuda60000")
TIMED = {"split": "split", "split_wide": "split-wide", "wide": "wide", "times_gpu": "times-gpu", "targets": "targets"}
"""Experiments of parts whose networks are timed on the GPU."""


def side_by_side(parts: Sequence[str], output: Path, seconds: float, quiet: float, given: Sequence[str]) -> None:
    """Every part in a process of its own, those that train at the same time, within so many seconds in all.

    What measures runs first, one after the other; then teachers; then all training; then, for `quiet` seconds, the
    networks that count are timed. A small network's steps leave most of a GPU idle. Logs are in `output`/logs.
    """
    started = time.time()
    left = lambda: seconds - (time.time() - started)  # noqa: E731
    (output / "logs").mkdir(parents=True, exist_ok=True)
    tables = output / "tables"
    tables.mkdir(exist_ok=True)
    common = [sys.executable, __file__, *given, "--teacher", str(output / "teacher")]
    common += [] if "--tables" in given else ["--tables", str(tables)]

    def start(name: str, *more: str, folder: Path = output) -> subprocess.Popen[bytes]:
        print(f"[{time.time() - started:6.1f} s] {name}", flush=True)
        with open(output / "logs" / f"{name}.log", "wb") as log:
            command = [*common, "--output", str(folder), *more]
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def finish(name: str, process: subprocess.Popen[bytes], within: float) -> None:
        try:
            process.wait(max(within, 0.1))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
        print(f"[{time.time() - started:6.1f} s] {name}: status {process.returncode}", flush=True)

    for part in [p for p in parts if p in ALONE]:
        finish(part, start(part, "--only", part), left())
    trained = [p for p in parts if p not in ALONE]
    if not trained:
        return
    finish("teacher", start("teacher", "--only", ""), left())
    timed = [TIMED[p] for p in trained if p in TIMED]
    within = left() - (quiet if timed else 0) - 15
    options = ["--wait", "--times-later", "--within", f"{within:.0f}", "--together", f"{min(25, seconds / 18):.0f}"]
    running = []
    for part in trained:
        for job in WIDE if part == "wide" and "--wide-jobs" not in given else ("",):
            more = ["--wide-jobs", job] if job else []
            name = f"{part}-{job}".rstrip("-")
            running.append((name, start(name, *options, *more, "--only", part)))
    for name, process in running:
        finish(name, process, left() - (quiet if timed else 0))
    if timed:
        device = next((given[k + 1] for k, word in enumerate(given) if word == "--device"), "cuda")
        measured = ["--time", str(output), "--time-on", device, "--only", ",".join(timed)]
        finish("times", start("times", *measured, folder=output / device), left())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, as in l300,wide")
    parser.add_argument("--epochs", type=int, help="of l300, m500, radix and times", default=100)
    parser.add_argument("--wide-epochs", type=int, default=20)
    parser.add_argument("--augment", type=float, default=0.5)
    parser.add_argument("--distill", type=float, default=0.5)
    parser.add_argument("--fade", type=float, default=0.1, help="share of the training at whose end images stay")
    parser.add_argument("--groups", type=float, default=0.8, help="share removed as neurons and inputs")
    parser.add_argument("--penalty", type=float, default=0.02)
    parser.add_argument("--structured-penalty", type=float, default=0.2, help="where only whole neurons are removed")
    parser.add_argument("--regrow", type=float, default=0.1)
    parser.add_argument("--every", type=int, default=400, help="steps between decisions")
    parser.add_argument("--variants", action="store_true", help="also other settings of m500, radix, split, split_wide")
    parser.add_argument("--end", type=float, default=0.5, help="share of the training after which masks are fixed")
    parser.add_argument("--structured-end", type=float, default=0.35)
    parser.add_argument("--hold", type=float, default=0.5, help="share of the training before the learning rate falls")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--within", type=float, help="seconds from now: take fewer epochs where they don't fit")
    parser.add_argument("--together", type=float, help="seconds from now at which processes sharing a GPU start")
    parser.add_argument("--times-later", action="store_true", help="keep the networks and time none")
    parser.add_argument("--time", type=Path, help="a folder whose networks to time on this machine")
    parser.add_argument("--time-on", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--wide-jobs", default="", help="which of wide, as in magnitude,structured,cuda60000")
    parser.add_argument("--ratios", default=",".join(map(str, GPU_RATIOS)), help="of the dense time, for times_gpu")
    parser.add_argument("--radix-jobs", default="", help="which of radix, as in dense,0.5: shares removed as neurons")
    parser.add_argument("--m500-jobs", default="", help="which of m500, as in dense,0.97,half: see there")
    parser.add_argument("--split-jobs", default="", help="which curves of split and split_wide, as in off,cpu128")
    parser.add_argument("--hurry", type=float, default=1.0, help="times as many epochs as seem to fit in --within")
    parser.add_argument("--after", type=Path, help="file to wait for before anything is done")
    parser.add_argument("--tables", type=Path, help="latency tables, DEVICE-BATCH-WIDEST.json and compiled-…")
    parser.add_argument("--tables-widest", type=int, default=4096, help="the widest layers of gpu_tables")
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--seconds", type=float, default=400, help="how long to tune")
    parser.add_argument("--teacher", type=Path, help="file to keep the teachers in, or to take them from")
    parser.add_argument("--share", type=float, help="seconds: parts as processes that share the GPU, see side_by_side")
    parser.add_argument("--quiet", type=float, default=110, help="of these, for timing networks on the GPU alone")
    parser.add_argument("--wait", action="store_true", help="until another process has left the teachers there")
    parser.add_argument("--held-out", type=int, help="images to choose settings by")
    parser.add_argument("--small", action="store_true", help="a miniature for a CPU")
    given = parser.parse_args()
    if given.share:
        mine = {"--share", "--quiet", "--only", "--output"}
        words = sys.argv[1:]
        others = [w for k, w in enumerate(words) if w not in mine and (k == 0 or words[k - 1] not in mine)]
        parts = [part for part in given.only.split(",") if part]
        side_by_side(parts, given.output, given.share, given.quiet, others)
        return
    began = psutil.Process().create_time()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    epochs: dict[str, Any] = dict.fromkeys(
        ("l300", "compact", "plain", "m500", "radix", "times", "split", "tune"), given.epochs
    )
    epochs |= {"teacher": 60, "wide": given.wide_epochs}
    setting = Setting(given.device, list(range(given.first_seed, given.first_seed + given.seeds)), epochs)
    setting.augment, setting.distill, setting.rate = given.augment, given.distill, given.rate
    setting.fade, setting.groups, setting.hold = given.fade, given.groups, given.hold
    often: dict[str, Any] = {"every": given.every}
    changes = {"penalty": given.penalty, "regrow": given.regrow} | often | _ends(given.end)
    setting.schedule = replace(setting.schedule, **changes)
    changes = {"penalty": given.structured_penalty} | often | _ends(given.structured_end)
    structured = replace(setting.structured, **changes)
    setting.structured = structured
    setting.wide_jobs = tuple(filter(None, given.wide_jobs.split(",")))
    setting.ratios = [float(v) for v in given.ratios.split(",")]
    setting.radix_jobs = tuple(filter(None, given.radix_jobs.split(",")))
    setting.hurry = given.hurry
    data = load_images(given.data, held_out=given.held_out)
    while given.after and not given.after.exists():
        time.sleep(0.1)
    if given.device == "cuda":
        setting.targets.append(("cuda", 60000))
    if given.small:
        data = data.first(400)
        setting = Setting(given.device, [1, 2], dict.fromkeys((*epochs, "teacher", "wide"), 2), wide=256, teachers=2)
        setting.batch = setting.wide_batch = 20
        setting.wide_ratio = 0.8
        setting.teacher_hidden, setting.seconds, setting.shapes = (32,), 0.002, 12
        setting.targets = [("cpu", 1), ("cpu", 128)]
        setting.wide_jobs = tuple(filter(None, given.wide_jobs.split(",")))
        setting.radix_jobs = tuple(filter(None, given.radix_jobs.split(",")))
    setting.ends = given.within and began + given.within
    setting.together = given.together and began + given.together
    setting.variants = given.variants
    setting.m500_jobs = tuple(filter(None, given.m500_jobs.split(",")))
    setting.split_jobs = tuple(filter(None, given.split_jobs.split(",")))
    setting.tables_widest = 128 if given.small else given.tables_widest
    setting.times_later, setting.tables = given.times_later, given.tables
    campaign = Campaign(setting, data, given.output)
    if given.time:
        campaign.time_saved(given.time, given.time_on, [] if given.only == ",".join(PARTS) else given.only.split(","))
        return
    if setting.distill and not (given.only and set(given.only.split(",")) <= NO_TEACHER):
        campaign.train_teacher(given.teacher, wait=given.wait)
    if given.tune:
        campaign.setting.seeds = campaign.setting.seeds[:2]
        campaign.tune(given.seconds)
        return
    for part in filter(None, given.only.split(",")):
        if part not in PARTS:
            parser.error(f"expected parts among {', '.join(PARTS)}, got {part!r}")
        getattr(campaign, part)()
    campaign.say("done")


if __name__ == "__main__":
    main()
