"""The campaign and the example run; the campaign in miniature."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_campaign_leaves_flat_records(tmp_path) -> None:
    script = ROOT / "benchmarks" / "fssl_campaign.py"
    options = ["--device", "cpu", "--small", "--data", "digits", "--output", str(tmp_path)]
    environment = os.environ | {"SPDNN_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    keys = {"method", "dataset", "network", "architecture", "seed", "device", "batch"}
    keys |= {"weights_removed", "test_accuracy"}

    def run(*more: str) -> None:
        command = [sys.executable, str(script), *options, *more]
        subprocess.run(command, env=environment, check=True, capture_output=True)

    def records(name: str, folder: Path = tmp_path) -> list[dict]:
        return json.loads((folder / f"fssl-{name}.json").read_text())

    run("--only", "l300,wide")
    assert {r["method"] for r in records("l300")} == {"dense", "fssl", "magnitude"}
    assert all(keys | {"latency_ms"} <= set(r) for name in ("l300", "wide") for r in records(name) if r["seed"] == 1)

    run("--only", "compact,scratch", "--times-later", "--within", "60")
    assert {r["method"] for r in records("compact")} == {"fssl", "lasso", "magnitude"}
    assert {r["architecture"] for r in records("scratch")} == {records("compact")[0]["architecture"]}
    assert all(keys <= set(r) and "latency_ms" not in r for r in records("compact"))

    timed = tmp_path / "timed"
    (tmp_path / "fssl-l300.json").unlink()
    run("--time", str(tmp_path), "--output", str(timed))
    assert len(records("compact", timed)) == len(records("compact"))
    assert all(r["latency_ms"] > 0 and "trained_on_cpu" in r for r in records("compact", timed))


def test_tuning_keeps_what_it_found_when_time_is_up(tmp_path) -> None:
    script = ROOT / "benchmarks" / "fssl_campaign.py"
    options = ["--device", "cpu", "--small", "--data", "digits", "--tune", "--seconds", "2", "--output", str(tmp_path)]
    options += ["--teacher", str(tmp_path / "teacher")]
    environment = os.environ | {"SPDNN_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    for _ in range(2):  # the second takes the teacher from its file, and the next fleet
        subprocess.run([sys.executable, str(script), *options], env=environment, check=True, capture_output=True)
    for name in ("norm", "plain"):
        (found,) = json.loads((tmp_path / f"tune-{name}.json").read_text())
        assert found["fleet"] == name
        assert not found["finished"]
        assert {x["goal"] for x in found["networks"]} == {"97.6", "98.85", "9560"}
        assert all(0 <= x["held_out_accuracy"] <= 100 and "test_accuracy" not in x for x in found["networks"])


def test_the_example_runs(tmp_path) -> None:
    source = (ROOT / "examples" / "compact_network.py").read_text()
    quick = (
        source.replace("12000", "1200")
        .replace("10000", "1000")
        .replace("EPOCHS, BATCH = 8, 128", "EPOCHS, BATCH = 3, 50")
    )
    found = subprocess.run(
        [sys.executable, "-c", quick],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    assert "gives the same answers: True" in found.stdout
