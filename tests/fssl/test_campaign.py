"""The campaign and the example run; the campaign in miniature."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from spdnn.fssl.training import rivals

ROOT = Path(__file__).parents[2]


def test_the_campaign_leaves_flat_records(tmp_path) -> None:
    script = ROOT / "benchmarks" / "fssl_campaign.py"
    options = ["--device", "cpu", "--small", "--data", "digits", "--output", str(tmp_path)]
    environment = os.environ | {"SPDNN_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    keys = {"method", "dataset", "network", "architecture", "seed", "device", "batch"}
    keys |= {"weights_removed", "test_accuracy"}

    def run(*more: str) -> None:
        command = [sys.executable, str(script), *options, *more]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def records(name: str, folder: Path = tmp_path) -> list[dict]:
        return json.loads((folder / f"fssl-{name}.json").read_text())

    run("--only", "l300,wide")
    assert {r["method"] for r in records("l300")} == {"dense", "fssl", "magnitude"}
    wide = [f"wide-{name}" for name in ("magnitude", "structured", "off", "cpu1", "cpu128")]
    assert all(keys | {"latency_ms"} <= set(r) for name in ("l300", *wide) for r in records(name) if r["seed"] == 1)
    assert {r["experiment"] for name in wide for r in records(name)} == {"wide"}

    run("--only", "split_wide", "--split-jobs", "off,cpu1,cpu1-shuffled", "--times-later")
    for curve in ("off", "cpu1", "cpu1-shuffled"):
        assert {(r["curve"], r["experiment"]) for r in records(f"split-wide-{curve}")} == {(curve, "split-wide")}
    assert {r["network"] for r in records("split-wide-off")} == {records("wide-off")[0]["network"]}

    run("--only", "compact,scratch", "--times-later", "--within", "60")
    assert {r["method"] for r in records("compact")} == {"fssl", "lasso", "magnitude"}
    assert {r["architecture"] for r in records("scratch")} == {records("compact")[0]["architecture"]}
    assert all(keys <= set(r) and "latency_ms" not in r for r in records("compact"))

    timed = tmp_path / "timed"
    (tmp_path / "fssl-l300.json").unlink()
    run("--time", str(tmp_path), "--output", str(timed))
    assert len(records("compact", timed)) == len(records("compact"))
    assert all(r["latency_ms"] > 0 and "trained_on_cpu" in r for r in records("compact", timed))
    assert {r["label"] for r in records("wide", timed)} == {r["label"] for name in wide for r in records(name)}


def test_parts_share_a_device(tmp_path) -> None:
    """Measuring first, training side by side, timing last."""
    script = ROOT / "benchmarks" / "fssl_campaign.py"
    options = ["--device", "cpu", "--small", "--data", "digits", "--output", str(tmp_path), "--share", "150"]
    environment = os.environ | {"SPDNN_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), *options, "--only", "compiled_check,split", "--quiet", "90"]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    checks = json.loads((tmp_path / "fssl-latency-model-compiled.json").read_text())
    assert {r["batch"] for r in checks} == {1, 128}
    assert all(r["shuffled_cross_validation"] < 0.6 < r["cross_validation"] <= 1 for r in checks)
    trained = json.loads((tmp_path / "fssl-split.json").read_text())
    wanted = {"off", "off-0.95", "cpu1", "cpu1-lasso", "cpu1-shuffled", "cpu1-residual", "cpu1-swapped", "cpu128"}
    wanted |= {f"off-{kind}-cpu1" for kind in ("timed", "shuffled", "judged", "residual", "swapped")}
    assert wanted <= {r["curve"] for r in trained}
    assert all(0 < r["density"] <= 1 for r in trained if r["curve"].startswith("cpu"))
    timed = json.loads((tmp_path / "cpu" / "fssl-split.json").read_text())
    assert len(timed) == len(trained)
    assert all(r["latency_cpu_1_ms"] > 0 and r["latency_cpu_128_ms"] > 0 for r in timed)


def test_curves_are_compared_at_equal_accuracy(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    compare = importlib.import_module("fssl_compare")
    records = []
    for curve, factor in (("cpu1", 1.0), ("off", 1.5), ("short", 1.0)):
        for point in range(1 if curve == "short" else 4):
            for seed in range(1, 6):
                accuracy, ms = 98 + 0.3 * point + 0.01 * seed, factor * 2.0**point
                label = f"{curve}-{point}"
                facts = {"curve": curve, "label": label, "seed": seed, "test_accuracy": accuracy}
                records.append({**facts, "latency_cpu_1_ms": ms * 1.01**seed})
    rows = compare.compared(records, [("cpu", 1)])
    assert {r["curve"] for r in rows} == {"off"}  # one point can't be compared
    assert all(r["times_as_long"] == pytest.approx(1.5) for r in rows)
    assert all(r["low"] <= 1.5 + 1e-9 and r["high"] >= 1.5 - 1e-9 for r in rows)


def test_controls_are_compared_seed_by_seed(monkeypatch) -> None:
    """One table leaves networks dense, the other ruins them at the first budget."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    compare = importlib.import_module("fssl_compare")
    curves = {
        "cpu1": {1: [(98, 1), (99, 2)], 2: [(98, 1), (99, 2)]},
        "cpu1-shuffled": {1: [(99, 8), (99, 8)], 2: [(98, 2), (10, 1)]},
    }
    records = [
        {"curve": c, "label": f"{c}{k}", "seed": s, "test_accuracy": float(accuracy), "latency_cpu_1_ms": float(ms)}
        for c, by_seed in curves.items()
        for s, points in by_seed.items()
        for k, (accuracy, ms) in enumerate(points)
    ]
    (row,) = compare.compared(records, [("cpu", 1)])
    assert (row["from_accuracy"], row["to_accuracy"]) == (98, 99)
    assert (row["networks"], row["less_accurate"], row["more_accurate"]) == (3, 1, 0)
    assert row["times_as_long"] == pytest.approx((4 * 2) ** 0.5)  # 8, 8 over 2 and 2 over 1
    assert (row["low"], row["high"]) == pytest.approx((2, 4))


