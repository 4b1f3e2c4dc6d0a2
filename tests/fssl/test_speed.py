"""Timing a network with every engine there is for it."""

from __future__ import annotations

import pytest
import torch
from fssl_models import RandomNetwork, mlp, sparsify

from spdnn.fssl.compaction import compacted, plan_compaction
from spdnn.fssl.convert import to_sparse_network
from spdnn.fssl.speed import fastest
from spdnn.fssl.trace import trace
from spdnn.nn.compiled import fastest_forms


def test_the_best_engine_counts() -> None:
    model = mlp(40, 30, 20, 5).eval()
    sparsify(model, 2)
    x = torch.rand(8, 40)
    graph = trace(model, x)
    found = fastest(compacted(graph, plan_compaction(graph, x)), x, rounds=1, seconds=0.001)
    assert found.ms == min(found.all.values()) > 0
    assert {"torch", "torch-traced", "spdnn-numba", "spdnn-compiled"} <= set(found.all)
    assert set(found.formats) == {"0", "2", "4"}


def test_an_engine_that_cannot_run_a_network_says_why() -> None:
    model = RandomNetwork(3).eval()
    found = fastest(model, model.example(4), rounds=1, seconds=0.001)
    assert "torch" in found.all
    assert "compact" in found.skipped["spdnn-numba"]
    assert "compact" in found.skipped["spdnn-compiled"]


@pytest.mark.parametrize("rows", [1, 8, 128])
def test_the_compiled_network_gives_what_the_module_gives(rows: int) -> None:
    model = mlp(40, 30, 20, 5).eval()
    sparsify(model, 2)
    x = torch.rand(rows, 40)
    graph = trace(model, x)
    small = compacted(graph, plan_compaction(graph, x)).eval()
    compiled = fastest_forms(to_sparse_network(small, inputs=40), x.numpy(), seconds=0.0005, rounds=1)
    with torch.inference_mode():
        torch.testing.assert_close(torch.from_numpy(compiled(x.numpy())), small(x), rtol=1e-5, atol=1e-5)
