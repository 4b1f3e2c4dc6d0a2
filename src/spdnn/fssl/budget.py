"""What channels cost and which to give up: targets, prices, and the knapsack that meets a budget exactly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..errors import InputError
from .latency import LatencyModel
from .trace import ChannelGraph


@dataclass(frozen=True)
class Sparsity:
    """Remove this fraction of the Linear layers' weights.

    structured : by whole neurons and input features only, so that what stays is dense; else `groups` is the share of
        the removed weights that goes with neurons and features (stage 1), the rest going as tiles in stage 2.
    tile : outputs × inputs of what stage 2 removes at once; (1, 1) are single weights.
    """

    removed: float
    structured: bool = False
    groups: float = 0.5
    tile: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        if not 0 <= self.removed < 1 or not 0 <= self.groups <= 1:
            raise InputError(f"Expected a fraction of weights in [0, 1), got {self.removed} (groups {self.groups}).")
        if len(self.tile) != 2 or min(self.tile) < 1:
            raise InputError(f"Expected a tile of at least 1 × 1 weights, got {self.tile}.")


@dataclass(frozen=True)
class Latency:
    """Reach `ratio` of the dense network's modelled time on the target device, by whole neurons and features."""

    ratio: float

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise InputError(f"Expected a ratio of the dense time in (0, 1], got {self.ratio}.")


Target = Sparsity | Latency
Counts = Mapping[int, int]
"""Channels alive in each space."""


class Cost(Protocol):
    def total(self, counts: Counts) -> float: ...

    def prices(self, counts: Counts) -> dict[int, float]:
        """What one channel of each space costs: the derivative of the total."""
        ...


@dataclass(frozen=True, eq=False)
class WeightCost:
    """Weights of dense layers between the channels alive."""

    graph: ChannelGraph

    def total(self, counts: Counts) -> float:
        return float(sum(counts[layer.reads] * counts[layer.writes] for layer in self.graph.layers.values()))

    def prices(self, counts: Counts) -> dict[int, float]:
        found = dict.fromkeys(self.graph.spaces, 0.0)
        for layer in self.graph.layers.values():
            found[layer.reads] += counts[layer.writes]
            found[layer.writes] += counts[layer.reads]
        return found


@dataclass(frozen=True, eq=False)
class TimeCost:
    """Modelled milliseconds of dense layers between the channels alive; a layer called twice counts twice.

    Input features that went save time in the layers that read the input, less what picking the others costs; where that
    is more, the whole input is read.
    """

    graph: ChannelGraph
    model: LatencyModel

    def total(self, counts: Counts) -> float:
        graph, found = self.graph, 0.0
        for layer in graph.layers.values():
            if layer.reads != graph.input_space:
                found += len(layer.calls) * self.model.layer(counts[layer.reads], counts[layer.writes])
        return found + self._input(counts, counts[graph.input_space])

    def prices(self, counts: Counts) -> dict[int, float]:
        graph, found = self.graph, dict.fromkeys(self.graph.spaces, 0.0)
        for layer in graph.layers.values():
            inputs = counts[layer.reads]
            if layer.reads == graph.input_space and not self._picks(counts):
                inputs = self._all
            by_input, by_output = self.model.slopes(inputs, counts[layer.writes])
            if layer.reads != graph.input_space:
                found[layer.reads] += len(layer.calls) * by_input
            found[layer.writes] += len(layer.calls) * by_output
        k = graph.input_space
        fewer = max(int(0.75 * counts[k]), 1)
        if fewer < counts[k]:
            saved = self._input(counts, counts[k]) - self._input(counts, fewer)
            found[k] += max(saved, 0.0) / (counts[k] - fewer)
        return found

    @property
    def _all(self) -> int:
        return self.graph.inputs

    def _picks(self, counts: Counts) -> bool:
        k = self.graph.input_space
        return counts[k] < self._all and self._reading(counts, counts[k]) < self._reading(counts, self._all)

    def _input(self, counts: Counts, inputs: int) -> float:
        """Of what reads the input, with so many features alive."""
        return min(self._reading(counts, inputs), self._reading(counts, self._all))

    def _reading(self, counts: Counts, inputs: int) -> float:
        found = self.model.select(inputs) if inputs < self._all else 0.0
        for layer in self.graph.readers(self.graph.input_space):
            writes = inputs if layer.writes == self.graph.input_space else counts[layer.writes]
            found += len(layer.calls) * self.model.layer(inputs, writes)
        return found


@dataclass(frozen=True, eq=False)
class GuidedCost:
    """The budget of one cost, the prices of another: what choosing by the wrong prices comes to."""

    budget: Cost
    guide: Cost

    def total(self, counts: Counts) -> float:
        return self.budget.total(counts)

    def prices(self, counts: Counts) -> dict[int, float]:
        return self.guide.prices(counts)


def knapsack(
    cost: Cost, counts: Counts, importance: Mapping[int, np.ndarray], budget: float, *, least: int = 1
) -> dict[int, np.ndarray]:
    """Choose channels to give up so that the cost of the others is within the budget and nothing more would fit.

    counts : channels alive in every space. importance : float (channels,) for each space that may lose some, NaN for
    channels already dead. Greedy by importance per price, prices renewed as channels go; then given-up channels that
    still fit are taken back, the most important first. `least` channels of a space always stay.

    Returns bool (channels,) for each space: which go. Raises InputError where even the least costs more than that.
    """
    counts = dict(counts)
    order = {k: np.argsort(values, kind="stable")[: int((~np.isnan(values)).sum())] for k, values in importance.items()}
    taken = dict.fromkeys(order, 0)
    removed: list[tuple[float, int, int]] = []
    renew = max(1, sum(map(len, order.values())) // 400)
    while (total := cost.total(counts)) > budget:
        prices = cost.prices(counts)
        if total - budget < 2 * renew * max((prices[k] for k in order), default=0.0):
            renew = 1
        for _ in range(renew):
            scores = {
                k: float(importance[k][order[k][taken[k]]]) / max(prices[k], 1e-30)
                for k in order
                if counts[k] > least and taken[k] < len(order[k])
            }
            if not scores:
                raise InputError(
                    f"The budget {budget:.4g} can't be met: with {least} channel(s) per layer the cost is "
                    f"{cost.total(counts):.4g}. Ask for less."
                )
            k = min(scores, key=scores.__getitem__)
            removed.append((scores[k], k, int(order[k][taken[k]])))
            taken[k] += 1
            counts[k] -= 1
    gone = {k: np.zeros(values.size, bool) for k, values in importance.items()}
    for _, k, channel in removed:
        gone[k][channel] = True
    for _, k, channel in sorted(removed, reverse=True):
        counts[k] += 1
        if cost.total(counts) <= budget:
            gone[k][channel] = False
        else:
            counts[k] -= 1
    return gone
