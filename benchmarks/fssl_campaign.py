"""All FSSL experiments on MNIST, five seeds each, on one GPU: train fleets, compact, test, time, record.

    SPDNN_DATA=… PYTHONPATH=src python benchmarks/fssl_campaign.py --device cuda --output results

writes one JSON file per experiment, a list of flat records each, and prints mean ± sd as it goes. `--tune` instead
trains two seeds of many settings for `--seconds` and writes what the held-out images say of them; the test set isn't
looked at. `--small` is a miniature of everything for a CPU.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from scipy import stats

from spdnn import machine
from spdnn.fssl import FSSL, Latency, LatencyModel, Schedule, Sparsity, latency_model, load_state, save_state
from spdnn.fssl.fleet import Fleet
from spdnn.fssl.latency import grid, measure_shapes, unseen
from spdnn.fssl.pruner import Pruner
from spdnn.fssl.speed import fastest
from spdnn.fssl.training import Augmentation, ImageData, Job, Recipe, Trainer, dense_network, load_images, radix_network
from spdnn.fssl.training.fleets import Found, train_fleet
from spdnn.fssl.training.loop import Teacher
from spdnn.fssl.training.rivals import drawn_anew
from spdnn.fssl.training.runs import record_of, train_teacher
from spdnn.record import write_json

BUDGET = {"97.6": 0.976, "98.85": 0.9885, "9560": 1 - 9560 / 266200}


@dataclass
class Setting:
    """How much of everything. `targets`: (device, batch) that latency is tuned for and measured on."""

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
    groups: float = 0.5
    schedule: Schedule = field(default_factory=lambda: Schedule(regrow=0.1))
    structured: Schedule = field(default_factory=lambda: Schedule(weights_end=0.6))
    shapes: int = 60
    seconds: float = 0.02
    wide_ratio: float = 0.05

    def recipe(self, name: str, **changes: Any) -> Recipe:
        changed = Augmentation().scaled(self.augment)
        options: dict[str, Any] = {
            "epochs": self.epochs[name],
            "batch": self.batch,
            "rate": self.rate,
            "distill": self.distill,
            "temperature": self.temperature,
            "augmentation": replace(changed, fade=self.fade, share=1 if self.device == "cuda" else 4),
        }
        return Recipe(**{**options, **changes})


def l300_jobs(setting: Setting) -> list[Job]:
    """784-300-100-10: FSSL and what it is compared with, at the sparsities others have published."""
    schedule, structured = setting.schedule, setting.structured
    jobs = [Job(method="dense")]
    for key in ("97.6", "98.85"):
        jobs.append(Job(target=Sparsity(BUDGET[key], groups=setting.groups), schedule=schedule))
        jobs.append(Job(method="magnitude", target=Sparsity(BUDGET[key]), schedule=schedule))
    jobs.append(Job(target=Sparsity(BUDGET["9560"], structured=True), schedule=structured))
    jobs.append(Job(method="lasso", target=Sparsity(BUDGET["9560"], structured=True), schedule=structured))
    return jobs


def time_jobs(
    hidden: tuple[int, ...], target: tuple[str, int], ratios: Sequence[float], schedule: Schedule
) -> list[Job]:
    """Curves of accuracy against time: the time term on, off, with multiplications, with a shuffled table."""
    options: dict[str, Any] = {"hidden": hidden, "target_device": target[0], "target_batch": target[1]}
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
"""What `--tune` tries, the most telling first: what differs from the campaign's recipe. `rest`: as long as fits."""


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
        self.teacher: Teacher | None = None

    def say(self, text: str) -> None:
        print(f"[{time.perf_counter() - self.started:6.1f} s] {text}", flush=True)

    def latency(self, device: str, batch: int, widest: int) -> LatencyModel:
        key = (f"{device}-{widest}", batch)
        if key not in self.models:
            shapes = grid(widest, shapes=self.setting.shapes) if self.setting.shapes < 60 else None
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
            found = model.agreement(measure_shapes(unseen(widest), batch=batch, device=device, **rounds))
            again = model.agreement(
                measure_shapes([t.shape for t in model.table], batch=batch, device=device, **rounds)
            )
            records.append({"kind": "latency-model", "device": device, "batch": batch, "widest": widest, **found})
            records[-1] |= {"table_error": again["mean_error"], **dict(model.facts), **machine.hardware()}
            self.say(
                f"latency model {device} {batch}: Spearman {found['spearman']:.3f}, error {found['mean_error']:.1%}"
            )
        self.write("latency-model", records)

    def train_teacher(self, file: Path | None = None) -> None:
        """The ensemble to distil from; kept in a file, if one is given, and taken from it if it is there."""
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
        **options: Any,
    ) -> list[Found]:
        data = data or self.data
        recipe = recipe or self.setting.recipe(name)
        models = []
        for job in jobs:
            timed = isinstance(job.target, Latency)
            widest = max(data.inputs, *job.hidden, 1024)
            models.append(self.latency(job.target_device, job.target_batch, widest) if timed else None)
        hidden = jobs[0].hidden
        norm = jobs[0].norm
        options.setdefault("build", lambda s: dense_network([data.inputs, *hidden, data.classes], seed=s, norm=norm))
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

    def record(
        self,
        name: str,
        found: Sequence[Found],
        dense_weights: int,
        *,
        data: ImageData | None = None,
        timed: Callable[[Found], bool] = lambda f: f.job.seed <= 5,
        targets: Sequence[tuple[str, int]] | None = None,
        labels: Sequence[str] | None = None,
    ) -> list[dict[str, Any]]:
        """Test, time and write down; `latency_ms` is that on the job's own target, `latency_DEVICE_BATCH_ms` all."""
        data = data or self.data
        records = []
        for k, one in enumerate(found):
            record = record_of(one.model, one.job, data, dense_weights=dense_weights, seconds=one.seconds, timed=False)
            record["matmul_precision"] = torch.get_float32_matmul_precision()
            record["experiment"], record["label"] = name, labels[k] if labels else one.job.name(data).rsplit("-", 1)[0]
            records.append(record)
        self.write(name, records)  # before the times are taken, which may be cut off
        self.say(f"{name}: accuracies written")
        for record, one in zip(records, found, strict=True):
            if timed(one):
                for device, batch in targets if targets is not None else self.setting.targets:
                    x = torch.rand(batch, *data.side, device=device)
                    own = device == "cpu" or name == "wide"
                    speed = fastest(one.model, x, rounds=3, seconds=self.setting.seconds, own_engines=own)
                    key = f"{device}_{batch}"
                    record |= {f"latency_{key}_ms": speed.ms, f"latency_{key}_engine": speed.engine}
                    record |= {f"latency_{key}_all_ms": speed.all, f"latency_{key}_skipped": speed.skipped or None}
                    if (device, batch) == (one.job.target_device, one.job.target_batch):
                        record |= {"latency_ms": speed.ms, "latency_engine": speed.engine}
                one.model.to(self.setting.device)
        self.write(name, records)
        self.summary(records)
        return records

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
        jobs = l300_jobs(self.setting)
        cpu = [t for t in self.setting.targets if t[0] == "cpu"]
        found = self.fleet("l300", jobs)
        self.record("l300", found, 266200, targets=cpu)
        seeds = len(self.setting.seeds)
        for job, first in zip(jobs, found[::seeds], strict=True):
            if job.method == "fssl" and isinstance(job.target, Sparsity) and job.target.structured:
                self.scratch("l300-scratch", first)

    def scratch(self, name: str, like: Found) -> None:
        """The small architecture of the first seed, trained from new random weights, one seed after the other."""
        recipe = self.setting.recipe("l300")
        found = []
        for seed in self.setting.seeds:
            model = drawn_anew(_copy(like.model), seed=seed).to(self.setting.device)
            teacher = self.teacher if recipe.distill else None
            trainer = Trainer(model, self.data, recipe, seeds=[seed], teacher=teacher, graphs=True)
            for _ in range(recipe.epochs):
                trainer.epoch()
            job = replace(like.job, method="scratch", target=None, like="fssl", seed=seed)
            found.append(Found(job, model.eval(), 0.0))
        self.record(name, found, 266200, targets=[t for t in self.setting.targets if t[0] == "cpu"])

    def m500(self) -> None:
        jobs = [Job(method="dense", hidden=(500, 300))]
        for removed in (0.97, 0.98):
            jobs.append(Job(hidden=(500, 300), target=self.sparsity(removed), schedule=self.setting.schedule))
        self.record("m500", self.fleet("m500", jobs), 545000, targets=[])

    def radix(self) -> None:
        data = self.data.padded(32)
        jobs = [Job(method="dense", hidden=(), radix=2)]
        for removed in (0.9, 0.95):
            jobs.append(Job(hidden=(), radix=2, target=self.sparsity(removed), schedule=self.setting.schedule))
        build = lambda seed: radix_network(2, seed=seed)  # noqa: E731
        found = self.fleet("radix", jobs, data=data, build=build, keep_zeros=True)
        self.record("radix", found, 2 * 32768 + 10240, data=data, targets=[])

    def times(self) -> None:
        """The time term on and off, and the controls, on 784-300-100-10 at CPU batch 128."""
        ratios = (0.5, 0.35, 0.25, 0.18) if self.setting.epochs["times"] > 2 else (0.6, 0.4)
        jobs = []
        for target in [t for t in self.setting.targets if t == ("cpu", 128)]:
            jobs += time_jobs((300, 100), target, ratios, self.setting.structured)
        labels = [f"{j.method}-{_budget(j)}" for j in jobs for _ in self.setting.seeds]
        self.equal_accuracy(
            "times", self.record("times", self.fleet("times", jobs), 266200, labels=labels, targets=[("cpu", 128)])
        )

    def equal_accuracy(self, name: str, records: list[dict[str, Any]]) -> None:
        """Time of every method against FSSL's at the same accuracy, seed by seed, with a 95% interval of the mean."""
        rows = []
        methods = list(dict.fromkeys(r["method"] for r in records))
        for level in (0.25, 0.5, 0.75):
            scores = [r["held_out_accuracy"] for r in records]
            accuracy_level = min(scores) + level * (max(scores) - min(scores))
            times = {m: [_time_at(records, m, s, accuracy_level) for s in self.setting.seeds] for m in methods}
            for method in methods[1:]:
                pairs = [(a, b) for a, b in zip(times["fssl"], times[method], strict=True) if a and b]
                logs = [math.log(b / a) for a, b in pairs]
                if len(logs) > 1:
                    mean, half = statistics.mean(logs), statistics.stdev(logs) * stats.t.ppf(0.975, len(logs) - 1)
                    half /= len(logs) ** 0.5
                    found = [math.exp(v) for v in (mean, mean - half, mean + half)]
                    rows.append({"kind": "equal-accuracy", "accuracy": accuracy_level, "method": method})
                    rows[-1] |= {"slower_than_fssl": found[0], "low": found[1], "high": found[2], "seeds": len(logs)}
                    self.say(f"{name}: at {accuracy_level:.2f}% {method} takes {found[0]:.3f}x fssl's time "
                             f"[{found[1]:.3f}, {found[2]:.3f}]")  # fmt: skip
        self.write(f"{name}-equal-accuracy", rows)

    def wall(self) -> None:
        """Seconds of a whole FSSL run against those of training the dense network for the same epochs."""
        rows = []
        setting = self.setting
        for hidden in ((300, 100), (setting.wide, setting.wide)):
            seconds = {}
            for kind in ("dense", "fssl"):
                model = dense_network([self.data.inputs, *hidden, self.data.classes], seed=1).to(setting.device)
                recipe = setting.recipe(
                    "wide", epochs=min(3, setting.epochs["wide"]), batch=setting.wide_batch, distill=0.0
                )
                steps = recipe.steps(len(self.data.train[0]))
                pruning = None
                if kind == "fssl":
                    example = torch.zeros(1, *self.data.side, device=setting.device)
                    target = Sparsity(0.976, structured=True)
                    pruning = FSSL(model, example, target=target, steps=steps, schedule=Schedule().fitting(steps))
                trainer = Trainer(model, self.data, recipe, pruning=pruning)
                started = time.perf_counter()
                while trainer.done < trainer.steps:
                    trainer.step()
                float(trainer.loss)
                seconds[kind] = time.perf_counter() - started
            rows.append({"kind": "wall", "hidden": list(hidden), "device": setting.device, **seconds})
            rows[-1] |= {"ratio": seconds["fssl"] / seconds["dense"], "batch": setting.wide_batch, **machine.hardware()}
            self.say(f"wall time {hidden}: FSSL {seconds['fssl']:.1f} s, dense {seconds['dense']:.1f} s")
        self.write("wall", rows)

    def times_gpu(self) -> None:
        """The same for the GPU's target, on 784-1024-1024-10, where time is not in proportion to weights."""
        width = 1024 if self.setting.epochs["times"] > 2 else 64
        target = self.setting.targets[-1]
        schedule = self.setting.structured
        ratios = (0.4, 0.25, 0.15) if self.setting.epochs["times"] > 2 else (0.9,)
        jobs = time_jobs((width, width), target, ratios, schedule)
        labels = [f"{j.method}-{_budget(j)}" for j in jobs for _ in self.setting.seeds]
        recipe = self.setting.recipe("times", batch=self.setting.wide_batch, rate=1e-3)
        recipe = replace(recipe, epochs=self.setting.epochs["wide"])
        dense = 784 * width + width * width + width * 10
        found = self.fleet("times_gpu", jobs, recipe=recipe)
        self.equal_accuracy("times-gpu", self.record("times-gpu", found, dense, labels=labels, targets=[target]))

    def wide(self) -> None:
        """Two wide hidden layers: magnitude pruning and FSSL at equal sparsity, and FSSL tuned for every target."""
        hidden = (self.setting.wide,) * 2
        dense = 784 * hidden[0] + hidden[0] * hidden[1] + hidden[1] * 10
        removed = 0.976
        schedule = Schedule(every=50)
        jobs = [
            Job(method="magnitude", hidden=hidden, target=Sparsity(removed), schedule=schedule),
            Job(hidden=hidden, target=Sparsity(removed, structured=True), schedule=schedule),
        ]
        for device, batch in self.setting.targets:
            target: dict[str, Any] = {"hidden": hidden, "target_device": device, "target_batch": batch}
            jobs.append(Job(target=Latency(self.setting.wide_ratio), schedule=schedule, **target))
        recipe = self.setting.recipe("wide", batch=self.setting.wide_batch, rate=1e-3)
        found = []
        for job in jobs:  # one after the other: five stacked networks of this width fill a GPU
            found += self.fleet("wide", [job], recipe=recipe)
            if self.setting.device == "cuda":
                torch.cuda.empty_cache()
        labels = [f"{f.job.method}-{_budget(f.job)}-{f.job.target_device}{f.job.target_batch}" for f in found]
        self.record("wide", found, dense, labels=labels, timed=lambda f: f.job.seed == self.setting.seeds[0])

    def tune(self, seconds: float) -> None:
        """Held-out accuracy of many settings, a fleet each, as far as the time goes; the test set isn't looked at.

        Processes with the same output folder share the work: each takes the next fleet that none has taken and that it
        expects to finish. One JSON file a fleet, renewed while it trains.
        """
        ends, pace = time.perf_counter() + seconds, 0.0
        for name, changes in FLEETS.items():
            changes = dict(changes)
            norm, rest = changes.pop("norm", False), changes.pop("rest", False)
            recipe = self.setting.recipe("tune")
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


