"""One training from start to record: a method, a data set, a seed; stops and goes on where it was."""

from __future__ import annotations

import contextlib
import datetime
import functools
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from ...errors import InputError, unknown_name
from ..budget import Latency, Sparsity, Target
from ..fleet import Fleet
from ..fssl import FSSL, facts_of
from ..latency import LatencyModel, compiled_model, latency_model
from ..norms import fold_norms
from ..saving import load_model, load_state, save_model, save_state
from ..schedule import Schedule
from ..speed import fastest
from ..trace import trace
from . import rivals
from .data import ImageData
from .loop import Recipe, Teacher, Trainer, accuracy
from .methods import METHODS, goal_of
from .networks import dense_network, radix_network

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Job:
    """What is trained and how.

    hidden : widths of the hidden layers; empty for the RadiX-Net start of `radix` layers (32 × 32 images).
    target : what the method is to reach; None for methods that don't prune.
    norm : with batch norms in training, which are part of the layers before them afterwards.
    target_device, target_batch : where and for how many rows latency counts.
    teachers : dense networks, `teacher_hidden` wide (by default as wide as the network), that are trained first to
        distil from. like : for "scratch", the file of the compact network whose architecture is trained anew.
    """

    method: str = "fssl"
    hidden: tuple[int, ...] = (300, 100)
    radix: int = 0
    target: Target | None = None
    recipe: Recipe = field(default_factory=Recipe)
    schedule: Schedule = field(default_factory=Schedule)
    seed: int = 0
    device: str = "cpu"
    target_device: str = "cpu"
    target_batch: int = 1
    teachers: int = 0
    teacher_hidden: tuple[int, ...] = ()
    teacher_epochs: int = 0
    round_to: int = 1
    norm: bool = False
    like: str | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise unknown_name("method", self.method, METHODS)
        if self.target is None and (METHODS[self.method].prunes or self.method == "torch-pruning"):
            raise InputError(f"Method {self.method!r} needs a target: a sparsity or a latency.")
        if self.method == "torch-pruning" and not isinstance(self.target, Sparsity):
            raise InputError("Torch-Pruning has no notion of time; give a sparsity.")
        if self.method == "scratch" and not self.like:
            raise InputError("Method 'scratch' needs the file of a compact network to train anew.")

    def network(self, data: ImageData) -> nn.Sequential:
        if self.radix:
            return radix_network(self.radix, classes=data.classes, seed=self.seed, norm=self.norm)
        return dense_network([data.inputs, *self.hidden, data.classes], seed=self.seed, norm=self.norm)

    def name(self, data: ImageData) -> str:
        """Of its files."""
        net = f"radix{self.radix}" if self.radix else "-".join(map(str, [data.inputs, *self.hidden, data.classes]))
        parts = [data.name, net, self.method]
        target = self.target
        if isinstance(target, Sparsity):
            parts += [f"{target.removed:g}"] + ["structured"] * target.structured
            parts += [f"groups{target.groups:g}"] * (target.groups != Sparsity.groups)
            parts += [f"timed-{self.target_device}{self.target_batch}"] * target.timed
        elif isinstance(target, Latency):
            parts += [f"time{target.ratio:g}", f"{self.target_device}{self.target_batch}"]
            inside = "auto" if target.density is None else f"{target.density:g}"
            parts += [f"density{inside}"] * (target.density != Latency.density)
        if target is not None and target.tile != (1, 1):
            parts.append("tile" + "x".join(map(str, target.tile)))
        return "-".join([*parts, f"seed{self.seed}"])


@dataclass(frozen=True, eq=False)
class Outcome:
    """The compact network and what is known about it: `record`, flat; `history`, one dict an epoch."""

    model: fx.GraphModule
    record: dict[str, Any]
    history: list[dict[str, Any]]


