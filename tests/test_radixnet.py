"""RadiX-Net topologies and the official networks."""

from __future__ import annotations

import math
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spdnn.errors import InputError
from spdnn.network import SparseLayer
from spdnn.radixnet import CHALLENGE_NEURONS, RadixNet, base_network, challenge_network
from spdnn.random_network import random_network


def check(layer: SparseLayer) -> None:
    """Everything SparseLayer validates, for layers made with validate=False."""
    SparseLayer(layer.inputs, layer.indptr, layer.indices, layer.data, layer.bias, layer.lower, layer.upper)


def by_definition(net: RadixNet) -> list[np.ndarray]:
    """Adjacency matrices written out as in the definition: ones ⊗ Σ Pⁿᵛ with P the cyclic shift."""
    shift = np.roll(np.eye(net.base_neurons, dtype=int), 1, axis=0)  # row i has its 1 in column i − 1
    matrices = []
    for system in net.systems:
        place = 1
        for radix in system:
            base = sum(np.linalg.matrix_power(shift, n * place) for n in range(radix))
            k = len(matrices)
            matrices.append(np.kron(np.ones(net.widths[k : k + 2], int), base))
            place *= radix
    return matrices


@st.composite
def radix_nets(draw) -> RadixNet:
    radices = draw(st.lists(st.sampled_from([2, 3, 4, 5]), min_size=1, max_size=3).filter(lambda r: math.prod(r) <= 30))
    systems = [radices] + [draw(st.permutations(radices)) for _ in range(draw(st.integers(0, 2)))]
    if draw(st.booleans()):
        systems.append(radices[: draw(st.integers(1, len(radices)))])
    depth = sum(map(len, systems))
    return RadixNet(systems, draw(st.lists(st.integers(1, 3), min_size=depth + 1, max_size=depth + 1)))


@settings(max_examples=60, deadline=None)
@given(radix_nets())
def test_layers_follow_the_definition(net):
    network = net.network(weight=0.5, bias=-0.25, upper=4.0, name="x")
    expected = by_definition(net)
    assert network.widths == net.neurons
    assert network.edges == net.edges == sum(int(m.sum()) for m in expected)
    for layer, matrix in zip(network, expected, strict=True):
        check(layer)
        np.testing.assert_array_equal(layer.weights.toarray(), 0.5 * matrix)
        assert (layer.bias, layer.upper) == (-0.25, 4.0)


@settings(max_examples=60, deadline=None)
@given(radix_nets())
def test_all_pairs_are_joined_by_the_same_number_of_paths(net):
    paths = np.eye(net.neurons[0], dtype=object)
    for layer, fan_in in zip(net.network(), net.fan_in, strict=True):
        matrix = layer.weights.toarray().astype(int)
        assert (matrix.sum(0) == fan_in).all()
        assert (matrix.sum(1) == matrix.sum(1)[0]).all()
        paths = paths @ matrix.astype(object)
    assert net.paths > 0
    assert (paths == net.paths).all()


@pytest.mark.parametrize(
    ("systems", "widths", "message"),
    [
        ([], None, "at least one mixed-radix system"),
        ([[2], []], None, "at least one mixed-radix system"),
        ([[2, 1]], None, "radix"),
        ([[2, 2.5]], None, "radix"),
        ([[2, 2], [2, 3], [2, 2]], None, r"\[4, 6, 4\]"),
        ([[2, 2], [3]], None, "divisor"),
        ([[2, 2]], [1, 1], "3 Kronecker widths"),
        ([[2, 2]], [1, 0, 1], "Kronecker width"),
    ],
)
def test_bad_topologies_are_refused(systems, widths, message):
    with pytest.raises(InputError, match=message):
        RadixNet(systems, widths)


@pytest.mark.parametrize(
    ("neurons", "depth", "density"), [(1024, 6, 0.03), (4096, 8, 0.008), (16384, 10, 0.002), (65536, 12, 0.0005)]
)
def test_base_networks_are_those_of_table_1(neurons, depth, density):
    net = base_network(neurons)
    assert len(net) == depth
    assert net.neurons == (neurons,) * (depth + 1)
    assert net.fan_in == (32,) * depth
    assert float(f"{net.edges / (depth * neurons**2):.1g}") == density


