"""Compact networks leave FSSL: to files, to ONNX, to the engines, to the fastest formats."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fssl_models import RandomNetwork, mlp, sparsify
from torch import nn

import spdnn
from spdnn.errors import FileFormatError, InputError
from spdnn.fssl import export_onnx, fastest_formats, load_model, load_state, save_model, save_state, to_sparse_network
from spdnn.fssl.compaction import compacted, plan_compaction
from spdnn.fssl.formats import reading_all
from spdnn.fssl.trace import trace


def compact(model: nn.Module, x: torch.Tensor) -> nn.Module:
    graph = trace(model.eval(), x)
    return compacted(graph, plan_compaction(graph, x)).eval()


@pytest.mark.parametrize("seed", range(10))
def test_a_compact_network_reloads_in_one_call(seed: int, tmp_path) -> None:
    model = RandomNetwork(seed)
    sparsify(model, seed)
    x = model.example(6)
    small = compact(model, x)
    path = save_model(small, tmp_path / "model.safetensors", facts={"seed": seed})
    again = load_model(path)
    with torch.no_grad():
        assert torch.equal(again(x), small(x))
    assert again.facts == {"seed": seed}
    assert not again.training


def test_files_that_are_no_model_are_refused(tmp_path) -> None:
    with pytest.raises(InputError, match="Can't read"):
        load_model(tmp_path / "none.safetensors")
    (tmp_path / "x.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(FileFormatError):
        load_model(tmp_path / "x.safetensors")
    save_state({"a": 1}, tmp_path / "state.safetensors")
    with pytest.raises(FileFormatError, match=r"spdnn\.model"):
        load_model(tmp_path / "state.safetensors")
    with pytest.raises(InputError, match="compact"):
        save_model(mlp(3, 2), tmp_path / "y.safetensors")


def test_states_come_back_as_they_were(tmp_path) -> None:
    state = {"a": [1, 2.5, None, True, "s"], 3: {"x": torch.arange(4), "e": torch.empty(0)}, "n": float("inf")}
    found = load_state(save_state(state, tmp_path / "s"))
    assert found["a"] == state["a"]
    assert torch.equal(found[3]["x"], torch.arange(4))
    assert found["n"] == float("inf")
    with pytest.raises(InputError, match="set"):
        save_state({"a": {1}}, tmp_path / "s")
    assert load_state(tmp_path / "s")["a"] == state["a"]


def test_engines_run_the_compact_network() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(),
        nn.BatchNorm1d(16),
        nn.Linear(16, 12),
        nn.BatchNorm1d(12),
        nn.ReLU(),
        nn.Linear(12, 9),
        nn.ReLU6(),
        nn.Linear(9, 4),
    )
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    sparsify(model, 3)
    x = torch.randn(20, 1, 4, 4)
    small = compact(model, x)
    network = to_sparse_network(small, inputs=16)
    assert network.inputs == 16
    features = spdnn.Features.from_dense(x.flatten(1).numpy())
    result = spdnn.prepare(network, rows=20, engine="scipy", compact=False).run(features, values=True)
    with torch.no_grad():
        expected = model(x).numpy()
    np.testing.assert_allclose(result.to_dense(), expected, rtol=1e-4, atol=1e-4)


def test_networks_that_are_no_chain_are_refused() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(x + torch.relu(self.a(x)))

    x = torch.randn(3, 4)
    with pytest.raises(InputError, match="chain"):
        to_sparse_network(compact(Residual(), x))
    with pytest.raises(InputError, match="Sigmoid"):
        to_sparse_network(compact(nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 2)), x))
    with pytest.raises(InputError, match="compact"):
        to_sparse_network(mlp(4, 3, 2))


def test_every_layer_gets_a_format_and_outputs_stay(tmp_path) -> None:
    model = mlp(40, 30, 20, 5)
    sparsify(model, 2)
    x = torch.randn(8, 40)
    small = compact(model, x)
    fast, names = fastest_formats(small, x, rounds=1)
    assert set(names) == {"0", "2", "4"}
    with torch.no_grad():
        torch.testing.assert_close(fast(x), small(x), atol=1e-5, rtol=1e-5)
    again = load_model(save_model(fast, tmp_path / "fast.safetensors"))
    with torch.no_grad():
        torch.testing.assert_close(again(x), fast(x))


def test_a_network_that_reads_its_whole_input_computes_the_same() -> None:
    model = mlp(40, 30, 20, 5)
    sparsify(model, 2)
    x = torch.randn(8, 40)
    small = compact(model, x)
    whole = reading_all(small, 40)
    assert whole is not None
    assert whole.get_submodule("0").weight.shape[1] == 40
    with torch.no_grad():
        torch.testing.assert_close(whole(x), small(x))
    assert reading_all(whole, 40) is None


@pytest.mark.filterwarnings("ignore")
def test_onnx_computes_the_same(tmp_path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = mlp(12, 10, 8, 3)
    sparsify(model, 5)
    x = torch.randn(4, 12)
    small = compact(model, x)
    path = export_onnx(small, tmp_path / "model.onnx", x)
    session = runtime.InferenceSession(str(path))
    other = torch.randn(7, 12)
    (found,) = session.run(None, {session.get_inputs()[0].name: other.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found, small(other).numpy(), atol=1e-5)
