"""SparseLinear computes and learns what the dense layer with the same zeros does."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from spdnn.errors import InputError
from spdnn.nn import FORMATS, SparseLinear


def dense(inputs: int, outputs: int, density: float, seed: int, *, bias: bool = True) -> nn.Linear:
    torch.manual_seed(seed)
    layer = nn.Linear(inputs, outputs, bias=bias).double()
    with torch.no_grad():
        layer.weight *= torch.rand_like(layer.weight) < density
    return layer


@settings(max_examples=60, deadline=None)
@given(
    inputs=st.integers(1, 20),
    outputs=st.integers(1, 20),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    batch=st.integers(1, 9),
    seed=st.integers(0, 1000),
    kind=st.sampled_from(FORMATS),
    bias=st.booleans(),
)
def test_outputs_and_gradients_are_those_of_the_dense_layer(inputs, outputs, density, batch, seed, kind, bias) -> None:
    layer = dense(inputs, outputs, density, seed, bias=bias)
    sparse = SparseLinear.from_dense(layer, format=kind, tile=(3, 4))
    x = torch.randn(batch, inputs, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(sparse(x), layer(x))
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    weights = torch.randn(batch, outputs, dtype=torch.float64)
    (layer(a) * weights).sum().backward()
    (sparse(b) * weights).sum().backward()
    torch.testing.assert_close(b.grad, a.grad)
    assert layer.weight.grad is not None
    with torch.no_grad():
        layer.weight -= 0.1 * layer.weight.grad * (layer.weight != 0)
        sparse.values -= 0.1 * sparse.values.grad
    if kind == "csr":
        torch.testing.assert_close(sparse.to_dense().weight, layer.weight)


@pytest.mark.parametrize("kind", FORMATS)
def test_state_reloads_into_a_layer_of_the_same_shape(kind) -> None:
    sparse = SparseLinear.from_dense(dense(13, 9, 0.3, 1), format=kind)
    again = SparseLinear(13, 9, sparse.nnz, format=kind).double()
    again.load_state_dict(sparse.state_dict())
    torch.testing.assert_close(again.to_dense().weight, sparse.to_dense().weight)


def test_wrong_shapes_and_formats_are_refused() -> None:
    with pytest.raises(InputError, match="Unknown format"):
        SparseLinear(3, 3, 2, format="coo")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=r"\(batch, 13\)"):
        SparseLinear.from_dense(dense(13, 9, 0.3, 1))(torch.zeros(2, 12))
