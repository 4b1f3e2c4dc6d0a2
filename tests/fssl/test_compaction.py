"""Compaction: the small network computes what the masked one does."""

from __future__ import annotations

import copy

import pytest
import torch
from fssl_models import RandomNetwork, mlp, sparsify
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from spdnn.fssl.compaction import can_select_inputs, compacted, plan_compaction, shrink_
from spdnn.fssl.ops import Select
from spdnn.fssl.trace import trace


def assert_equal(a: torch.Tensor, b: torch.Tensor) -> None:
    scale = max(1.0, b.abs().max().item())
    assert (a - b).abs().max().item() <= 1e-5 * scale


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**31), round_to=st.sampled_from([1, 2, 4]))
def test_outputs_equal_those_of_the_masked_network(seed: int, round_to: int) -> None:
    model = RandomNetwork(seed).eval()
    sparsify(model, seed)
    x = model.example(7)
    graph = trace(model, x)
    plan = plan_compaction(graph, x, round_to=round_to)
    small = compacted(graph, plan)
    with torch.no_grad():
        assert_equal(small(x), model(x))
        other = model.example(6)
        assert_equal(small(other), model(other))
    for k, keep in plan.keep.items():
        full = graph.spaces[k].size
        assert keep.numel() == full or keep.numel() % round_to == 0 or graph.spaces[k].fixed


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**31))
@example(seed=26602)  # all is constant; a kept channel would be computed from one that is gone
def test_shrinking_in_place_changes_neither_outputs_nor_the_next_update(seed: int) -> None:
    model = RandomNetwork(seed).double()  # Adam makes much of the rounding of gradients near zero
    sparsify(model, seed)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    x, target = model.example(8).double(), torch.arange(8) % 3
    twin = copy.deepcopy(model)
    outputs = []
    for net, shrinks in ((twin, False), (model, True)):
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
        graph = trace(net, x)

        def update(net=net, optimizer=optimizer) -> None:
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), target).backward()
            masks = [(m, m.weight != 0) for m in net.modules() if isinstance(m, nn.Linear)]
            optimizer.step()
            with torch.no_grad():
                for module, mask in masks:
                    module.weight *= mask

        update()
        if shrinks:
            plan = plan_compaction(graph, x, fold=False, inputs=can_select_inputs(graph))
            before = net.eval()(x)
            shrink_(graph, plan, [optimizer])
            assert_equal(net(x), before)
            net.train()
        update()
        outputs.append(net.eval()(x))
    assert_equal(outputs[1], outputs[0])
    small = compacted(graph, plan_compaction(graph, x))
    assert_equal(small(x), outputs[1])


def test_constant_outputs_of_dead_neurons_go_into_the_next_bias() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        model[0].weight[1:3] = 0
    x = torch.randn(5, 3)
    graph = trace(model, x)
    small = compacted(graph, plan_compaction(graph, x))
    assert small.get_submodule("0").weight.shape == (2, 3)
    expected = model[2].weight[:, 1:3] @ torch.sigmoid(model[0].bias[1:3])
    torch.testing.assert_close(small.get_submodule("2").bias, expected)
    torch.testing.assert_close(small(x), model(x))


def test_removal_reaches_back_through_layers() -> None:
    """A neuron read only by removed neurons goes too, and so do the inputs only it reads."""
    model = mlp(4, 3, 3, 2)
    with torch.no_grad():
        model[4].weight[:, 0] = 0  # nobody reads the second layer's neuron 0
        model[2].weight[1:, 1] = 0  # only that neuron reads the first layer's neuron 1
        model[0].weight[0, 2] = model[0].weight[2, 2] = 0  # only that one reads input 2
    x = torch.randn(6, 4)
    graph = trace(model, x)
    plan = plan_compaction(graph, x)
    small = compacted(graph, plan)
    assert [small.get_submodule(n).weight.shape for n in ("0", "2", "4")] == [(2, 3), (2, 2), (2, 2)]
    select = [m for m in small.modules() if isinstance(m, Select)]
    assert select[0].index.tolist() == [0, 1, 3]
    torch.testing.assert_close(small(x), model(x))


def test_a_shared_layer_keeps_a_neuron_that_is_constant_differently_at_its_calls() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.twice, self.head = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.twice(torch.relu(self.twice(torch.sigmoid(self.first(x))))))

    model = Shared()
    with torch.no_grad():
        model.first.weight[0] = 0
        model.twice.weight[0] = 0
    x = torch.randn(5, 3)
    graph = trace(model, x)
    small = compacted(graph, plan_compaction(graph, x))
    assert small.get_submodule("twice").weight.shape == (4, 4)
    torch.testing.assert_close(small(x), model(x))


def test_every_layer_keeps_a_channel() -> None:
    model = mlp(4, 3, 2)
    with torch.no_grad():
        model[0].weight.zero_()
    x = torch.randn(3, 4)
    graph = trace(model, x)
    small = compacted(graph, plan_compaction(graph, x))
    assert small.get_submodule("0").weight.shape == (1, 1)
    torch.testing.assert_close(small(x), model(x))


@pytest.mark.parametrize("name", ["0", "2"])
def test_ignored_layers_keep_their_shape(name: str) -> None:
    model = mlp(4, 3, 3, 2)
    sparsify(model, 1)
    with torch.no_grad():
        model.get_submodule(name).weight.zero_()
    x = torch.randn(3, 4)
    graph = trace(model, x, ignore=[name])
    small = compacted(graph, plan_compaction(graph, x))
    assert small.get_submodule(name).weight.shape == model.get_submodule(name).weight.shape
    torch.testing.assert_close(small(x), model(x))
