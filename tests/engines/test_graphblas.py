"""The GraphBLAS engine keeps the laws every engine keeps, in both its variants."""

import numpy as np
import pytest
from engines.conformance import HARD, EngineConformance, exact_case, features_of

from spdnn.engine import get_engine, prepare


class TestGraphblas(EngineConformance):
    engine = "graphblas"
    optional = True


class TestGraphblasFloat64(EngineConformance):
    engine = "graphblas"
    optional = True
    options = {"dtype": "float64"}  # noqa: RUF012


class TestReferenceLoop(EngineConformance):
    engine = "graphblas"
    optional = True
    variant = "sparse"


@pytest.fixture
def graphblas():
    why = get_engine("graphblas").available()
    if why is not None:
        pytest.skip(why)
    return pytest.importorskip("graphblas")


def test_uniform_weights_are_discovered(graphblas):
    for name, uniform in (("radix_rows_die_and_become_equal", True), ("per_neuron_biases_on_all", False)):
        case, _ = exact_case(name)
        assert prepare(case.network, rows=1, engine="graphblas").describe()["uniform_weights"] is uniform


def test_threads_are_set_back(graphblas):
    case, _ = exact_case(HARD[0])
    before = graphblas.ss.config["nthreads"]
    plan = prepare(case.network, rows=len(case.x), engine="graphblas", threads=1)
    seen = []
    plan.run(features_of(case.x, "bits"), progress=lambda *_: seen.append(graphblas.ss.config["nthreads"]))
    assert set(seen) == {1}
    assert graphblas.ss.config["nthreads"] == before


@pytest.mark.parametrize("variant", ["auto", "sparse"])
def test_both_forms_are_passed_through_in_one_run(graphblas, variant):
    """Few rows live at last: without compaction the full form gives way to the sparse one."""
    case, expected = exact_case(HARD[0])
    plan = prepare(case.network, rows=len(case.x), engine="graphblas", variant=variant, compact=False, merge=False)
    result = plan.run(features_of(case.x, "bits"), values=True)
    np.testing.assert_array_equal(result.to_dense(), expected.rows)
