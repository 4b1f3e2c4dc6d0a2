"""What FSSL is compared with that isn't a goal of its own pruner."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import fx, nn

from ...errors import UnavailableError
from ..budget import Sparsity
from ..compaction import compacted as compact_graph
from ..compaction import plan_compaction
from ..norms import fold_norms
from ..schedule import Schedule
from ..trace import trace
from .loop import Trainer


class Rival(Protocol):
    def step(self) -> None: ...


def compacted(model: nn.Module, example: torch.Tensor) -> fx.GraphModule:
    """A model's compact form: dead channels, if any, cut away, batch norms moved into the layers before them."""
    graph = trace(model.eval(), example)
    found: Any = compact_graph(graph, plan_compaction(graph, example))
    return fold_norms(found.eval())


def drawn_anew(model: fx.GraphModule, *, seed: int) -> fx.GraphModule:
    """The same architecture with new random weights where there are any; weights that are zero stay zero."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            mask = (module.weight != 0).to(module.weight.dtype)
            fan_in = mask.sum(1, keepdim=True).clamp(min=1)
            with torch.no_grad():
                module.weight.uniform_(-1, 1, generator=generator).mul_(mask * (6 / fan_in).sqrt())
                if module.bias is not None:
                    module.bias.zero_()
            if not bool(mask.all()):
                module.weight.register_hook(lambda g, mask=mask: g * mask.to(g.device))
    return model.train()


class TorchPruning:
    """Torch-Pruning's group-norm pruner (Fang et al. 2023): its regulariser while training, its pruner at decisions,
    until the budget of weights is met. It leaves input features alone."""

    def __init__(self, trainer: Trainer, target: Sparsity, schedule: Schedule, dense_weights: int):
        try:
            import torch_pruning as tp  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise UnavailableError(
                "Method 'torch-pruning' needs Torch-Pruning: pip install 'spdnn[baselines]'."
            ) from error
        self.trainer, self.schedule, self.dense_weights = trainer, schedule, dense_weights
        self.budget = int((1 - target.removed) * dense_weights + 1e-6)
        model: Any = trainer.model
        side = trainer.data.side
        importance: Any = tp.importance
        self.pruner: Any = tp.pruner.GroupNormPruner(
            model,
            torch.zeros(2, *side, device=trainer.device),
            importance=importance.GroupMagnitudeImportance(p=2),
            reg=1e-3,
            iterative_steps=400,
            global_pruning=True,
            pruning_ratio=0.999,
            max_pruning_ratio=0.999,
            ignored_layers=[[m for m in model.modules() if isinstance(m, nn.Linear)][-1]],
            round_to=1,
        )
        self.pruner.update_regularizer()
        self._hook()

    def step(self) -> None:
        trainer = self.trainer
        trainer.step()
        stage, progress = self.schedule.stage(trainer.done, trainer.steps, structured=True)
        if stage != "groups" or (trainer.done % self.schedule.every and progress < 1.0):
            return
        from ..schedule import budget_at

        wanted = max(budget_at(progress, self.dense_weights, self.budget), self.budget)
        for _ in range(400):
            if self._weights() <= wanted:
                break
            self.pruner.step()
        self.pruner.update_regularizer()
        self._renew()

    def _weights(self) -> int:
        return sum(m.weight.numel() for m in self.trainer.model.modules() if isinstance(m, nn.Linear))

    def _hook(self) -> None:
        """Let the regulariser add its gradients just before the optimiser steps."""

        def regularize(*_: Any) -> None:
            if self.trainer.done < self.schedule.weights_end * self.trainer.steps:
                self.pruner.regularize(self.trainer.model)

        self.trainer.optimizer.register_step_pre_hook(regularize)

    def _renew(self) -> None:
        """Pruning makes new parameters: start the optimiser over with them."""
        old = self.trainer.optimizer
        options = {k: v for k, v in old.param_groups[0].items() if k in ("lr", "weight_decay", "fused")}
        self.trainer.optimizer = torch.optim.AdamW(self.trainer.model.parameters(), **options)
        self._hook()
