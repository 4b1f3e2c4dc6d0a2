"""Tracing: which channels are coupled, and what is refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fssl_models import mlp
from torch import nn
from torch.nn.utils import prune

from spdnn.errors import InputError
from spdnn.fssl.trace import trace


def test_a_chain_has_a_space_between_any_two_layers() -> None:
    graph = trace(mlp(5, 4, 3, 2), torch.randn(2, 5))
    sizes = [(graph.spaces[layer.reads].size, graph.spaces[layer.writes].size) for layer in graph.layers.values()]
    assert sizes == [(5, 4), (4, 3), (3, 2)]
    assert graph.spaces[graph.input_space].size == 5
    fixed = [space.fixed for space in graph.spaces.values()]
    assert fixed == [None, None, None, "it is the output"]


def test_sums_couple_the_channels_of_their_terms() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.norm, self.head = nn.Linear(6, 4), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = F.relu(self.a(torch.flatten(x, 1)))
            return F.log_softmax(self.head(x + self.norm(self.b(x))), dim=1)

    graph = trace(Residual(), torch.randn(2, 2, 3))
    a, b, head = graph.layers.values()
    assert a.writes == b.reads == b.writes == head.reads
    assert graph.spaces[a.writes].norms == ["norm"]
    assert graph.spaces[head.writes].fixed


def test_a_layer_called_twice_is_one_layer() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 2)
            self.again = self.layer

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.again(self.layer(x).relu()))

    graph = trace(Shared(), torch.randn(2, 4))
    assert list(graph.layers) == ["layer", "head"]
    assert graph.layers["layer"].reads == graph.layers["layer"].writes == graph.input_space
    assert len(graph.layers["layer"].calls) == 2


class _Forward(nn.Module):
    def __init__(self, call) -> None:
        super().__init__()
        self.call, self.a, self.b = call, nn.Linear(4, 4), nn.Linear(4, 2)
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.call(self, self.a(x)))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2)), r"Module '1' \(LayerNorm\)"),
        (nn.Sequential(nn.Linear(4, 4), nn.ModuleDict({"x": nn.GLU()})["x"], nn.Linear(2, 2)), r"Module '1' \(GLU\)"),
        (nn.Sequential(nn.Bilinear(4, 4, 4)), "Bilinear|Missing|missing"),
        (_Forward(lambda self, x: x * self.scale), "'scale' is used outside a module"),
        (_Forward(lambda self, x: torch.cat([x, x], 1)[:, :4]), "cat"),
        (_Forward(lambda self, x: x + x.mean(1, keepdim=True)), "mean"),
        (_Forward(lambda self, x: x.view(-1, 4, 1).view(-1, 4)), "view"),
        (_Forward(lambda self, x: x if x.sum() > 0 else -x), "can't be traced"),
        (_Forward(lambda self, x: x / (x + 2)), "equal shapes"),
        (nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 2)), "Module '0'|0.param"),
        (nn.Sequential(prune.identity(nn.Linear(4, 4), "weight"), nn.Linear(4, 2)), "Module '0'.*computes its weight"),
    ],
)
def test_anything_else_is_refused_by_name(model: nn.Module, message: str) -> None:
    with pytest.raises(InputError, match=message):
        trace(model, torch.randn(3, 4))


def test_a_name_to_ignore_must_exist() -> None:
    with pytest.raises(InputError, match="Unknown module"):
        trace(mlp(4, 3, 2), torch.randn(2, 4), ignore=["layer0"])
    with pytest.raises(InputError, match="holds none"):
        trace(mlp(4, 3, 2), torch.randn(2, 4), ignore=["1"])


def test_the_example_must_run() -> None:
    with pytest.raises(InputError, match=r"shape \(2, 5\)"):
        trace(mlp(4, 3, 2), torch.randn(2, 5))
    with pytest.raises(InputError, match="example input"):
        trace(mlp(4, 3, 2), torch.randn(4))
