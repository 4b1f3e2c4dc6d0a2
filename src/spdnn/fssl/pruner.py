"""The decisions of FSSL over the weights of a traced network: which channels and weights live.

Weights may have a leading dimension, one network each ("members", see `fleet`): every tensor here then has it too, and
members differ in target, schedule and cost only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from ..errors import InputError
from .budget import Cost, Latency, Target, knapsack, shrunk
from .proximal import group_norms, scale_groups_, shrink_factors, soft_threshold_
from .schedule import Schedule, Stage, budget_at
from .trace import ChannelGraph, Layer

MEMORY = 0.03
"""Share of a new squared gradient in the running mean of importance."""


@dataclass(frozen=True)
class Goal:
    """What one network is to become, when, and what its channels cost meanwhile.

    dense_cost : of the dense network, where the cost isn't that of dense layers. The density of a latency is chosen.
    """

    target: Target
    schedule: Schedule
    cost: Cost
    dense_cost: float | None = None

    @property
    def structured(self) -> bool:
        return self.target.structured

    @property
    def share(self) -> float:
        """Of the dense cost, what stage 1 ends with."""
        if isinstance(self.target, Latency):
            return self.target.ratio
        return 1 - self.target.removed * (1.0 if self.target.structured else self.target.groups)

    def describe(self) -> dict[str, Any]:
        facts = {"kind": type(self.target).__name__, **asdict(self.target), "schedule": asdict(self.schedule)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in facts.items()}


class Pruner:
    """Which channels live (`alive`, bool (…, channels) by space) and which weights (`masks`, bool by layer).

    Where stage 2 removes tiles, `places` (int64, by space) says where channels stand in them: those that live when it
    begins stand side by side, so that tiles are whole in the network that is cut to them.

    graph : its layers' weights are changed in place. goals : one, or one per member of stacked weights.
    keep_zeros : weights that are zero now stay zero: a network that starts sparse.
    """

    def __init__(self, graph: ChannelGraph, goals: Sequence[Goal], *, steps: int, keep_zeros: bool = False):
        self.graph, self.goals, self.steps, self.done = graph, list(goals), steps, 0
        weights = self._first_weight
        self.stack, self.device = weights.shape[:-2], weights.device
        self.members: list[tuple[int, ...]] = [(k,) for k in range(self.stack[0])] if self.stack else [()]
        if len(self.goals) != len(self.members):
            raise InputError(f"Expected {len(self.members)} goals, one a network, got {len(self.goals)}.")
        if keep_zeros and any(goal.structured for goal in self.goals):
            raise InputError("A network that starts sparse needs a target of single weights (structured=False).")
        sizes = graph.sizes
        self.alive = {k: self._full((n,), True) for k, n in sizes.items()}
        self.importance = {k: self._full((sizes[k],), 0.0) for k in self.prunable()}
        self.curvature: dict[str, torch.Tensor] = {}
        if any(goal.schedule.score == "fisher" and not goal.structured for goal in self.goals):
            layers = graph.layers.values()
            self.curvature = {x.name: torch.zeros_like(x.module.weight, requires_grad=False) for x in layers}
        self.places: dict[int, torch.Tensor] = {}
        if any(_tile(goal) != (1, 1) for goal in self.goals):
            self.places = {k: self._full((n,), 0) + torch.arange(n, device=self.device) for k, n in sizes.items()}
        self.origin = np.arange(sizes[graph.input_space])  # of the input features left, where they were at first
        self.masks: dict[str, torch.Tensor] = {}
        self._held: dict[str | int, torch.Tensor] = {}  # by layer, by space
        if keep_zeros:
            self.masks = {layer.name: layer.module.weight.detach() != 0 for layer in graph.layers.values()}
        self.support = {name: mask.clone() for name, mask in self.masks.items()}
        self.dense_cost = [g.cost.total(sizes) if g.dense_cost is None else g.dense_cost for g in self.goals]
        for m, (goal, dense) in enumerate(zip(self.goals, self.dense_cost, strict=True)):
            least = goal.cost.total(shrunk(graph, 0.0))
            if least > goal.share * dense * (1 + 1e-9):
                which = f" of network {m + 1} of {len(self.goals)}" if self.stack else ""
                raise InputError(
                    f"The budget {goal.share * dense:.4g}{which} can't be met: with one channel per layer the cost is "
                    f"{least:.4g}, that of the dense network {dense:.4g}. Ask for less."
                )
        self.entries = [0] * len(self.goals)  # between living channels when stage 2 begins
        self.dense_weights = sum(
            layer.module.in_features * layer.module.out_features for layer in graph.layers.values()
        )
        if keep_zeros:
            at = self.members[0]
            self.dense_weights = sum(int(mask[at].sum()) for mask in self.masks.values())
        self._prices = [goal.cost.prices(sizes) for goal in self.goals]
        self._settle()

    @torch.no_grad()
    def step(self, rate: float) -> bool:
        """Once after every step of the optimiser, whose learning rate is `rate`, with the gradients still there.

        Returns whether it decided anything, after which dead channels may be cut away.
        """
        self.done += 1
        stages = [goal.schedule.stage(self.done, self.steps, structured=goal.structured) for goal in self.goals]
        often = min(goal.schedule.prox_every for goal in self.goals)
        due = [
            stage in ("groups", "weights") and (self.done % goal.schedule.every == 0 or progress == 1.0)
            for goal, (stage, progress) in zip(self.goals, stages, strict=True)
        ]
        if self.done % often == 0 or any(due):
            if any(stage in ("dense", "groups") for stage, _ in stages):
                self._note_importance()
            if self.curvature and any(stage != "fixed" for stage, _ in stages):
                self._note_curvature()
        if self.done % often == 0:
            self._shrink_groups(stages, rate * often)
            self._shrink_weights(stages, rate * often)
        decided = [m for m, now in enumerate(due) if now]
        if decided:
            self._drop_groups([m for m in decided if stages[m][0] == "groups"], [p for _, p in stages])
            pruned = [m for m in decided if stages[m][0] == "weights"]
            reach = self._reach() if pruned else ({}, {})
            for m in pruned:
                self._drop_weights(m, stages[m][1], reach)
            self._settle()
            self.hold()
            _, read = self._reach()
            for k in self.prunable():
                for m in decided:
                    self.alive[k][self.members[m]] &= read[k][self.members[m]]
            self._settle()
        self.hold()
        return bool(decided)

    @torch.no_grad()
    def hold(self) -> None:
        """Zero what is masked or dead, exactly."""
        for layer in self.graph.layers.values():
            if (mask := self._held.get(layer.name)) is not None:
                layer.module.weight.mul_(mask)
        for k in self.prunable():
            if (kept := self._held.get(k)) is None:
                continue
            for layer in self.graph.writers(k):
                if layer.module.bias is not None:
                    layer.module.bias.mul_(kept)
            for norm in self.graph.norms(k):
                for parameter in (norm.weight, norm.bias):
                    if parameter is not None:
                        parameter.mul_(kept)

    def prunable(self) -> list[int]:
        return [k for k, space in self.graph.spaces.items() if not space.fixed]

    def counts(self, member: int = 0) -> dict[int, int]:
        """Live channels of every space."""
        return {k: int(alive[self.members[member]].sum()) for k, alive in self.alive.items()}

    def weights(self, member: int = 0) -> int:
        """Weights that are not zero."""
        at = self.members[member]
        return sum(int(torch.count_nonzero(layer.module.weight[at])) for layer in self.graph.layers.values())

    def penalty(self, member: int = 0) -> dict[str, float]:
        """The terms of the fused loss beside the error, which share its penalty: `sparsity` λ_s·Ω, and `time`
        λ_t·(cost now / dense cost)."""
        goal, at = self.goals[member], self.members[member]
        plan = goal.schedule
        stage, progress = plan.stage(self.done, self.steps, structured=goal.structured)
        press = plan.penalty / (1 + plan.time) * (progress if stage == "groups" else 0.0)
        norms = sum(float(group_norms(self.graph, k)[at].sum()) for k in self.prunable())
        cost = goal.cost.total(self.counts(member)) / self.dense_cost[member]
        return {"sparsity": press * norms, "time": press * plan.time * cost}

    def cut(self, keep: dict[int, torch.Tensor]) -> None:
        """Follow a network that was cut to these channels of each space (int64, ascending)."""
        for k, index in keep.items():
            if k == self.graph.input_space:
                self.origin = self.origin[index.cpu().numpy()]
            index = index.to(self.device)
            self.alive[k] = self.alive[k].index_select(-1, index)
            if k in self.importance:
                self.importance[k] = self.importance[k].index_select(-1, index)
            if k in self.places:
                self.places[k] = self.places[k].index_select(-1, index)
        for table in (self.masks, self.support, self.curvature):
            for name, mask in table.items():
                layer = self.graph.layers[name]
                rows, columns = (keep[k].to(self.device) for k in (layer.writes, layer.reads))
                table[name] = mask.index_select(-2, rows).index_select(-1, columns)
        self._held.clear()
        self._settle()

    def state_dict(self) -> dict[str, Any]:
        tables = {"alive": self.alive, "importance": self.importance, "places": self.places}
        tables |= {"masks": self.masks, "support": self.support, "curvature": self.curvature}
        return {
            "done": self.done,
            "steps": self.steps,
            "goals": [goal.describe() for goal in self.goals],
            "dense_cost": self.dense_cost,
            "dense_weights": self.dense_weights,
            "entries": self.entries,
            "origin": self.origin.tolist(),
            "prices": [{str(k): v for k, v in prices.items()} for prices in self._prices],
            **{name: {str(k): v.clone() for k, v in table.items()} for name, table in tables.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The network must have the state's shapes already."""
        if state["steps"] != self.steps or state["goals"] != [goal.describe() for goal in self.goals]:
            raise InputError("Expected the state of a training with the same steps, target and schedule.")
        self.done, self.dense_cost = state["done"], list(state["dense_cost"])
        self.dense_weights, self.entries = state["dense_weights"], list(state["entries"])
        self.origin = np.array(state["origin"])
        self._prices = [{int(k): v for k, v in prices.items()} for prices in state["prices"]]
        for name in ("alive", "importance", "places"):
            setattr(self, name, {int(k): v.to(self.device) for k, v in state.get(name, {}).items()})
        for name in ("masks", "support", "curvature"):
            setattr(self, name, {k: v.to(self.device) for k, v in state[name].items()})
        self._held.clear()
        self._settle()

    def _note_importance(self) -> None:
        """A running mean of (∂loss/∂gate)², the gate multiplying what is read of a channel (Molchanov et al. 2019)."""
        for k in self.prunable():
            terms = []
            for layer in self.graph.readers(k):
                weight = layer.module.weight
                if weight.grad is not None:
                    terms.append((weight * weight.grad).sum(-2))
            if terms:
                self.importance[k].lerp_(torch.stack(terms).sum(0).square().float(), MEMORY)

    def _note_curvature(self) -> None:
        """A running mean of (∂loss/∂w)², the diagonal of the empirical Fisher matrix."""
        for layer in self._free_layers():
            if (gradient := layer.module.weight.grad) is not None:
                self.curvature[layer.name].lerp_(gradient.square(), MEMORY)

    def _shrink_groups(self, stages: Sequence[tuple[Stage, float]], rate: float) -> None:
        """The proximal step of the group lasso, its thresholds those of size and price."""
        press = [
            goal.schedule.penalty * progress * rate if stage == "groups" else 0.0
            for goal, (stage, progress) in zip(self.goals, stages, strict=True)
        ]
        spaces = self.prunable()
        if not any(press) or not spaces:
            return
        sizes = {k: self._group_size(k) ** 0.5 for k in spaces}
        channels = {k: self.alive[k].shape[-1] for k in spaces}
        mean_size = sum(sizes[k] * channels[k] for k in spaces) / sum(channels.values())
        for k in spaces:
            thresholds = []
            for goal, prices, p in zip(self.goals, self._prices, press, strict=True):
                mean_price = sum(prices[j] * channels[j] for j in spaces) / sum(channels.values())
                time, dear = goal.schedule.time, prices[k] / max(mean_price, 1e-30)
                thresholds.append(p * (sizes[k] / mean_size + time * dear) / (1 + time))
            norms = group_norms(self.graph, k)
            threshold = torch.tensor(thresholds, device=self.device, dtype=norms.dtype).reshape(*self.stack, 1)
            threshold = torch.minimum(threshold, 0.99 * norms.amax(-1, keepdim=True))  # the largest never dies
            factors = shrink_factors(norms, threshold)
            scale_groups_(self.graph, k, factors)
            self.alive[k] &= factors > 0

    def _shrink_weights(self, stages: Sequence[tuple[Stage, float]], rate: float) -> None:
        press = [
            goal.schedule.l1 * rate if stage == "weights" else 0.0
            for goal, (stage, _) in zip(self.goals, stages, strict=True)
        ]
        if any(press):
            threshold = torch.tensor(press, device=self.device).reshape(*self.stack, 1, 1)
            for layer in self._free_layers():
                soft_threshold_(layer.module.weight, threshold)

    def _drop_groups(self, members: Sequence[int], progress: Sequence[float]) -> None:
        """progress : of the stage, by member. What decisions need comes from the device, and goes there, once."""
        if not members:
            return
        spaces = self.prunable()
        importance = {k: self.importance[k].double().cpu().numpy() for k in spaces}
        alive = {k: values.cpu().numpy() for k, values in self.alive.items()}
        for m in members:
            goal, at, target = self.goals[m], self.members[m], self.goals[m].target
            budget = budget_at(progress[m], 1.0, goal.share) * self.dense_cost[m]
            if not isinstance(target, Latency) and target.structured and progress[m] == 1.0:
                budget = float(np.floor(budget + 1e-6))
            counts = {k: int(values[at].sum()) for k, values in alive.items()}
            choice = {k: np.where(alive[k][at], importance[k][at], np.nan) for k in spaces}
            if (k := self.graph.input_space) in choice:
                choice[k] = _averaged(choice[k], self.origin // goal.cost.together)
            for k, gone in knapsack(goal.cost, counts, choice, budget).items():
                alive[k][at] &= ~gone
            self._prices[m] = goal.cost.prices({k: int(values[at].sum()) for k, values in alive.items()})
        for k in spaces:
            self.alive[k].copy_(torch.from_numpy(alive[k]))

    def _drop_weights(self, m: int, progress: float, reach: Sequence[dict[int, torch.Tensor]]) -> None:
        """reach : see `_reach`."""
        goal, at = self.goals[m], self.members[m]
        layers = self._free_layers()
        if not self.entries[m]:  # stage 2 begins
            self.entries[m] = self._entries(m)
            for k, places in self.places.items():
                alive = self.alive[k][at].nonzero()[:, 0]
                places[at] = 0
                places[at][alive[self._alike(k, m)]] = torch.arange(len(alive), device=self.device)
        fed, read = reach
        useful = {k: fed[k][at] & read[k][at] & self.alive[k][at] for k in fed}
        active, scores, slopes, sizes = [], [], [], []
        grids = [self._grid(layer, m) for layer in layers]
        for layer, grid in zip(layers, grids, strict=True):
            weight = layer.module.weight[at]
            mask = self._mask(layer.name)[at] & useful[layer.writes][:, None] & useful[layer.reads]
            may = self.support[layer.name][at] if layer.name in self.support else torch.ones_like(mask)
            may = may & self.alive[layer.writes][at][:, None] & self.alive[layer.reads][at]
            slope = torch.zeros_like(weight) if layer.module.weight.grad is None else layer.module.weight.grad[at]
            n = _tiles(mask.to(weight.dtype), grid)
            active.append(n.flatten() > 0)
            value = weight.abs()
            if goal.schedule.score == "fisher":
                value = value.square() * self.curvature[layer.name][at]
            score = (_tiles(value * mask, grid) / n.clamp(min=1)).flatten()
            scores.append(_lamp(score) if goal.schedule.score == "lamp" else score)
            places = _tiles(may.to(weight.dtype), grid)
            slopes.append((_tiles(slope.abs() * may, grid) / places.clamp(min=1)).flatten())
            sizes.append(places.flatten())
        score = torch.where(torch.cat(active), torch.cat(scores), -1.0)
        size = torch.cat(sizes)
        ignored = sum(x.module.weight[at].numel() for x in self.graph.layers.values() if x.ignored)
        if isinstance(goal.target, Latency):
            assert goal.target.density is not None
            keep = int(budget_at(progress, 1.0, goal.target.density) * self.entries[m])
        else:
            removed = goal.target.removed
            first = 1 - removed * goal.target.groups
            keep = int(budget_at(progress, first, 1 - removed) * self.dense_weights + 1e-6) - ignored
        regrow = 0.0 if progress == 1.0 else goal.schedule.regrow * 0.5 * (1 + np.cos(np.pi * progress))
        chosen = _best(score, size, int(keep * (1 - regrow)))
        if regrow:
            slope = torch.where(chosen, -1.0, torch.where(size > 0, torch.cat(slopes), -1.0))
            chosen |= _best(slope, size, keep - int(size[chosen].sum()))
        start = 0
        for layer, grid, part in zip(layers, grids, sizes, strict=True):
            weight = layer.module.weight[at]
            mask = _untile(chosen[start : start + part.numel()], grid, weight.shape)
            if layer.name in self.support:
                mask = mask & self.support[layer.name][at]
            start += part.numel()
            self.masks.setdefault(layer.name, self._mask(layer.name))[at] = mask

    def _grid(self, layer: Layer, m: int) -> Grid | None:
        (height, width), at = _tile(self.goals[m]), self.members[m]
        if (height, width) == (1, 1):
            return None
        return self.places[layer.writes][at] // height, self.places[layer.reads][at] // width

    def _alike(self, k: int, m: int) -> torch.Tensor:
        """An order of the living channels of a space in which those that stand in a tile have alike weights."""
        (height, width), at, alive = _tile(self.goals[m]), self.members[m], self.alive[k][self.members[m]]
        weights = [x.module.weight[at][alive] for x in self.graph.writers(k) if height > 1]
        weights += [x.module.weight[at][:, alive].T for x in self.graph.readers(k) if width > 1]
        if not weights:
            return torch.arange(int(alive.sum()), device=self.device)
        squares = torch.cat(weights, 1).double().square()
        norms = squares.norm(dim=1)
        likeness = (squares @ squares.T / (norms[:, None] * norms).clamp(min=1e-300)).cpu().numpy()
        order = _side_by_side(likeness, norms.cpu().numpy(), max(height, width))
        return torch.from_numpy(order).to(self.device)

    def _entries(self, m: int) -> int:
        """Places for weights between living channels, but for those of ignored layers."""
        counts = self.counts(m)
        return sum(counts[layer.reads] * counts[layer.writes] for layer in self._free_layers())

    def _reach(self) -> tuple[dict[int, torch.Tensor], dict[int, torch.Tensor]]:
        """Which channels depend on the input, and which reach the output, through weights that are not zero."""
        graph, spaces = self.graph, self.graph.spaces
        nonzero = {x.name: x.module.weight != 0 for x in graph.layers.values()}
        fed = {k: torch.full_like(self.alive[k], k == graph.input_space) for k in spaces}
        read = {k: torch.full_like(self.alive[k], space.fixed is not None) for k, space in spaces.items()}
        layers, size = list(graph.layers.values()), -1
        while size != (size := int(torch.stack([v.sum() for v in (*fed.values(), *read.values())]).sum())):
            for x in layers:
                fed[x.writes] |= (nonzero[x.name] & fed[x.reads][..., None, :]).any(-1)
            for x in reversed(layers):
                read[x.reads] |= (nonzero[x.name] & read[x.writes][..., :, None]).any(-2)
        return fed, read

    def _settle(self) -> None:
        """Renew what `hold` multiplies with; in place, so that a captured CUDA graph sees it."""
        for layer in self.graph.layers.values():
            mask = self.alive[layer.writes][..., :, None] & self.alive[layer.reads][..., None, :]
            if layer.name in self.masks:
                mask = mask & self.masks[layer.name]
            self._put(layer.name, mask, layer.module.weight.dtype)
        for k in self.prunable():
            self._put(k, self.alive[k], self._first_weight.dtype)

    def _put(self, name: str | int, mask: torch.Tensor, dtype: torch.dtype) -> None:
        if name in self._held:
            self._held[name].copy_(mask)
        elif self.stack or not bool(mask.all()):
            self._held[name] = mask.to(dtype)

    def _mask(self, name: str) -> torch.Tensor:
        if name in self.masks:
            return self.masks[name]
        return torch.ones_like(self.graph.layers[name].module.weight, dtype=torch.bool)

    def _free_layers(self) -> list[Layer]:
        return [layer for layer in self.graph.layers.values() if not layer.ignored]

    def _group_size(self, k: int) -> int:
        written = sum(layer.module.in_features + 1 for layer in self.graph.writers(k))
        return written + sum(layer.module.out_features for layer in self.graph.readers(k))

    def _full(self, shape: tuple[int, ...], value: Any) -> torch.Tensor:
        return torch.full((*self.stack, *shape), value, device=self.device)

    @property
    def _first_weight(self) -> torch.Tensor:
        return next(iter(self.graph.layers.values())).module.weight

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        return iter(self.members)


def _side_by_side(likeness: np.ndarray, norms: np.ndarray, size: int) -> np.ndarray:
    """An order in which every `size` that follow each other are alike: the largest left, and those most like it."""
    left, order = np.ones(len(norms), bool), []
    for first in np.argsort(-norms, kind="stable"):
        if not left[first]:
            continue
        left[first] = False
        order.append(int(first))
        to = likeness[first].copy()
        for _ in range(min(size - 1, int(left.sum()))):
            chosen = int(np.argmax(np.where(left, to, -1.0)))
            left[chosen] = False
            order.append(chosen)
            to += likeness[chosen]
    return np.array(order, np.int64)


def _averaged(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The mean of each group for all in it; those that are NaN stay so and don't count."""
    there = ~np.isnan(values)
    sums = np.bincount(groups[there], values[there], groups.max() + 1)
    counts = np.bincount(groups[there], minlength=groups.max() + 1)
    return np.where(there, (sums / np.maximum(counts, 1))[groups], np.nan)


def _lamp(magnitude: torch.Tensor) -> torch.Tensor:
    """w² over the sum of w² of all that are no smaller (Lee, Park, Mo, Ahn & Shin 2021)."""
    order = magnitude.argsort()
    squares = magnitude[order].double().square()
    rest = squares.flip(0).cumsum(0).flip(0)
    return torch.zeros_like(magnitude).scatter_(0, order, (squares / rest.clamp(min=1e-300)).to(magnitude.dtype))


Grid = tuple[torch.Tensor, torch.Tensor]
"""Which row of tiles each output is in, int64 (outputs,), and which column each input."""


def _tile(goal: Goal) -> tuple[int, int]:
    return (1, 1) if goal.structured else goal.target.tile


def _tiles(values: torch.Tensor, grid: Grid | None) -> torch.Tensor:
    """Sums over tiles: (outputs, inputs) to (tile rows, tile columns). None: every weight is one."""
    if grid is None:
        return values
    rows, columns = grid
    found = values.new_zeros(int(rows.max()) + 1, values.shape[1]).index_add_(0, rows, values)
    return found.new_zeros(found.shape[0], int(columns.max()) + 1).index_add_(1, columns, found)


def _untile(chosen: torch.Tensor, grid: Grid | None, shape: torch.Size) -> torch.Tensor:
    if grid is None:
        return chosen.view(shape)
    rows, columns = grid
    return chosen.view(int(rows.max()) + 1, -1)[rows][:, columns]


def _best(score: torch.Tensor, size: torch.Tensor, budget: int) -> torch.Tensor:
    """Which items to keep: the best scores (those below 0 never) whose sizes add up to at most `budget`."""
    chosen = torch.zeros_like(score, dtype=torch.bool)
    if float(size.max()) <= 1:
        count = max(min(budget, int((score >= 0).sum())), 0)
        return chosen.index_fill_(0, score.topk(count, sorted=False).indices, True)
    order = score.argsort(descending=True, stable=True)
    fits = (size[order].to(torch.int64).cumsum(0) <= budget) & (score[order] >= 0)
    return chosen.scatter_(0, order, fits)