def _copy(model: Any) -> Any:
    import copy

    return copy.deepcopy(model)


def _budget(job: Job) -> str:
    return (
        f"time{job.target.ratio:g}" if isinstance(job.target, Latency) else f"{getattr(job.target, 'removed', 0):.3g}"
    )


def _mean(values: list[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.2f} ± {spread:.2f}"


PARTS = ("latency_check", "l300", "m500", "radix", "times", "times_gpu", "wall", "wide")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, as in l300,wide")
    parser.add_argument("--epochs", type=int, help="of l300, m500, radix and times", default=100)
    parser.add_argument("--wide-epochs", type=int, default=20)
    parser.add_argument("--augment", type=float, default=0.5)
    parser.add_argument("--distill", type=float, default=0.5)
    parser.add_argument("--fade", type=float, default=0.1, help="share of the training at whose end images stay")
    parser.add_argument("--groups", type=float, default=0.5, help="share removed as neurons and inputs")
    parser.add_argument("--penalty", type=float, default=0.02)
    parser.add_argument("--regrow", type=float, default=0.1)
    parser.add_argument("--end", type=float, default=0.7, help="share of the training after which masks are fixed")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--seconds", type=float, default=400, help="how long to tune")
    parser.add_argument("--teacher", type=Path, help="file to keep the teachers in, or to take them from")
    parser.add_argument("--held-out", type=int, help="images to choose settings by")
    parser.add_argument("--small", action="store_true", help="a miniature for a CPU")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    epochs: dict[str, Any] = dict.fromkeys(("l300", "m500", "radix", "times", "tune"), given.epochs)
    epochs |= {"teacher": 60, "wide": given.wide_epochs}
    setting = Setting(given.device, list(range(1, given.seeds + 1)), epochs)
    setting.augment, setting.distill, setting.rate = given.augment, given.distill, given.rate
    setting.fade, setting.groups = given.fade, given.groups
    setting.structured = Schedule(penalty=given.penalty, weights_end=given.end, groups_end=min(0.3, given.end))
    setting.schedule = replace(setting.structured, regrow=given.regrow)
    data = load_images(given.data, held_out=given.held_out)
    if given.device == "cuda":
        setting.targets.append(("cuda", 60000))
    if given.small:
        data = data.first(400)
        setting = Setting(given.device, [1, 2], dict.fromkeys((*epochs, "teacher", "wide"), 2), wide=128, teachers=2)
        setting.batch = setting.wide_batch = 20
        setting.wide_ratio = 0.8
        setting.teacher_hidden, setting.seconds, setting.shapes = (32,), 0.002, 12
        setting.targets = [("cpu", 1), ("cpu", 128)]
    campaign = Campaign(setting, data, given.output)
    if setting.distill:
        campaign.train_teacher(given.teacher)
    if given.tune:
        campaign.setting.seeds = campaign.setting.seeds[:2]
        campaign.tune(given.seconds)
        return
    for part in given.only.split(","):
        if part not in PARTS:
            parser.error(f"expected parts among {', '.join(PARTS)}, got {part!r}")
        getattr(campaign, part)()
    campaign.say("done")


if __name__ == "__main__":
    main()
