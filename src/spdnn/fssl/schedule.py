"""When and how hard FSSL presses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from ..errors import InputError, unknown_name

Stage = Literal["dense", "groups", "weights", "fixed"]
Score = Literal["magnitude", "lamp", "fisher"]
SCORES: tuple[Score, ...] = ("magnitude", "lamp", "fisher")


@dataclass(frozen=True)
class Schedule:
    """Times are fractions of the steps of the whole training.

    start, groups_end, weights_end : the network trains unpruned until start; stage 1 (neurons and input features) runs
        to groups_end, stage 2 (tiles or single weights) to weights_end; from then on the masks are fixed. A structured
        target has no stage 2: its stage 1 runs to weights_end.
    every : steps between decisions, which follow a budget that falls as 1 − (1 − t)³ (Zhu & Gupta 2017).
    prox_every : steps between proximal steps; each makes up for those left out.
    penalty : λ_s + λ_t, the weights of the group lasso and of the time term at the end of their linear ramp, loss per
        unit of norm of a mean group.
    time : λ_t / λ_s: a group's threshold grows with what a channel of its layer costs now. A mean group's is the same
        for every share, so that the time term shifts the pressure between layers and doesn't add to it. 0 leaves the
        cost to the budget alone.
    l1 : the weight of ‖w‖₁ in stage 2. regrow : the share of the kept weights that stage 2 first exchanges at a
        decision for those with the largest gradients (Evci et al. 2020); falls to 0 as a cosine.
    score : what single weights are ranked by: |w| over all layers ("magnitude"); w² over the sum of squares of the
        weights of its layer that are no smaller ("lamp"; Lee et al. 2021), by which no layer can vanish; or w² times
        the running mean of its squared gradient ("fisher"), what a second-order expansion says losing it costs.
    shrink : make the network physically smaller once this share of a layer's channels is dead; 1 for never.
    """

    start: float = 0.1
    groups_end: float = 0.3
    weights_end: float = 0.7
    every: int = 100
    prox_every: int = 10
    penalty: float = 0.02
    time: float = 1.0
    l1: float = 0.0
    regrow: float = 0.0
    score: Score = "lamp"
    shrink: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.groups_end <= self.weights_end <= 1:
            raise InputError(f"Expected 0 <= start <= groups_end <= weights_end <= 1, got {self}.")
        if self.score not in SCORES:
            raise unknown_name("score", str(self.score), SCORES)
        if min(self.every, self.prox_every) < 1:
            raise InputError(f"Expected every and prox_every of at least 1, got {self}.")
        if min(self.penalty, self.time, self.l1, self.regrow, self.shrink) < 0 or self.regrow >= 1:
            raise InputError(f"Expected no negative weights and regrow < 1, got {self}.")

    def fitting(self, steps: int) -> Schedule:
        """With at least a hundred decisions in a training of so many steps, where there are as many."""
        every = max(min(self.every, steps // 100), 1)
        return replace(self, every=every, prox_every=min(self.prox_every, every))

    def stage(self, done: int, steps: int, *, structured: bool) -> tuple[Stage, float]:
        """The stage after `done` of `steps` steps and how far it is, 0 to 1; exactly 1 at the last step of a stage."""
        begin, end = round(self.start * steps), round(self.weights_end * steps)
        middle = end if structured else round(self.groups_end * steps)
        if done <= begin:
            return "dense", 0.0
        if done <= middle:
            return "groups", (done - begin) / (middle - begin)
        if done <= end:
            return "weights", (done - middle) / (end - middle)
        return "fixed", 1.0


def budget_at(progress: float, first: float, last: float) -> float:
    """From `first` to `last`, fast at first and exact at progress 1."""
    return last + (first - last) * (1 - progress) ** 3
