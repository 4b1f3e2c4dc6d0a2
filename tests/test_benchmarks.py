"""The benchmark programs run, in miniature, where there is no GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="benchmarks are in the checkout only")


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_a_random_network_is_timed_and_checked(tmp_path) -> None:
    size = ["--neurons", "200", "--layers", "9", "--fan-in", "6", "--rows", "70", "--limit", "1"]
    path = tmp_path / "random.json"
    done = run("random_network.py", *size, "--columns", "numba,scipy", "--output", str(path))
    assert done.returncode == 0, done.stderr
    report = json.loads(path.read_text())
    assert set(report["columns"]) == {"numba", "scipy"}
    assert all(column["verified"] and column["error"] < 1e-5 for column in report["columns"].values())
    assert 0.2 < report["zero_share"] < 0.8
    assert report["upper_share"] < 0.1
    assert run("random_network.py", "--rows", "0").stderr == "error: Expected --rows of at least 1, got 0.\n"
