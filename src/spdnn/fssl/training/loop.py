"""One training loop, for a network or a fleet of them: sampling, augmentation, distillation, pruning, resuming."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from ...errors import InputError
from ..fleet import Fleet
from ..fssl import FSSL
from ..pruner import Pruner
from .augment import Augmentation
from .data import ImageData

Split = Literal["train", "held_out", "test"]
WARM_UP = 0.02
"""Share of the steps over which the learning rate rises."""


@dataclass(frozen=True)
class Recipe:
    """How networks are trained, pruned or not: with Adam and a learning rate that ends at 0.

    distill : the weight of the teacher's answers against the labels; needs a teacher. temperature : of both answers.
    smoothing : of the labels. decay : decoupled weight decay. hold : the share of the training up to which the learning
        rate stays at its height; from there it falls as a cosine.
    """

    epochs: int = 60
    batch: int = 128
    rate: float = 2e-3
    decay: float = 0.0
    hold: float = 0.0
    smoothing: float = 0.0
    distill: float = 0.0
    temperature: float = 2.0
    augmentation: Augmentation | None = None

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch) < 1 or self.rate <= 0 or not 0 <= self.distill <= 1 or self.temperature <= 0:
            raise InputError(f"Expected epochs and batch of at least 1, a rate above 0, distill in [0, 1], got {self}.")
        if not 0 <= self.hold < 1:
            raise InputError(f"Expected hold in [0, 1), got {self.hold}.")

    def steps(self, rows: int) -> int:
        """Optimiser steps of the whole training; the rows that don't fill a batch are left out of an epoch."""
        return self.epochs * max(rows // self.batch, 1)


class Teacher:
    """An ensemble: the mean of its members' probabilities at a temperature, as logarithms of them.

    side : height and width of the images it was trained on; of larger ones it sees the middle.
    """

    def __init__(self, fleet: Fleet, temperature: float, side: tuple[int, int]):
        self.fleet, self.temperature, self.side = fleet.eval().requires_grad_(False), temperature, side

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """images : (seeds, batch, height, width). Returns (seeds, batch, classes)."""
        for axis, size in zip((2, 3), self.side, strict=True):
            images = images.narrow(axis, (images.shape[axis] - size) // 2, size)
        together = images.flatten(0, 1).expand(self.fleet.members, -1, -1, -1)
        answers = (self.fleet(together) / self.temperature).softmax(-1).mean(0)
        return answers.clamp_(min=1e-8).log().unflatten(0, images.shape[:2])


class Trainer:
    """Trains a model on data, step by step.

    model : an ordinary network, or a Fleet whose member c·S + s sees the images of seed s (S seeds in all).
    pruning : the FSSL of the model, or the Pruner of the fleet; the Trainer calls it.
    seeds : of the order of images and of their augmentation.
    graphs : on a GPU, record a step and replay it; it is recorded anew when a model becomes smaller.
    distill : of every network, (members,), in place of the recipe's.
    """

    def __init__(
        self,
        model: nn.Module,
        data: ImageData,
        recipe: Recipe,
        *,
        seeds: Sequence[int] = (0,),
        pruning: FSSL | Pruner | None = None,
        teacher: Teacher | None = None,
        graphs: bool = False,
        distill: Sequence[float] | None = None,
    ):
        if any(distill or [recipe.distill]) and teacher is None:
            raise InputError("Expected a teacher to distil from.")
        self.model, self.data, self.recipe, self.seeds = model, data, recipe, list(seeds)
        self.pruning, self.teacher = pruning, teacher
        self.device = next(model.parameters()).device
        self.members = model.members if isinstance(model, Fleet) else 1
        if self.members % len(self.seeds):
            raise InputError(f"Expected a multiple of {len(self.seeds)} networks, one a seed, got {self.members}.")
        self.rows = len(data.train[0])
        self.steps, self.done = recipe.steps(self.rows), 0
        self.loss = torch.zeros(self.members, device=self.device)
        self.distill = torch.tensor(distill or [recipe.distill] * self.members, device=self.device)
        self.graphs = graphs and self.device.type == "cuda"
        rate: Any = torch.tensor(recipe.rate, device=self.device) if self.graphs else recipe.rate
        options: dict[str, Any] = {"fused": True, "weight_decay": recipe.decay, "capturable": self.graphs}
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=rate, **options)
        if isinstance(pruning, FSSL):
            pruning.prepare(self.optimizer)
        self._order = [torch.Generator().manual_seed(seed) for seed in self.seeds]
        self._noise = torch.Generator(self.device).manual_seed(1 + sum(self.seeds))
        self._orders: torch.Tensor | None = None
        self._rows = torch.zeros(len(self.seeds), min(recipe.batch, self.rows), dtype=torch.int64, device=self.device)
        self._recorded: dict[bool, torch.cuda.CUDAGraph] = {}
        self._shape: list[torch.Size] = []
        self._distils = bool(self.distill.any())

    @property
    def per_epoch(self) -> int:
        return self.steps // self.recipe.epochs

    def rate(self) -> float:
        """The learning rate of the next step."""
        at = (self.done + 0.5) / self.steps
        rise = min(at / WARM_UP, 1.0)
        fallen = max(at - self.recipe.hold, 0.0) / (1 - self.recipe.hold)
        return self.recipe.rate * rise * 0.5 * (1 + math.cos(math.pi * fallen))

    def step(self) -> None:
        """One step of the optimiser and of the pruning."""
        place = self.done % self.per_epoch
        if place == 0 or self._orders is None:
            self._orders = torch.stack([torch.randperm(self.rows, generator=g) for g in self._order]).to(self.device)
        batch = self._rows.shape[1]
        self._rows.copy_(self._orders[:, place * batch : (place + 1) * batch])
        rate = self.rate()
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        augmented = self._augmented()
        self.model.train()
        if self.graphs:
            self._replay(augmented)
        else:
            self._learn(augmented)
        if self.pruning is not None:
            self.pruning.step(rate)
        self.done += 1

    def _augmented(self) -> bool:
        changes = self.recipe.augmentation
        return changes is not None and not changes.off and self.done < round((1 - changes.fade) * self.steps)

    def epoch(self) -> torch.Tensor:
        """Train to the end of the epoch. Returns the last step's loss of every member."""
        while True:
            self.step()
            if self.done % self.per_epoch == 0:
                return self.loss.detach().clone()

    @torch.no_grad()
    def accuracy(self, split: Split) -> list[float]:
        """Percent of every member."""
        return accuracy(self.model, *getattr(self.data, split))

    def state_dict(self) -> dict[str, Any]:
        """Everything a run needs to go on exactly; see `save_state`. Not for fleets."""
        assert not isinstance(self.pruning, Pruner)
        return {
            "recipe": asdict(self.recipe),
            "seeds": self.seeds,
            "done": self.done,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "pruning": None if self.pruning is None else self.pruning.state_dict(),
            "order": [g.get_state() for g in self._order],
            "noise": self._noise.get_state(),
            "orders": None if self._orders is None else self._orders.to(torch.int32),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises InputError where the state is that of another training."""
        if state["recipe"] != asdict(self.recipe) or state["seeds"] != self.seeds:
            raise InputError("Expected the state of a training with the same recipe and seeds.")
        if isinstance(self.pruning, FSSL):
            self.pruning.load_state_dict(state["pruning"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for generator, found in zip(self._order, state["order"], strict=True):
            generator.set_state(found)
        self._noise.set_state(state["noise"])
        self._orders = None if state["orders"] is None else state["orders"].to(self.device, torch.int64)
        self.done = state["done"]

    def _learn(self, augmented: bool) -> None:
        """Forward, backward and the optimiser's step on the images `_rows`."""
        images = self.data.train[0][self._rows].float().div_(255)
        labels = self.data.train[1][self._rows]
        if augmented:
            assert self.recipe.augmentation is not None
            images = self.recipe.augmentation(images.flatten(0, 1), self._noise).unflatten(0, self._rows.shape)
        wanted = self.teacher(images) if self.teacher is not None and self._distils else None
        copies = self.members // len(self.seeds)
        if isinstance(self.model, Fleet):
            logits = self.model(images.repeat(copies, 1, 1, 1))
        else:
            logits = self.model(images[0])[None]
        loss = losses(logits, labels.repeat(copies, 1), wanted, self.recipe, self.distill)
        self.optimizer.zero_grad(set_to_none=True)
        loss.sum().backward()
        self.optimizer.step()
        self.loss.copy_(loss.detach())

    def _replay(self, augmented: bool) -> None:
        shape = [parameter.shape for parameter in self.model.parameters()]
        if shape != self._shape:  # the first step, or the model was cut since
            self._recorded.clear()
            self._shape = shape
        if augmented not in self._recorded:
            with _side_stream(self.device):
                changing = self._changing()
                state = [value.clone() for value in changing]
                for _ in range(3):
                    self._learn(augmented)
                with torch.no_grad():  # as if the rehearsals had not been
                    for value, before in zip(changing, state, strict=True):
                        value.copy_(before)
                    for value in self._changing()[len(changing) :]:  # what the first step made
                        value.zero_()
            graph = torch.cuda.CUDAGraph()
            graph.register_generator_state(self._noise)
            self.optimizer.zero_grad(set_to_none=True)
            with torch.cuda.graph(graph):
                self._learn(augmented)
            self._recorded[augmented] = graph
        self._recorded[augmented].replay()

    def _changing(self) -> list[torch.Tensor]:
        """What a step changes: of the model, then of the optimiser."""
        found = list(self.model.state_dict().values())
        return found + [value for values in self.optimizer.state.values() for value in values.values()]


def losses(
    logits: torch.Tensor, labels: torch.Tensor, wanted: torch.Tensor | None, recipe: Recipe, distill: torch.Tensor
) -> torch.Tensor:
    """(members,): cross entropy with the labels, mixed with the divergence from the teacher.

    logits : (members, batch, classes). labels : (members, batch). wanted : the teacher's, (seeds, batch, classes), at
    the recipe's temperature; its gradients are scaled to those of temperature 1 (Hinton, Vinyals & Dean 2015).
    distill : (members,), the weight of the teacher's answers.
    """
    members, batch, classes = logits.shape
    flat = logits.reshape(-1, classes)
    hard = F.cross_entropy(flat, labels.reshape(-1), label_smoothing=recipe.smoothing, reduction="none")
    hard = hard.view(members, batch).mean(1)
    if wanted is None:
        return hard
    wanted = wanted.repeat(members // wanted.shape[0], 1, 1)
    own = (logits / recipe.temperature).log_softmax(-1)
    soft = (wanted.exp() * (wanted - own)).sum(-1).mean(1) * recipe.temperature**2
    return (1 - distill) * hard + distill * soft


@torch.no_grad()
def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, *, chunk: int = 2500) -> list[float]:
    """Percent right, of the network or of every member of a fleet, in eval mode."""
    training = model.training
    model.eval()
    fleet = isinstance(model, Fleet)
    right: Any = 0
    for start in range(0, len(images), chunk):
        x = images[start : start + chunk].float().div_(255)
        logits = model(x.expand(model.members, *x.shape)) if isinstance(model, Fleet) else model(x)
        right = right + (logits.argmax(-1) == labels[start : start + chunk]).sum(-1)
    model.train(training)
    found = (right.double() * 100 / len(images)).tolist()
    return found if fleet else [found]


@contextlib.contextmanager
def _side_stream(device: torch.device) -> Iterator[None]:
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream(device).wait_stream(stream)
