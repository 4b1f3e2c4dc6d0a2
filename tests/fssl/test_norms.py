"""Batch norms go into the layers before them, and nothing changes."""

from __future__ import annotations

import fssl_models
import pytest
import torch
from torch import nn

from spdnn.fssl import fold_norms
from spdnn.fssl.compaction import compacted as compact_graph
from spdnn.fssl.compaction import plan_compaction
from spdnn.fssl.training import dense_network
from spdnn.fssl.training.rivals import compacted, trace


def norms(model: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm1d) for m in model.modules())


@pytest.mark.parametrize("seed", range(30))
def test_random_networks_stay_what_they_were(seed: int) -> None:
    model = fssl_models.RandomNetwork(seed).eval()
    x = model.example()
    graph = trace(model, x)
    small = compact_graph(graph, plan_compaction(graph, x)).eval()
    folded = fold_norms(small)  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(folded(x), model(x), rtol=1e-5, atol=1e-5)
    assert norms(folded) <= norms(small)
    torch.testing.assert_close(small(x), model(x), rtol=1e-5, atol=1e-5)


def test_a_chain_keeps_no_norm_and_all_its_zeros() -> None:
    model = dense_network([16, 8, 6, 3], seed=1, norm=True)
    assert norms(model) == 2
    model(torch.rand(40, 4, 4))
    with torch.no_grad():
        model[1].weight.mul_(torch.rand(8, 16) < 0.4)  # pyright: ignore[reportArgumentType]
    small = compacted(model, torch.zeros(2, 4, 4))
    assert norms(small) == 0
    assert int(torch.count_nonzero(small.get_submodule("1").weight)) == int(torch.count_nonzero(model[1].weight))  # pyright: ignore
    x = torch.rand(5, 4, 4)
    torch.testing.assert_close(small(x), model.eval()(x), rtol=1e-5, atol=1e-5)


def test_what_does_not_follow_a_linear_stays() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.BatchNorm1d(5), nn.Linear(5, 2))
    model(torch.randn(30, 4))
    small = compacted(model, torch.zeros(2, 4))
    assert norms(small) == 1
