"""The PyTorch engine keeps the laws every engine keeps."""

import pytest
from engines.conformance import HARD, EngineConformance, exact_case, features_of

from spdnn.engine import choose_engine, get_engine, prepare
from spdnn.errors import InputError, UnavailableError


class TestTorch(EngineConformance):
    engine = "torch"
    optional = True


class TestTorchFloat64(EngineConformance):
    engine = "torch"
    optional = True
    options = {"dtype": "float64"}  # noqa: RUF012


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "meta", "-1"])
def test_a_device_there_is_none_of_is_an_input_error(torch, device):
    case, _ = exact_case("one_layer")
    with pytest.raises(InputError, match=r"Expected .*device"):
        prepare(case.network, rows=1, engine="torch", device=device)


@pytest.mark.parametrize("device", [999, "999", "cuda:999"])
def test_a_gpu_that_is_not_there_is_said(torch, device):
    case, _ = exact_case("one_layer")
    with pytest.raises(UnavailableError, match="cuda:999"):
        prepare(case.network, rows=1, engine="torch", device=device)


def test_threads_are_set_back(torch):
    case, _ = exact_case(HARD[0])
    before = torch.get_num_threads()
    plan = prepare(case.network, rows=len(case.x), engine="torch", threads=1)
    seen = []
    plan.run(features_of(case.x, "bits"), progress=lambda *_: seen.append(torch.get_num_threads()))
    assert set(seen) == {1}
    assert torch.get_num_threads() == before


def test_baselines_are_never_chosen_over_the_cpu_engine():
    assert choose_engine().engine.priority >= get_engine("numba").priority
    for name in ("torch", "graphblas", "scipy"):
        assert get_engine(name).priority < get_engine("numba").priority
