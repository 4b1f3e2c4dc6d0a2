"""A few rows by all blocks together, on the CPU: blocks that wait for each other run side by side there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from engines.test_cuda_emulated import _device  # noqa: F401
from gpu.test_crew import *  # noqa: F403

from spdnn.engines.cuda import crew


def packed(outputs: int, fan_in: int = 32, g: int = 1, depth: int = 3) -> Any:
    """What the driver looks at of a network whose layers are alike."""
    units = outputs // g
    return SimpleNamespace(
        widths=[outputs] * (depth + 1),
        units_of=[(units, g, units * fan_in)] * depth,
        unit_bytes=[units * fan_in * (2 + 4 * g)] * depth,
        wide=False,
    )


def test_large_layers_are_for_the_crew():
    rows = [crew.crew_rows(packed(outputs)) for outputs in (64, 256, 1024, 4096)]
    assert rows == sorted(rows)
    assert (rows[0], rows[-1]) == (0, crew.ROWS)


@pytest.mark.parametrize("g", [1, 8])
@pytest.mark.parametrize("outputs", [8, 256, 4096, 7200])
def test_shapes_fit_shared_memory(outputs, g):
    limit = 227 * 1024
    shape = crew.crew_shape(packed(outputs, g=g), 132, limit)
    assert 0 < shape.blocks <= min(132, crew.THREADS)
    assert shape.shared + 2048 <= limit
    assert shape.room * shape.blocks >= outputs * 32 * 6 if g == 1 else True
    assert shape.together in (1, 2, 4, 8, 16)
