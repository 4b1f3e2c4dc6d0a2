from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spdnn.engine import prepare
from spdnn.features import Features
from spdnn.fold import Folder, fold, fold_within, folded_layers
from spdnn.network import SparseLayer, SparseNetwork
from spdnn.radixnet import challenge_network


def reference(network, x):
    plan = prepare(network, rows=len(x), engine="scipy", dtype="float64")
    return plan.run(Features.from_dense(x), values=True).to_dense()


def random_network(rng, widths, *, copies, bias_rule, lower):
    """Layers in which many outputs are copies of one another, in random places."""
    layers = []
    for inputs, outputs in pairwise(widths):
        kinds = max(1, outputs // copies)
        weights = rng.integers(-3, 4, (inputs, kinds)) * (rng.random((inputs, kinds)) < 0.6) / 4
        bias = rng.integers(-2, 3, kinds) / 8
        which = rng.integers(0, kinds, outputs)
        layers.append(
            SparseLayer.from_matrix(weights[:, which], bias[which], lower=lower, upper=8.0, bias_rule=bias_rule)
        )
    return SparseNetwork(layers)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    widths=st.lists(st.integers(1, 24), min_size=2, max_size=5),
    copies=st.sampled_from([1, 3, 100]),
    bias_rule=st.sampled_from(["nonzero", "all"]),
    lower=st.sampled_from([0.0, -1.0]),
)
def test_expanded_outputs_are_those_of_the_original(seed, widths, copies, bias_rule, lower):
    rng = np.random.default_rng(seed)
    network = random_network(rng, widths, copies=copies, bias_rule=bias_rule, lower=lower)
    x = rng.integers(-4, 5, (7, widths[0])) / 4
    folded = fold(network)
    expand = np.arange(network.outputs) if folded.expand is None else folded.expand
    # weights and inputs are small multiples of 1/8: float64 sums are exact in any order for these depths
    assert np.array_equal(reference(folded.network, x)[:, expand], reference(network, x))
    assert folded.multiplicity.sum() == network.outputs
    assert (np.bincount(expand, minlength=folded.network.outputs) == folded.multiplicity).all()


def test_weights_of_joined_inputs_add_up_and_zero_sums_stay():
    same = SparseLayer.from_matrix(np.array([[1.0, 1.0, 2.0]]))
    reader = SparseLayer.from_matrix(np.array([[0.5, 0.25], [0.25, -0.25], [1.0, 0.0]]))
    folder = Folder(1)
    first = folder.fold(same)
    assert (first.outputs, folder.distinct) == (2, 2)
    assert folder.expand.tolist() == [0, 0, 1]
    second = folder.fold(reader)
    assert folder.expand is None
    assert second.indptr.tolist() == [0, 2, 3]
    assert second.indices.tolist() == [0, 1, 0]
    assert second.data.tolist() == [0.75, 1.0, 0.0]


def test_outputs_that_become_equal_only_after_renaming_fold():
    same = SparseLayer.from_matrix(np.array([[1.0, 1.0]]))
    crossed = SparseLayer.from_matrix(np.array([[0.5, 0.0], [0.0, 0.5]]))
    assert fold(SparseNetwork([same, crossed])).expand.tolist() == [0, 0]


def test_other_bias_is_another_neuron():
    weights = np.array([[1.0, 1.0, 1.0]])
    folder = Folder(1)
    layer = folder.fold(SparseLayer.from_matrix(weights, np.array([0.5, 0.25, 0.5])))
    assert folder.expand.tolist() == [0, 1, 0]
    assert layer.bias.tolist() == [0.5, 0.25]


def test_a_network_without_equal_neurons_passes_through_untouched():
    rng = np.random.default_rng(0)
    network = SparseNetwork([SparseLayer.from_matrix(rng.random((9, 9))) for _ in range(3)])
    folded = fold(network)
    assert folded.expand is None
    assert all(a is b for a, b in zip(folded.network.layers, network.layers, strict=True))


@pytest.mark.parametrize("neurons", [1024, 4096])
def test_challenge_networks_shrink_sixteenfold(neurons):
    network = challenge_network(neurons, 14)
    layers = list(folded_layers(network))
    assert len(layers) == 14
    assert all(layer.outputs <= neurons // 16 for layer, _ in layers)
    second, _ = layers[1]
    assert (second.fan_in == 2).all()
    assert (second.data == 1.0).all()
    _, expand = layers[-1]
    assert expand.shape == (neurons,)


def test_folding_ahead_and_within_a_limit_gives_the_same():
    network = challenge_network(1024, 14)
    one, several = fold(network), fold_within(network, 1 << 30, threads=3)
    assert several is not None
    assert several.expand.tolist() == one.expand.tolist()
    for a, b in zip(one.network, several.network, strict=True):
        for name in ("indptr", "indices", "data"):
            assert np.array_equal(getattr(a, name), getattr(b, name))
    assert fold_within(network, 100_000, threads=3) is None