def train(
    job: Job,
    data: ImageData,
    folder: Path,
    *,
    resume: bool = True,
    latency: LatencyModel | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Train, prune, compact, test and time.

    folder : gets `model.safetensors` (the compact network) and, while training, `state.safetensors`, written after
        every epoch and when interrupted; with `resume`, a later call with the same job goes on from there exactly.
    latency : the model of the target device; measured (and cached) by default where the target needs it.
    """
    folder = Path(folder)
    started = time.perf_counter()
    data = (data.padded(32) if job.radix else data).to(job.device)
    state_file = folder / "state.safetensors"
    state: dict[str, Any] | None = None
    if resume and state_file.exists():
        loaded: dict[str, Any] = load_state(state_file)
        state = loaded
        if loaded["job"] != describe(job):
            raise InputError(f"{state_file} is of another training. Use another folder, or start over (resume=False).")
    session = _Session(job, data, latency, folder, progress)
    history: list[dict[str, Any]] = []
    spent = 0.0
    if state is not None:
        session.trainer.load_state_dict(state["trainer"])
        history, spent = state["history"], state["seconds"]

    def keep() -> None:
        seconds = spent + time.perf_counter() - started
        content = {"job": describe(job), "trainer": session.trainer.state_dict(), "history": history}
        save_state({**content, "seconds": seconds}, state_file)

    trainer = session.trainer
    with _between_steps() as stop:
        while trainer.done < trainer.steps:
            session.step()
            if trainer.done % trainer.per_epoch == 0:
                history.append(session.epoch_facts())
                if session.restartable:
                    keep()
            if progress:
                progress(f"{job.method}, seed {job.seed}", trainer.done, trainer.steps)
            if stop():
                if session.restartable:
                    keep()
                raise KeyboardInterrupt
    training_seconds = spent + time.perf_counter() - started
    small = session.compact()
    record = session.record(small, training_seconds)
    save_model(small, folder / "model.safetensors", facts=record)
    with contextlib.suppress(FileNotFoundError):
        state_file.unlink()
    return Outcome(small, record, history)


@contextlib.contextmanager
def _between_steps() -> Iterator[Callable[[], bool]]:
    """Yields whether Ctrl-C was pressed; within the block it doesn't interrupt, so that no step is half done."""
    pressed: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)


def describe(job: Job) -> dict[str, Any]:
    """The job as plain values."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value

    return plain(asdict(job)) | {"target_kind": type(job.target).__name__}


class _Session:
    """A job's network, its trainer and what prunes it."""

    def __init__(
        self, job: Job, data: ImageData, latency: LatencyModel | None, folder: Path, progress: Progress | None
    ):
        self.job, self.data = job, data
        self.example = torch.zeros(job.target_batch, *data.side, device=job.device)
        model = job.network(data).to(job.device)
        self.dense_weights = sum(int(torch.count_nonzero(p)) for p in model.parameters() if p.ndim == 2)
        self.pruning: FSSL | None = None
        self.rival: rivals.Rival | None = None
        steps = job.recipe.steps(len(data.train[0]))
        schedule = job.schedule.fitting(steps)
        if METHODS[job.method].prunes:
            assert job.target is not None
            if job.target.timed and latency is None:
                widest = max(data.inputs, *job.hidden)
                if progress:
                    progress("measuring layers", 0, 0)
                if not job.target.structured and job.target_device == "cpu":  # zeros pay in one compiled call only
                    latency = compiled_model(data.inputs, outputs=data.classes, batch=job.target_batch, limit=widest)
                else:
                    latency = latency_model(job.target_device, batch=job.target_batch, limit=widest)
            graph = trace(model, self.example)
            goal = goal_of(job.method, job.target, graph, schedule=schedule, latency=latency, seed=job.seed)
            self.pruning = FSSL(
                model,
                self.example,
                target=goal.target,
                steps=steps,
                device=job.target_device,
                latency=latency,
                cost=goal.cost,
                dense_cost=goal.dense_cost,
                schedule=goal.schedule,
                round_to=job.round_to,
                keep_zeros=bool(job.radix),
            )
        elif job.method == "scratch":
            assert job.like is not None
            model = rivals.drawn_anew(load_model(job.like), seed=job.seed).to(job.device)
        teacher = _teacher(job, data, folder, progress) if job.recipe.distill else None
        self.trainer = Trainer(model, data, job.recipe, seeds=[job.seed], pruning=self.pruning, teacher=teacher)
        if job.method == "torch-pruning":
            assert isinstance(job.target, Sparsity)
            self.rival = rivals.TorchPruning(self.trainer, job.target, schedule, self.dense_weights)

    @property
    def restartable(self) -> bool:
        return self.rival is None

    def step(self) -> None:
        if self.rival is not None:
            self.rival.step()
        else:
            self.trainer.step()

    def epoch_facts(self) -> dict[str, Any]:
        trainer = self.trainer
        facts: dict[str, Any] = {
            "epoch": trainer.done // trainer.per_epoch,
            "loss": float(trainer.loss),
            "held_out_accuracy": trainer.accuracy("held_out")[0],
        }
        if self.pruning is not None:
            facts |= {"live": self.pruning.live(), "weights": self.pruning.pruner.weights(), **self.pruning.penalty()}
        return facts

    def compact(self) -> fx.GraphModule:
        model = self.trainer.model.eval()
        if self.pruning is not None:
            small: Any = self.pruning.compact().eval()
            return fold_norms(small)
        if isinstance(model, fx.GraphModule):
            return model
        return rivals.compacted(model, self.example)

    def record(self, small: fx.GraphModule, seconds: float) -> dict[str, Any]:
        facts = record_of(small, self.job, self.data, dense_weights=self.dense_weights, seconds=seconds)
        if self.pruning is not None and isinstance(self.pruning.target, Latency):
            facts |= {"density": self.pruning.target.density, "tile": list(self.pruning.target.tile)}
        if self.pruning is not None and isinstance(self.pruning.target, Sparsity) and self.pruning.target.timed:
            facts["priced_by"] = self.pruning.priced_by
        return facts


