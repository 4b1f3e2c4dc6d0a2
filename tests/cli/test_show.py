"""What is printed of a run, from a run made up."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from spdnn.challenge import Inputs, Instance, Run
from spdnn.cli import show
from spdnn.engine import Choice, Options
from spdnn.engines.scipy import ScipyEngine
from spdnn.features import Features


@pytest.mark.parametrize(("source", "rows", "beside"), [("mnist", 60000, 1), ("digits", 60000, 0), ("mnist", 100, 0)])
def test_the_papers_times_stand_beside_those_of_the_same_inputs_only(source, rows, beside):
    features = Features.from_bits(np.zeros((rows, 16), np.uint64), 1024)
    choice, options = Choice(ScipyEngine(), "as asked"), Options()
    run = Run(Instance(1024, 120), Inputs(features, source, 0.0), choice, options, options, seconds_each=(2.0,))
    out = io.StringIO()
    show.run(Console(file=out, width=120), run)
    assert out.getvalue().count("Wang et al. 2019") == beside
    assert ("not the official inputs" in out.getvalue()) == (source == "digits")
