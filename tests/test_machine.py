"""What a figure was measured on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spdnn import machine


def test_hardware_is_told_in_plain_facts():
    facts = machine.hardware()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["cpu_cores"] >= 1
    assert facts["memory_bytes"] > 1 << 28
    assert facts["gpu_count"] == 0 or facts["gpu"]


@pytest.mark.parametrize(
    ("facts", "device", "name"),
    [
        ({"cpu": "AMD EPYC", "cpu_cores": 2, "gpu": None}, "cpu", "epyc-2core"),
        ({"cpu": "AMD EPYC", "cpu_cores": 2, "gpu": None}, "gpu", "epyc-2core"),
        ({"cpu": "AMD Ryzen 9 7950X 16-Core Processor", "cpu_cores": 32, "gpu": None}, "cpu", "ryzen-9-7950x-32core"),
        ({"cpu": "Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz", "cpu_cores": 8}, "cpu", "xeon-e5-2680-v4-8core"),
        ({"gpu": "NVIDIA H200", "gpu_count": 1}, "gpu", "h200"),
        ({"gpu": "NVIDIA H200", "gpu_count": 8}, "gpu", "h200-x8"),
        ({"gpu": "NVIDIA GeForce RTX 4090", "gpu_count": 1}, "gpu", "rtx-4090"),
    ],
)
def test_machines_have_short_names(monkeypatch, facts, device, name):
    monkeypatch.setattr(machine, "hardware", lambda: facts)
    assert machine.machine_name(device) == name


def test_peak_memory_counts_what_was_let_go_again():
    machine.reset_peak_memory()  # of tests before this one in the same process
    before = machine.peak_memory()
    block = np.ones(200 << 17)  # 200 MiB
    assert machine.peak_memory() >= before + block.nbytes // 2
    held = block.nbytes
    del block
    peak = machine.peak_memory()
    machine.reset_peak_memory()
    if sys.platform == "linux":
        assert machine.peak_memory() < peak - held // 2
    assert machine.peak_memory() <= peak


def test_the_commit_is_the_checkouts():
    root = machine.checkout()
    if root is None or not (root / ".git").exists():
        pytest.skip("not a git checkout")
    head = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    machine.commit.cache_clear()
    commit, dirty = machine.commit()
    assert commit == head.stdout.strip()
    assert isinstance(dirty, bool)


def test_outside_a_checkout_the_commit_is_unknown_or_as_told(monkeypatch):
    monkeypatch.setattr(machine, "checkout", lambda: None)
    monkeypatch.delenv("SPDNN_COMMIT", raising=False)
    assert machine.commit.__wrapped__() == ("unknown", None)
    monkeypatch.setenv("SPDNN_COMMIT", "abc123")
    assert machine.commit.__wrapped__() == ("abc123", None)


def test_an_installed_package_is_no_checkout(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "lib" / "site-packages" / "spdnn" / "machine.py"))
    assert machine.checkout() is None


def test_this_checkout_is_found():
    root = machine.checkout()
    assert root is None or Path(machine.__file__).is_relative_to(root)
