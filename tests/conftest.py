"""Fixtures every test module may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.register_assert_rewrite("engines.conformance")


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """The folder named by SPDNN_DATA. In CI its absence is an error, never a skip."""
    folder = os.environ.get("SPDNN_DATA")
    if folder and (Path(folder) / "mnist").is_dir():
        return Path(folder)
    message = "needs MNIST: set SPDNN_DATA to a folder that holds mnist/train-images-idx3-ubyte.gz"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)
