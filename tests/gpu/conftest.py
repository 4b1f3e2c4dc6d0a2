"""Tests that run kernels: skipped, with the reason, where no GPU can be used."""

from __future__ import annotations

import pytest

from spdnn.engines.cuda import loader


@pytest.fixture(autouse=True)
def _gpu() -> None:
    why = loader.unavailable()
    if why is not None:
        pytest.skip(f"needs an NVIDIA GPU: {why}")
