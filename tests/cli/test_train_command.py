"""`spdnn train`: the whole recipe on synthetic digits, its records, interrupting and going on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("torch")

from spdnn.cli import run
from spdnn.fssl import load_model

QUICK = ["train", "--data", "digits", "--hidden", "30,20", "--rows", "600", "--epochs", "3", "--threads", "1"]
FLAT = "method dataset network architecture seed weights_removed test_accuracy latency_ms device batch"
KEYS = set(FLAT.split())


@pytest.fixture(autouse=True)
def _caches(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SPDNN_CACHE", str(tmp_path / "cache"))


def record_of(capsys, *arguments: str) -> dict:
    assert run([*QUICK, "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_it_trains_prunes_and_records(capsys, tmp_path) -> None:
    found = record_of(capsys, "--remove", "0.9", "--output", str(tmp_path), "--seed", "1,2")
    assert [record["seed"] for record in found] == [1, 2]
    for record in found:
        assert set(record) >= KEYS
        assert record["weights_removed"] >= 0.9
        assert record["latency_ms"] > 0
        assert 0 <= record["test_accuracy"] <= 100
        folder = tmp_path / f"digits-784-30-20-10-fssl-0.9-seed{record['seed']}"
        assert load_model(folder / "model.safetensors").facts["weights"] == record["weights"]
        history = json.loads((folder / "history.json").read_text())
        assert [epoch["epoch"] for epoch in history] == [1, 2, 3]
        assert not (folder / "state.safetensors").exists()


@pytest.mark.parametrize(
    "options",
    [
        ["--method", "dense"],
        ["--method", "magnitude", "--remove", "0.8"],
        ["--method", "lasso", "--remove", "0.8"],
        ["--method", "flops", "--latency", "0.9", "--target-batch", "256"],
        ["--latency", "0.5", "--density", "auto", "--target-batch", "16"],
        ["--remove", "0.8", "--timed", "--target-batch", "16"],
        ["--method", "residual", "--remove", "0.8", "--timed", "--target-batch", "16"],
        ["--remove", "0.8", "--tile", "4x1"],
        ["--latency", "0.5", "--density", "0.5", "--tile", "2x1", "--target-batch", "16"],
        ["--distill", "0.5", "--teachers", "2", "--augment", "0"],
    ],
)
def test_every_method_runs(capsys, tmp_path, options) -> None:
    record = record_of(capsys, *options, "--output", str(tmp_path))
    assert record["method"] == (options[1] if options[0] == "--method" else "fssl")
    if options[:2] == ["--method", "dense"]:
        assert record["architecture"] == "784-30-20-10"


def test_it_says_where_weights_took_the_place_of_time(capsys, tmp_path) -> None:
    options = ["--remove", "0.8", "--timed", "--target-batch", "16", "--output", str(tmp_path)]
    assert record_of(capsys, *options)["priced_by"] == "time"
    assert record_of(capsys, *options, "--method", "judged")["priced_by"] == "weights"
    assert run([*QUICK, *options, "--method", "judged", "--restart"]) == 0
    said = capsys.readouterr()
    assert "chosen by  weights" in said.out
    warnings = [line for line in said.err.splitlines() if line.startswith("warning: Measured times")]
    assert len(warnings) == 1
    assert warnings[0].endswith("nothing else to do.")
    assert "methods.py" not in said.err


def test_runs_with_other_targets_get_other_folders(capsys, tmp_path) -> None:
    kinds = [["--remove", "0.8"], ["--remove", "0.8", "--groups", "0.7"], ["--remove", "0.8", "--tile", "2x1"]]
    kinds += [["--latency", "0.9"], ["--latency", "0.9", "--density", "0.5"]]
    for number, options in enumerate(kinds, start=1):
        record_of(capsys, *options, "--target-batch", "16", "--epochs", "1", "--output", str(tmp_path / "runs"))
        assert len(list((tmp_path / "runs").iterdir())) == number
    assert (tmp_path / "runs" / "digits-784-30-20-10-fssl-0.8-groups0.7-seed1").is_dir()


def test_the_small_architecture_is_trained_anew(capsys, tmp_path) -> None:
    first = record_of(capsys, "--remove", "0.9", "--output", str(tmp_path))
    model = tmp_path / "digits-784-30-20-10-fssl-0.9-seed1" / "model.safetensors"
    again = record_of(capsys, "--method", "scratch", "--like", str(model), "--output", str(tmp_path))
    assert again["architecture"] == first["architecture"]
    assert again["weights"] == first["weights"]


def test_torch_pruning_meets_the_budget(capsys, tmp_path) -> None:
    pytest.importorskip("torch_pruning")
    record = record_of(capsys, "--method", "torch-pruning", "--remove", "0.5", "--output", str(tmp_path))
    assert record["weights_removed"] >= 0.5


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is sent as a POSIX signal")
def test_interrupted_it_goes_on_to_the_same_network(tmp_path) -> None:
    command = [
        sys.executable,
        "-c",
        "from spdnn.cli import main; main()",
        *QUICK[:-4],
        "--epochs",
        "40",
        "--threads",
        "1",
    ]
    folder = "digits-784-30-20-10-fssl-0.976-seed1"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for name, stops in (("whole", False), ("parts", True)):
        full = [*command, "--output", str(tmp_path / name)]
        if stops:
            process = subprocess.Popen(full, env=environment, stderr=subprocess.PIPE, text=True)
            state = tmp_path / name / folder / "state.safetensors"
            limit = time.monotonic() + 120
            while not state.exists() and process.poll() is None and time.monotonic() < limit:
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=120)
            assert process.returncode == 130, error
            assert state.exists()
        subprocess.run(full, env=environment, check=True, capture_output=True)
    models = [load_model(tmp_path / name / folder / "model.safetensors") for name in ("whole", "parts")]
    values = [model.state_dict() for model in models]
    assert values[0].keys() == values[1].keys()
    assert all(bool((values[0][key] == values[1][key]).all()) for key in values[0])


def test_options_that_do_not_fit_are_refused(capsys, tmp_path) -> None:
    for arguments, message in (
        (["--latency", "0.5", "--remove", "0.9"], "got both"),
        (["--remove", "0.9", "--density", "auto"], "--density with --latency"),
        (["--latency", "0.5", "--timed"], "--timed with --remove"),
        (["--method", "flops", "--remove", "0.5"], "sparsity that is timed"),
        (["--latency", "0.5", "--density", "much"], "a share or auto"),
        (["--remove", "0.9", "--tile", "4"], "as in 4x1, got '4'"),
        (["--remove", "0.9", "--tile", "0x1"], "at least 1 × 1"),
        (["--remove", "0.9", "--structured", "--tile", "2x1"], "--tile with zeros inside"),
        (["--latency", "0.5", "--density", "1.0", "--tile", "2x1"], "--tile with zeros inside"),
        (["--latency", "0.5", "--density", "auto", "--tile", "2x1"], "--tile with zeros inside"),
        (["--method", "lasso", "--remove", "0.9", "--tile", "2x1"], "--tile with zeros inside"),
        (["--method", "fsll"], "Did you mean 'fssl'"),
        (["--method", "magnitude", "--latency", "0.5"], "no notion of time"),
        (["--method", "scratch"], "file of a compact network"),
        (["--hidden", "30,x"], "whole number"),
        (["--data", str(tmp_path / "none")], "folder of IDX"),
    ):
        assert run([*QUICK, *arguments, "--output", str(tmp_path)]) in (1, 2)
        assert message in capsys.readouterr().err