def record_of(
    small: fx.GraphModule,
    job: Job,
    data: ImageData,
    *,
    dense_weights: int,
    seconds: float | None = None,
    timed: bool = True,
) -> dict[str, Any]:
    """The flat record of a compact network: what it is, how good, how fast, on what it was found."""
    from ... import machine

    commit, dirty = machine.commit()
    facts: dict[str, Any] = {
        "kind": "training",
        "method": job.method,
        "dataset": data.name,
        "network": f"radix-1024x{job.radix}" if job.radix else _widths([data.inputs, *job.hidden, data.classes]),
        "seed": job.seed,
        **facts_of(small, dense_weights),
        "test_accuracy": accuracy(small, *data.test)[0],
        "held_out_accuracy": accuracy(small, *data.held_out)[0],
        "epochs": job.recipe.epochs,
        "training_seconds": seconds,
        "training_device": job.device,
        "device": job.target_device,
        "batch": job.target_batch,
    }
    facts["architecture"] = _widths(facts["architecture"])
    if timed:
        x = torch.rand(job.target_batch, *data.side, device=job.target_device)
        found = fastest(small, x)
        start = job.network(data)
        dense = fastest(rivals.compacted(start.to(job.target_device), x), x, own_engines=False)
        facts |= {
            "latency_ms": found.ms,
            "latency_engine": found.engine,
            "latency_formats": found.formats or None,
            "latency_dense_ms": dense.ms,
            "latency_dense_engine": dense.engine,
        }
        small.to(job.device)
    return facts | {
        "job": describe(job),
        **_hardware(),
        "threads": torch.get_num_threads(),
        "versions": {**machine.versions(), "torch": torch.__version__},
        "commit": commit,
        "dirty": dirty,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


@functools.cache
def _hardware() -> dict[str, Any]:
    """Asked for once: a campaign writes a hundred records, and GPUs take their time to answer."""
    from ... import machine

    return machine.hardware()


def train_teacher(
    data: ImageData,
    hidden: Sequence[int],
    recipe: Recipe,
    *,
    seeds: Sequence[int],
    graphs: bool = False,
    progress: Progress | None = None,
) -> Teacher:
    """Train dense networks with dropout, one a seed, together; their ensemble."""
    widths = [data.inputs, *hidden, data.classes]
    device = data.train[0].device
    models = [dense_network(widths, seed=seed, dropout=0.3) for seed in seeds]
    fleet = Fleet(models, torch.zeros(2, *data.side)).to(device)
    trainer = Trainer(fleet, data, recipe, seeds=seeds, graphs=graphs)
    while trainer.done < trainer.steps:
        trainer.step()
        if progress:
            progress("teachers", trainer.done, trainer.steps)
    return Teacher(fleet, recipe.temperature, data.side)


def _teacher(job: Job, data: ImageData, folder: Path, progress: Progress | None) -> Teacher:
    if job.teachers < 1:
        raise InputError("Expected at least one teacher to distil from.")
    hidden = job.teacher_hidden or job.hidden or (1024,)
    recipe = replace(job.recipe, distill=0.0, epochs=job.teacher_epochs or job.recipe.epochs)
    seeds = [1000 * (job.seed + 1) + k for k in range(job.teachers)]
    path = folder / "teacher.safetensors"
    widths = [data.inputs, *hidden, data.classes]
    key = {"hidden": list(hidden), "recipe": asdict(recipe), "seeds": seeds, "data": data.name}
    if path.exists():
        state = load_state(path)
        if state["key"] == key:
            models = [dense_network(widths, seed=seed, dropout=0.3) for seed in seeds]
            fleet = Fleet(models, torch.zeros(2, *data.side)).to(job.device)
            fleet.load_state_dict(state["fleet"])
            return Teacher(fleet, recipe.temperature, data.side)
    teacher = train_teacher(data, hidden, recipe, seeds=seeds, progress=progress)
    save_state({"key": key, "fleet": teacher.fleet.state_dict()}, path)
    return teacher


def _widths(widths: Sequence[int]) -> str:
    return "-".join(map(str, widths))
