"""What channels cost and which to give up: targets, prices, and the knapsack that meets a budget exactly."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import numpy as np

from ..errors import InputError
from .latency import TILES, LatencyModel
from .trace import ChannelGraph, Layer


@dataclass(frozen=True)
class Sparsity:
    """Remove this fraction of the Linear layers' weights.

    structured : by whole neurons and input features only, so that what stays is dense; else `groups` is the share of
        the removed weights that goes with neurons and features (stage 1), the rest going as tiles in stage 2.
    tile : outputs × inputs of what stage 2 removes at once; (1, 1) are single weights.
    timed : neurons and features are chosen by what they take on the target device, in place of their weights, where
        times tell more than these do.
    """

    removed: float
    structured: bool = False
    groups: float = 0.5
    tile: tuple[int, int] = (1, 1)
    timed: bool = False

    @property
    def inside(self) -> float:
        """The share of the weights between the neurons and features that stay that stay themselves."""
        return 1.0 if self.structured else (1 - self.removed) / (1 - self.removed * self.groups)

    def __post_init__(self) -> None:
        if not 0 <= self.removed < 1 or not 0 <= self.groups <= 1:
            raise InputError(f"Expected a fraction of weights in [0, 1), got {self.removed} (groups {self.groups}).")
        _check_tile(self.tile)


@dataclass(frozen=True)
class Latency:
    """Reach `ratio` of the dense network's modelled time on the target device.

    density : the share of the weights between the neurons and features that stay; with 1, whole ones alone are removed,
        with less, stage 2 removes single weights, too. None: what promises most by measured time, and the tile that
        does (`inside_for`).
    tile : outputs × inputs of what stage 2 removes at once.
    """

    ratio: float
    density: float | None = 1.0
    tile: tuple[int, int] = (1, 1)
    timed: ClassVar[bool] = True

    @property
    def structured(self) -> bool:
        return self.density == 1

    @property
    def inside(self) -> float:
        return 1.0 if self.density is None else self.density

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise InputError(f"Expected a ratio of the dense time in (0, 1], got {self.ratio}.")
        if self.density is not None and not 0 < self.density <= 1:
            raise InputError(f"Expected a density in (0, 1] or None, got {self.density}.")
        _check_tile(self.tile)


def _check_tile(tile: tuple[int, int]) -> None:
    if len(tile) != 2 or min(tile) < 1:
        raise InputError(f"Expected a tile of at least 1 × 1 weights, got {tile}.")


Target = Sparsity | Latency
Counts = Mapping[int, int]
"""Channels alive in each space."""


class Cost(Protocol):
    @property
    def together(self) -> int:
        """Neighbouring inputs that are brought in at once, so that they had better go together."""
        ...

    def total(self, counts: Counts) -> float: ...

    def prices(self, counts: Counts) -> dict[int, float]:
        """What one channel of each space costs: the derivative of the total."""
        ...

    def savings(self, counts: Counts, prices: Mapping[int, float]) -> Mapping[int, float]:
        """What giving up a channel of each space saves, on the way to the next count at which the total falls; `prices`
        are those of the same counts."""
        ...


@dataclass(frozen=True, eq=False)
class WeightCost:
    """Weights of dense layers between the channels alive."""

    graph: ChannelGraph
    together = 1

    def total(self, counts: Counts) -> float:
        return float(sum(counts[layer.reads] * counts[layer.writes] for layer in self.graph.layers.values()))

    def prices(self, counts: Counts) -> dict[int, float]:
        found = dict.fromkeys(self.graph.spaces, 0.0)
        for layer in self.graph.layers.values():
            found[layer.reads] += counts[layer.writes]
            found[layer.writes] += counts[layer.reads]
        return found

    def savings(self, counts: Counts, prices: Mapping[int, float]) -> Mapping[int, float]:
        return prices


@dataclass(frozen=True, eq=False)
class TimeCost:
    """Modelled milliseconds of layers between the channels alive; a layer called twice counts twice.

    Input features that went save time in the layers that read the input, less what picking the others costs; where that
    is more, the whole input is read.
    density, tile : the share of its weights that a layer has (but for one that writes the output, which has all), and
        the tiles that they are in.
    """

    graph: ChannelGraph
    model: LatencyModel
    density: float = 1.0
    tile: tuple[int, int] = (1, 1)

    @property
    def together(self) -> int:
        return self.model.facts.get("together", 1)

    def total(self, counts: Counts) -> float:
        graph, found = self.graph, self.model.overhead
        for layer in graph.layers.values():
            if layer.reads != graph.input_space:
                found += len(layer.calls) * self._layer(layer, counts[layer.reads], counts[layer.writes])
        return found + self._input(counts, counts[graph.input_space])

    def prices(self, counts: Counts) -> dict[int, float]:
        graph, found = self.graph, dict.fromkeys(self.graph.spaces, 0.0)
        for layer in graph.layers.values():
            inputs = counts[layer.reads]
            if layer.reads == graph.input_space and not self._picks(counts):
                inputs = self._all
            by_input, by_output = self.model.slopes(inputs, counts[layer.writes], self._density(layer), self.tile)
            if layer.reads != graph.input_space:
                found[layer.reads] += len(layer.calls) * by_input
            found[layer.writes] += len(layer.calls) * by_output
        k = graph.input_space
        fewer = max(int(0.75 * counts[k]), 1)
        if fewer < counts[k]:
            saved = self._input(counts, counts[k]) - self._input(counts, fewer)
            found[k] += max(saved, 0.0) / (counts[k] - fewer)
        return found

    def savings(self, counts: Counts, prices: Mapping[int, float]) -> Mapping[int, float]:
        """The prices, but where layers take as long as those of the next multiples: a channel's share of what is saved
        by giving up all down to the multiple below, so that the few that begin a panel are dear."""
        multiple = math.lcm(*self.model.multiples)
        if multiple == 1:
            return prices
        found, total = dict(prices), self.total(counts)
        for k in found:
            fewer = (counts[k] - 1) // multiple * multiple
            if fewer > 0 and k != self.graph.input_space:
                saved = total - self.total({**counts, k: fewer})
                found[k] = max(saved, 0.0) / (counts[k] - fewer)
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
        found = self.model.select(inputs) if inputs < self._all or self.model.chains else 0.0
        for layer in self.graph.readers(self.graph.input_space):
            writes = inputs if layer.writes == self.graph.input_space else counts[layer.writes]
            found += len(layer.calls) * self._layer(layer, inputs, writes)
        return found

    def _layer(self, layer: Layer, inputs: int, outputs: int) -> float:
        return self.model.scattered(inputs, outputs, self._density(layer), self.tile)

    def _density(self, layer: Layer) -> float:
        return 1.0 if self.graph.spaces[layer.writes].fixed else self.density


WORTH = 0.45
"""A network of n weights among e places is taken to be as good as a dense one of e^WORTH n^(1 - WORTH) weights: what
fits the held-out accuracies of 31 kinds of networks on MNIST (784-300-100-10; `split` of fssl_campaign.py) best."""
TILE_WORTH: Mapping[tuple[int, int], float] = {(1, 1): 1.0, (2, 1): 0.74}
"""What a weight of a tile is taken to be worth against one by itself, fitted in the same way."""
DENSITIES = (1.0, 0.7, 0.5, 0.35, 0.25, 0.18, 0.13, 0.1)


def inside_for(graph: ChannelGraph, model: LatencyModel, ratio: float) -> tuple[float, tuple[int, int]]:
    """How dense to leave what stays and in what tiles, for this share of the dense network's time: what promises most
    by the device.

    For each density, and each tile the device has a format for, all prunable spaces shrink alike until the modelled
    time is met; the most worth (`WORTH`, `TILE_WORTH`) wins. Where zeros cost as much as weights, nothing is gained by
    them, and the density is 1.
    """
    budget = ratio * TimeCost(graph, model).total(graph.sizes)
    best, most = (1.0, (1, 1)), 0.0
    tiles = [tile for tile in TILE_WORTH if tile == (1, 1) or TILES.get(model.format_of(tile)) == tile]
    for density, tile in itertools.product(DENSITIES, tiles):
        if density == 1 and tile != (1, 1):  # without zeros all tiles are the same
            continue
        cost = TimeCost(graph, model, density, tile)
        low, high = 0.0, 1.0
        for _ in range(20):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if cost.total(shrunk(graph, middle)) <= budget else (low, middle)
        entries = WeightCost(graph).total(shrunk(graph, low))
        worth = entries * (density * TILE_WORTH[tile]) ** (1 - WORTH)
        if cost.total(shrunk(graph, low)) <= budget and worth > most:
            best, most = (density, tile), worth
    return best


def settled(target: Latency, graph: ChannelGraph, model: LatencyModel, ratio: float | None = None) -> Latency:
    """The target with the density and the tile that `inside_for` chooses, for another ratio where one is given; as it
    is, if it has a density."""
    if target.density is not None:
        return target
    density, tile = inside_for(graph, model, target.ratio if ratio is None else ratio)
    return replace(target, density=density, tile=tile)


def time_cost(target: Target, graph: ChannelGraph, model: LatencyModel) -> TimeCost:
    """Modelled time of networks that are as dense inside as the target has them, and in its tiles."""
    return TimeCost(graph, model, target.inside, target.tile)


def shrunk(graph: ChannelGraph, share: float) -> dict[int, int]:
    """This share of every space that may lose channels, one of each at least."""
    return {k: n if graph.spaces[k].fixed else max(round(share * n), 1) for k, n in graph.sizes.items()}


@dataclass(frozen=True, eq=False)
class GuidedCost:
    """The budget of one cost, less a constant, the prices of another: what choosing by the wrong prices comes to."""

    budget: Cost
    guide: Cost
    less: float = 0.0

    @property
    def together(self) -> int:
        return self.guide.together

    def total(self, counts: Counts) -> float:
        return self.budget.total(counts) - self.less

    def prices(self, counts: Counts) -> dict[int, float]:
        return self.guide.prices(counts)

    def savings(self, counts: Counts, prices: Mapping[int, float]) -> Mapping[int, float]:
        return self.guide.savings(counts, prices)


def cost_of(target: Target, graph: ChannelGraph, latency: LatencyModel | None) -> Cost:
    """What a target's budget is of and its channels cost. A latency's density is chosen. Where times tell no more than
    weights do (`LatencyModel.tells_more_than_weights`), channels of a sparsity that is timed cost their weights.

    Warns of that. Raises InputError where a target of time comes without a model of it.
    """
    if not target.timed:
        return WeightCost(graph)
    if latency is None:
        raise InputError("Expected a latency model for a target of time.")
    time = time_cost(target, graph, latency)
    if isinstance(target, Latency):
        return time
    if not latency.tells_more_than_weights(dense=target.structured):
        latency.warn_of_weights()
        return WeightCost(graph)
    return GuidedCost(WeightCost(graph), time)


@dataclass(frozen=True, eq=False)
class SwappedCost:
    """A cost charged to the wrong spaces: as much of `payers[k]` as lives in space k is paid for.

    sizes : channels of every space to begin with. From one channel in each to all of them it is the cost itself.
    """

    cost: Cost
    payers: Mapping[int, int]
    sizes: Counts

    @property
    def together(self) -> int:
        return self.cost.together

    def total(self, counts: Counts) -> float:
        return self.cost.total(self._charged(counts))

    def prices(self, counts: Counts) -> dict[int, float]:
        return self._by_payer(self.cost.prices(self._charged(counts)))

    def savings(self, counts: Counts, prices: Mapping[int, float]) -> Mapping[int, float]:
        charged = self._charged(counts)
        return self._by_payer(self.cost.savings(charged, self.cost.prices(charged)))

    def _charged(self, counts: Counts) -> dict[int, int]:
        paid = {j: max(1 + round((counts[k] - 1) * self._scale(k)), 0) for k, j in self.payers.items()}
        return {**counts, **paid}

    def _by_payer(self, values: Mapping[int, float]) -> dict[int, float]:
        return {**values, **{k: values[j] * self._scale(k) for k, j in self.payers.items()}}

    def _scale(self, k: int) -> float:
        return (self.sizes[self.payers[k]] - 1) / max(self.sizes[k] - 1, 1)


def knapsack(
    cost: Cost, counts: Counts, importance: Mapping[int, np.ndarray], budget: float, *, least: int = 1
) -> dict[int, np.ndarray]:
    """Choose channels to give up so that the cost of the others is within the budget and nothing more would fit.

    counts : channels alive in every space. importance : float (channels,) for each space that may lose some, NaN for
    channels already dead. Greedy by importance per saving, savings renewed as channels go; then given-up channels that
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
        savings = cost.savings(counts, prices)
        if total - budget < 2 * renew * max((prices[k] for k in order), default=0.0):
            renew = 1
        for _ in range(renew):
            worth = {
                k: float(importance[k][order[k][taken[k]]])
                for k in order
                if counts[k] > least and taken[k] < len(order[k])
            }
            scores = {k: value / max(savings[k], 1e-30) for k, value in worth.items()}
            if not scores:
                raise InputError(
                    f"The budget {budget:.4g} can't be met: with {least} channel(s) per layer the cost is "
                    f"{cost.total(counts):.4g}. Ask for less."
                )
            k = min(scores, key=scores.__getitem__)
            removed.append((worth[k] / max(prices[k], 1e-30), k, int(order[k][taken[k]])))
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