@pytest.fixture(scope="module")
def official_layers(mnist_dir):
    """Name → (input, output, weight) columns of the official files."""
    archive = mnist_dir / "graphchallenge" / "neuron1024-l1-l120.tar.xz"
    layers = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile():
                text = tar.extractfile(member)
                assert text is not None
                layers[member.name.rpartition("/")[2]] = np.loadtxt(text, delimiter="\t")
    return layers


def test_all_official_layers_of_1024_neurons_agree_entry_by_entry(official_layers):
    network = challenge_network(1024, 120)
    assert network.name == "challenge-1024-120"
    assert len(official_layers) == len(network) == 120
    for k, layer in enumerate(network):
        official = official_layers[f"n1024-l{k + 1}.tsv"]
        np.testing.assert_array_equal(official[:, 0], layer.indices + 1)
        np.testing.assert_array_equal(official[:, 1], np.repeat(np.arange(1, 1025), layer.fan_in))
        np.testing.assert_array_equal(official[:, 2], layer.data)
        assert (layer.bias, layer.lower, layer.upper, layer.bias_rule) == (-0.30, 0.0, 32.0, "nonzero")


@pytest.mark.parametrize("neurons", CHALLENGE_NEURONS)
def test_challenge_layers_are_valid_and_the_same_in_any_order(neurons):
    base = base_network(neurons)
    depth = 3 * len(base) + 1
    network = challenge_network(neurons, depth)
    assert network.edges == 32 * neurons * depth
    assert network.is_lazy
    late_first = challenge_network(neurons, 4 * len(base))
    for k in (depth - 1, len(base), 2 * len(base) - 1, 1):
        layer, other = late_first.layers[k], network.layers[k]
        check(layer)
        np.testing.assert_array_equal(layer.indices, other.indices)
        assert layer.keeps_zero
    for k in (0, len(base) - 1):
        np.testing.assert_array_equal(network.layers[k].indices, base.layer(k).indices)


def test_later_repetitions_rename_the_inputs_by_the_seeded_stream():
    base = base_network(4096)
    stream = np.random.RandomState(5489)
    network = challenge_network(4096, 3 * len(base))
    for repetition in (1, 2):
        p = np.argsort(stream.random_sample(4096), kind="stable")
        k = 3 + repetition * len(base)
        renamed = base.layer(3).weights.toarray()[np.argsort(p)]
        np.testing.assert_array_equal(network.layers[k].weights.toarray() != 0, renamed != 0)


@pytest.mark.parametrize(("neurons", "layers"), [(1000, 120), (1024, 0), (1024, -1), (1024, 1.5), ("1024", 120)])
def test_other_sizes_are_refused(neurons, layers):
    with pytest.raises(InputError, match="Expected"):
        challenge_network(neurons, layers)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 80), st.integers(1, 3), st.data())
def test_random_networks_are_valid_and_repeatable(neurons, layers, data):
    fan_in = data.draw(st.integers(1, neurons))
    network, again = (random_network(neurons, layers, fan_in, seed=7, bias=-0.1, upper=5.0) for _ in range(2))
    assert network.edges == sum(layer.nnz for layer in network)
    for k, layer in enumerate(network):
        check(layer)
        assert (layer.fan_in == fan_in).all()
        np.testing.assert_array_equal(layer.indices, again.layers[k].indices)
        np.testing.assert_array_equal(layer.data, again.layers[k].data)


def test_random_networks_keep_the_size_of_signals():
    rows = np.random.default_rng(0).random((8, 2048))
    y = rows
    for layer in random_network(2048, 12, 32):
        y = np.maximum(y @ layer.weights, 0)
    assert 0.1 < np.mean(y**2) / np.mean(rows**2) < 10


@pytest.mark.parametrize(("neurons", "layers", "fan_in"), [(0, 1, 1), (4, 0, 1), (4, 1, 5), (4, 1, 0)])
def test_impossible_random_networks_are_refused(neurons, layers, fan_in):
    with pytest.raises(InputError, match="Expected"):
        random_network(neurons, layers, fan_in)
