"""A fleet computes, learns and prunes what its members would alone."""

from __future__ import annotations

import pytest
import torch
from fssl_models import RandomNetwork, mlp
from torch import nn

from spdnn.errors import InputError
from spdnn.fssl import FSSL, Schedule, Sparsity
from spdnn.fssl.budget import WeightCost
from spdnn.fssl.fleet import Fleet
from spdnn.fssl.pruner import Goal, Pruner


@pytest.mark.parametrize("seed", range(8))
def test_outputs_are_those_of_the_members(seed: int) -> None:
    models = []
    for k in range(3):
        model = RandomNetwork(seed)
        torch.manual_seed(100 + k)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_()
        models.append(model.eval())
    x = torch.stack([model.example(5) for model in models])
    fleet = Fleet(models, x[0]).eval()
    with torch.no_grad():
        found = fleet(x)
        for k, model in enumerate(models):
            torch.testing.assert_close(found[k], model(x[k]), atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(fleet.member(k)(x[k]), model(x[k]))


def test_members_learn_and_are_pruned_as_they_would_be_alone() -> None:
    steps, inputs = 60, 12
    targets = [Sparsity(0.8), Sparsity(0.9, groups=0.2), Sparsity(0.7, structured=True)]
    schedules = [Schedule(0.1, 0.5, 0.8, every=5, prox_every=2, shrink=1.0, penalty=p) for p in (0.0, 0.1, 0.02)]
    torch.manual_seed(1)
    x = torch.randn(3, 64, inputs, dtype=torch.float64)
    y = x[:, :, :3].argmax(2)
    models = []
    for k in range(3):
        torch.manual_seed(k)
        models.append(mlp(inputs, 10, 8, 3).double())
    fleet = Fleet(models, x[0])
    cost = WeightCost(fleet.graph)
    pruner = Pruner(fleet.graph, [Goal(t, s, cost) for t, s in zip(targets, schedules, strict=True)], steps=steps)
    optimizer = torch.optim.SGD(fleet.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        logits = fleet(x)
        nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum").div(64).backward()
        optimizer.step()
        pruner.step(0.05)
    for k, model in enumerate(models):
        fssl = FSSL(model, x[k], target=targets[k], steps=steps, schedule=schedules[k])
        alone = torch.optim.SGD(model.parameters(), lr=0.05)
        fssl.prepare(alone)
        for _ in range(steps):
            alone.zero_grad()
            nn.functional.cross_entropy(model(x[k]), y[k]).backward()
            alone.step()
            fssl.step()
        member = fleet.member(k)
        for a, b in zip(member.parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(a, b)
        assert pruner.weights(k) == fssl.pruner.weights()
        assert pruner.counts(k) == fssl.pruner.counts()


def test_networks_must_be_of_one_architecture() -> None:
    with pytest.raises(InputError, match="one architecture"):
        Fleet([mlp(4, 3, 2), mlp(4, 5, 2)], torch.zeros(2, 4))
    with pytest.raises(InputError, match="mixes"):
        Fleet([nn.Sequential(nn.Linear(4, 3), nn.Softmax(1))], torch.zeros(2, 4))