def test_curves_are_compared_budget_by_budget(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    compare = importlib.import_module("fssl_compare")
    records = []
    for curve, factor, better in (("cpu128", 1.0, 0.1), ("off", 3.0, 0.0)):
        for point in range(2):
            for seed in range(1, 5):
                facts = {"curve": curve, "label": f"{curve}-{point}", "seed": seed, "test_accuracy": 99 + better}
                facts |= {"weights": 10 + point if curve == "off" else 5 + point}
                facts |= {"held_out_accuracy": 99 + 2 * better + 0.01 * seed}
                records.append({**facts, "latency_cpu_128_ms": factor * 2.0**point * 1.1**seed})
    rows = compare.paired(records, [("cpu", 128), ("cpu", 1)])
    named = [(r["tuned"], r["label"]) for r in rows]
    assert named == [("cpu128-1", "off-1"), ("cpu128-0", "off-0"), ("cpu128", "off")]
    assert rows[-1]["budgets"] == 2
    for row in rows:
        assert row["times_as_long"] == pytest.approx(3)
        assert (row["test_gain"], row["held_out_gain"]) == pytest.approx((0.1, 0.2))
        assert row["low"] == pytest.approx(3) == row["high"]
    without = [r for r in records if r["curve"] == "off"]
    priced = [{**r, "curve": "off-timed-cpu128", "label": f"timed-{r['label']}"} for r in without]
    priced = [{**r, "latency_cpu_128_ms": r["latency_cpu_128_ms"] / 1.5} for r in priced]
    others = [{**r, "curve": "off-timed-cpu1"} for r in priced]  # for another target
    rows = compare.paired([*records, *priced, *others], [("cpu", 128)])
    found = {(r["tuned"], r["label"]): r["times_as_long"] for r in rows}
    for point in range(2):
        assert found[f"cpu128-{point}", f"timed-off-{point}"] == pytest.approx(2)
        assert found[f"off-{point}", f"timed-off-{point}"] == pytest.approx(1 / 1.5)
    assert len(rows) == 9
    rows = compare.paired([*records, *priced], [("cpu", 128)], tuned=False)
    assert [r["tuned"] for r in rows] == ["off-1", "off-0", "off"]
    lacking = [r for r in records if (r["label"], r["seed"]) != ("off-1", 2)]
    assert [r["seeds"] for r in compare.paired(lacking, [("cpu", 128)])] == [3, 4, 3]


def test_labels_are_compared_seed_by_seed(tmp_path, monkeypatch, capsys) -> None:
    """By all engines and by PyTorch's own; of a network in two files the last counts."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    compare = importlib.import_module("fssl_compare")
    records = []
    for method, ms in (("fssl", 1.0), ("magnitude", 3.0)):
        for seed in range(1, 5):
            facts = {"method": method, "label": f"{method}-0.9", "seed": seed, "weights": 9}
            facts |= {"test_accuracy": 99.0 + 0.1 * (method == "fssl"), "held_out_accuracy": 99.0}
            times = {"spdnn-compiled": ms * 1.1**seed, "torch": 2 * 1.1**seed}
            records.append({**facts, "latency_cpu_1_ms": min(times.values()), "latency_cpu_1_all_ms": times})
    slow = [{**r, "latency_cpu_1_all_ms": {"torch": 100.0}} for r in records]
    for name, rows in (("old", slow), ("new", records)):
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    files = [str(tmp_path / f"{name}.json") for name in ("old", "new")]
    command = ["fssl_compare.py", *files, "--output", str(tmp_path / "all")]
    monkeypatch.setattr(sys, "argv", [*command, "--labels", "fssl-0.9:magnitude-0.9"])
    compare.main()
    rows = json.loads((tmp_path / "all-labels.json").read_text())
    assert [(r["engines"], r["batch"], r["seeds"]) for r in rows] == [("all", 1, 4), ("torch", 1, 4)]
    assert [r["times_as_long"] for r in rows] == pytest.approx([2, 1])  # magnitude's best engine is PyTorch's
    assert rows[0]["test_gain"] == pytest.approx(0.1)
    assert "takes 2.000 [2.000, 2.000] times as long as fssl-0.9" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*command, "--labels", "fssl-0.9:other"])
    with pytest.raises(ValueError, match="'other'"):
        compare.main()


def test_processes_that_share_a_device_agree_on_epochs(tmp_path) -> None:
    script = ROOT / "benchmarks" / "fssl_campaign.py"
    options = ["--device", "cpu", "--small", "--data", "digits", "--output", str(tmp_path), "--times-later"]
    environment = os.environ | {"SPDNN_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    (tmp_path / "agreed").mkdir()
    (tmp_path / "agreed" / "wide-0").write_text("1")  # another process, slower
    more = ["--only", "gpu_tables,wide,wall", "--wide-jobs", "structured", "--within", "60", "--together", "1"]
    subprocess.run([sys.executable, str(script), *options, *more], env=environment, check=True, capture_output=True)
    found = json.loads((tmp_path / "fssl-wide-structured.json").read_text())
    assert {r["epochs"] for r in found} == {1}
    assert not (tmp_path / "fssl-wide-magnitude.json").exists()
    checks = json.loads((tmp_path / "fssl-latency-model-gpu.json").read_text())
    assert all(-1 <= r["spearman"] <= 1 for r in checks)
    assert all(r["ratio"] > 0 for r in json.loads((tmp_path / "fssl-wall.json").read_text()))


def test_a_gpus_candidates_give_the_same_answers(tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    campaign = __import__("fssl_campaign")
    model = nn.Sequential(nn.Flatten(), nn.Linear(30, 13), nn.ReLU(), nn.Linear(13, 9), nn.ReLU(), nn.Linear(9, 4))
    with torch.no_grad():
        model[1].weight[:, ::4] = 0
        for k in (1, 3, 5):
            model[k].weight.mul_(torch.rand_like(model[k].weight) < 0.2)
    x = torch.rand(7, 5, 6)
    small = rivals.compacted(model, x)
    with torch.inference_mode():
        for made in (campaign.aligned(small, 8), campaign.Transposed(small)):
            torch.testing.assert_close(made(x), model(x), rtol=1e-5, atol=1e-5)
    speed = campaign.gpu_speed(small, x, seconds=0.001, scattered=True)
    assert {"torch", "torch-whole", "torch-aligned", "torch-csr"} <= set(speed.all)
    assert speed.ms == speed.all[speed.engine]


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
