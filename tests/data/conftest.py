"""Fixtures for the tests of data sets."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache folder."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("SPDNN_CACHE", str(folder))
    return folder


@pytest.fixture
def offline(cache, monkeypatch) -> Path:
    """No MNIST anywhere: an empty cache, no folder of one's own, a mirror nobody answers at."""
    monkeypatch.delenv("SPDNN_DATA", raising=False)
    monkeypatch.setattr("spdnn.data.mnist_files.MIRROR", "http://127.0.0.1:9/")
    return cache
