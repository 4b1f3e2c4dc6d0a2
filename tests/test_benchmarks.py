"""The benchmark programs run, in miniature, where there is no GPU."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from emulator import fake_cupy

from spdnn.engines.cuda import loader

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


@pytest.fixture
def micro(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("cuda_micro")
    loader._load.cache_clear()


def test_kernels_are_held_against_measured_ceilings(micro, tmp_path, monkeypatch, capsys) -> None:
    why = fake_cupy.unavailable()
    if why is not None:
        pytest.skip(why)
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy)
    loader._load.cache_clear()
    path = tmp_path / "micro.json"
    arguments = ["--small", "--repeat", "1", "--only", "few,pieces,stream,tiles", "--output", str(path)]
    monkeypatch.setattr(sys, "argv", ["cuda_micro.py", *arguments])
    assert micro.main() == 0
    report = json.loads(path.read_text())
    assert all(value > 0 for value in report["ceilings"].values())
    kernels = report["kernels"]
    assert set(kernels["pieces"]) == {"pieces"}
    assert set(micro.NUMBERING) <= set(kernels["tiles"])
    for found in kernels.values():
        for facts in found.values():
            assert facts["bound"] in facts["share_of"]
            assert facts["share_of"][facts["bound"]] > 0
    assert "pieces" in capsys.readouterr().out


def test_every_kernel_file_has_a_micro_benchmark(micro) -> None:
    named = {name for workload in micro.WORKLOADS.values() for name in workload.work}
    for name in loader.kernel_names("spdnn.engines.cuda"):
        text = loader.read_source("spdnn.engines.cuda", name)
        functions = {found[1] for found in fake_cupy._KERNEL.finditer(text)}
        assert functions, name
        assert functions & named, f"{name}.cu"


def test_the_ceilings_compile(micro) -> None:
    nvrtc = pytest.importorskip("cupy", reason="needs CuPy and NVRTC").cuda.nvrtc
    program = nvrtc.createProgram(micro.CEILINGS, "ceilings.cu", [], [])
    nvrtc.compileProgram(program, ["-arch=sm_90", *loader.STANDARD])
    assert nvrtc.getCUBIN(program)
