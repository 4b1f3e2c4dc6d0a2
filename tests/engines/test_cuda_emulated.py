"""The CUDA engine's kernels and their driver, run on the CPU (`emulator/`): the GPU's own tests where there is none."""

from __future__ import annotations

import sys

import pytest
from emulator import fake_cupy
from gpu.test_cuda import *  # noqa: F403

from spdnn.engines.cuda import loader


@pytest.fixture(autouse=True, scope="module")
def _device():
    why = fake_cupy.unavailable()
    if why is not None:
        pytest.skip(why)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", fake_cupy)
        loader._load.cache_clear()
        yield
    loader._load.cache_clear()
