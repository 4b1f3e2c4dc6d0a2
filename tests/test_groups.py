import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from spdnn.groups import equal_lists, input_groups
from spdnn.network import SparseLayer
from spdnn.radixnet import challenge_network


@st.composite
def layers(draw):
    """Layers with few inputs, so that equal input sets are common, and some outputs with none."""
    inputs = draw(st.integers(1, 4))
    sets = draw(st.lists(st.frozensets(st.integers(0, inputs - 1)), max_size=12))
    indices = [i for chosen in sets for i in sorted(chosen)]
    indptr = np.cumsum([0, *map(len, sets)])
    return SparseLayer(inputs, indptr, np.array(indices, np.int32), np.arange(len(indices), dtype=np.float32))


@settings(max_examples=60, deadline=None)
@given(layers())
def test_groups_are_the_classes_of_equal_input_sets(layer):
    groups = input_groups(layer)
    sets = [tuple(layer.indices[a:b]) for a, b in zip(layer.indptr[:-1], layer.indptr[1:], strict=True)]
    assert sorted(groups.order.tolist()) == list(range(layer.outputs))
    found = [groups.order[a:b].tolist() for a, b in zip(groups.starts[:-1], groups.starts[1:], strict=True)]
    expected: dict[tuple, list[int]] = {}
    for output, chosen in enumerate(sets):
        expected.setdefault(chosen, []).append(output)
    assert found == list(expected.values())
    assert groups.first.tolist() == [members[0] for members in expected.values()]


def test_lists_of_equal_hash_length_but_other_order_of_payload_are_not_equal():
    indptr = np.array([0, 2, 4, 6])
    indices = np.array([0, 1, 0, 1, 0, 1], np.int32)
    none = np.zeros(0, np.uint64)
    payload = np.array([7, 9, 9, 7, 7, 9], np.uint32)
    assert equal_lists(indptr, indices, none, none).tolist() == [0, 0, 0]
    assert equal_lists(indptr, indices, payload, none).tolist() == [0, 1, 0]
    assert equal_lists(indptr, indices, payload, np.array([1, 1, 2], np.uint64)).tolist() == [0, 1, 2]


def test_challenge_layers_split_into_blocks():
    network = challenge_network(1024, 12)
    assert [len(input_groups(network.layers[k])) for k in (0, 4, 5, 7, 11)] == [64, 64, 32, 64, 32]
