"""FSSL: learn a compact network in two stages under one loss of error, sparsity and processing time.

After Wang et al., "Performance of Training Sparse Deep Neural Networks on GPUs", HPEC 2019, §I-II (a sketch there):
inter-channel, then intra-channel redundancy is removed while training goes on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import nn

from ..errors import InputError
from . import compaction
from .budget import Cost, GuidedCost, Latency, Target, TimeCost, WeightCost, cost_of, settled, time_cost
from .latency import LatencyModel, latency_model, measure
from .pruner import Goal, Pruner
from .schedule import Schedule
from .trace import ChannelGraph, trace


class FSSL:
    """Makes a model sparse and compact while it is trained.

        fssl = FSSL(model, example_input, target=Latency(0.1), steps=epochs * len(batches))
        fssl.prepare(optimizer)
        for x, y in batches of all epochs:
            optimizer.zero_grad(); loss(model(x), y).backward(); optimizer.step()
            fssl.step()
        small = fssl.compact()

    model : see `trace` for what it may hold; it is trained in place, and shrinks in place.
    example_input : (batch, …); its batch is the one latency is modelled and measured at.
    target : `Sparsity` or `Latency`. steps : optimiser steps of the whole training.
    device : where latency counts, for torch. latency : its model; measured (and cached) where the target needs it,
        and refused for a latency where it predicts nothing (`LatencyModel.credible`).
    cost : what channels cost, in place of the weights or the modelled time, for experiments. dense_cost : what the
        dense network costs then, where that isn't what its channels come to.
    ignore : names of layers to leave alone. round_to : keep multiples of this many channels where there are as many.
    keep_zeros : weights that are zero at the start stay zero: the model starts sparse.

    Raises InputError for models it can't handle, by the name of the module, and, if a latency is the target, for a
    latency model that predicts nothing. Warns where a sparsity is timed and goes by weights, as times tell no more.
    """

    def __init__(
        self,
        model: nn.Module,
        example_input: torch.Tensor,
        *,
        target: Target,
        steps: int,
        device: str = "cpu",
        latency: LatencyModel | None = None,
        cost: Cost | None = None,
        dense_cost: float | None = None,
        schedule: Schedule | None = None,
        ignore: Iterable[str] = (),
        round_to: int = 1,
        keep_zeros: bool = False,
    ):
        if steps < 1 or round_to < 1:
            raise InputError(f"Expected steps and round_to of at least 1, got {steps} and {round_to}.")
        self.model, self.example, self.device = model, example_input, device
        self.schedule, self.round_to = schedule or Schedule(), round_to
        self.graph: ChannelGraph = trace(model, example_input, ignore=ignore)
        self.dense_widths = self.graph.sizes
        if latency is None and target.timed:
            widest = max(self.dense_widths.values())
            latency = latency_model(device, batch=example_input.shape[0], limit=widest)
        self.latency = latency
        if isinstance(target, Latency):
            assert latency is not None
            if cost is None:
                latency.require_credible(dense=target.structured)
            target = settled(target, self.graph, latency)
            if target.inside < 1 and dense_cost is None:
                dense_cost = TimeCost(self.graph, latency).total(self.dense_widths)
        goal = Goal(target, self.schedule, cost or cost_of(target, self.graph, latency), dense_cost)
        self.target = target
        self.pruner = Pruner(self.graph, [goal], steps=steps, keep_zeros=keep_zeros)
        self.kept = {k: torch.arange(size) for k, size in self.dense_widths.items()}
        self.optimizers: list[torch.optim.Optimizer] = []

    def prepare(self, *optimizers: torch.optim.Optimizer) -> None:
        """Name the optimisers: their state shrinks with the model, and the first one's learning rate is that of the
        proximal steps. Call it before training and before `load_state_dict`."""
        self.optimizers = list(optimizers)

    def step(self, rate: float | None = None) -> None:
        """Call it after every `optimizer.step()`, before gradients are cleared. rate : the optimiser's learning rate,
        for one that keeps it on a GPU, where reading it means waiting."""
        if not self.optimizers:
            raise InputError("Expected prepare(optimizer) to be called before step().")
        rate = float(self.optimizers[0].param_groups[0]["lr"]) if rate is None else rate
        if self.pruner.step(rate) and self.schedule.shrink < 1:
            self._shrink()

    @property
    def priced_by(self) -> Literal["time", "weights"]:
        """What channels cost: a sparsity has weights, and one that is timed has them, too, where times tell no more."""
        cost = self.pruner.goals[0].cost
        prices = cost.guide if isinstance(cost, GuidedCost) else cost
        return "weights" if isinstance(prices, WeightCost) else "time"

    @property
    def done(self) -> int:
        """Steps done."""
        return self.pruner.done

    def compact(self) -> nn.Module:
        """The network as it is now, physically smaller; it computes what the masked one does, in eval mode, to 1e-5.

        An `fx.GraphModule` of new modules, independent of the model; `save_model` writes it.
        """
        plan = compaction.plan_compaction(self.graph, self.example, round_to=self.round_to)
        return compaction.compacted(self.graph, plan)

    def live(self) -> list[int]:
        """Live inputs and neurons per layer, in the order of the layers."""
        counts = self.pruner.counts()
        layers = list(self.graph.layers.values())
        return [counts[k] for k in (layers[0].reads, *(layer.writes for layer in layers))]

    def penalty(self) -> dict[str, float]:
        """The fused loss's terms beside the error: `sparsity` and `time`."""
        return self.pruner.penalty()

    def report(self, *, measured: bool = True) -> dict[str, Any]:
        """Flat facts of the compact network, see `facts_of`; with the latency model's `latency_model_ms`,
        `latency_model_dense_ms` and `latency_model_spearman` (of shapes left out of its fit), with what channels are
        `priced_by`, "time" or "weights", and, where `measured`, `latency_ms` of the network at the example's batch."""
        small = self.compact().eval()
        facts = {**facts_of(small, self.pruner.dense_weights), "steps": self.done}
        facts |= {"device": self.device, "batch": self.example.shape[0]}
        if self.latency is not None:
            widths = compaction.plan_compaction(self.graph, self.example, round_to=self.round_to).widths()
            facts["latency_model_ms"] = time_cost(self.target, self.graph, self.latency).total(widths)
            facts["latency_model_dense_ms"] = TimeCost(self.graph, self.latency).total(self.dense_widths)
            facts["latency_model_spearman"] = self.latency.cross_validation
        facts["priced_by"] = self.priced_by
        if measured:
            facts["latency_ms"] = measure(small.to(self.device), self.example.to(self.device))
        return facts

    def state_dict(self) -> dict[str, Any]:
        """Where training stands. With the model's and the optimiser's states it resumes exactly; see `save_state`."""
        selected = self.graph.selected
        return {
            "pruner": self.pruner.state_dict(),
            "kept": {str(k): v.clone() for k, v in self.kept.items()},
            "selected": None if selected is None else selected.cpu().clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state. The model must be as it was when FSSL was made; it is cut to the state's shapes.

        Call `prepare` before, and load the model's and the optimiser's own states afterwards.
        Raises InputError where the state is that of another model, target or schedule.
        """
        keep = {int(k): v for k, v in state["kept"].items()}
        if self.done or set(keep) != set(self.kept):
            raise InputError("Expected the state of this model, and FSSL as it was made, without steps done.")
        if any(v.numel() > self.kept[k].numel() or int(v.max()) >= self.kept[k].numel() for k, v in keep.items()):
            raise InputError("Expected the state of this model, got one with other widths.")
        compaction.shrink_(self.graph, compaction.Compaction(keep, {}), self.optimizers)
        self.kept = keep
        self.pruner.load_state_dict(state["pruner"])

    def _shrink(self) -> None:
        """Cut away what is dead, once there is enough of it."""
        sizes = self.graph.sizes
        inputs = compaction.can_select_inputs(self.graph)
        plan = compaction.plan_compaction(self.graph, self.example, round_to=self.round_to, fold=False, inputs=inputs)
        if max(1 - width / sizes[k] for k, width in plan.widths().items()) < max(self.schedule.shrink, 1e-9):
            return
        compaction.shrink_(self.graph, plan, self.optimizers)
        keep = dict(plan.keep)
        self.kept = {k: self.kept[k][keep[k]] for k in self.kept}
        self.pruner.cut(keep)


def facts_of(model: nn.Module, dense_weights: int) -> dict[str, Any]:
    """What a network has: `weights` that are not zero, `weights_removed` (a fraction of `dense_weights`), `entries`
    (weights of its matrices, zeros included), `architecture` (widths, those of the inputs it reads first)."""
    layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
    weights = sum(int(torch.count_nonzero(m.weight)) for m in layers)
    return {
        "weights": weights,
        "weights_dense": dense_weights,
        "weights_removed": 1 - weights / dense_weights,
        "entries": sum(m.weight.numel() for m in layers),
        "architecture": [layers[0].in_features, *(m.out_features for m in layers)],
    }
