"""`spdnn challenge`, `spdnn doctor` and `spdnn generate` on the first rows of the official inputs."""

from __future__ import annotations

import gzip
import json
import sys

import jsonschema
import pytest

from spdnn import machine, record
from spdnn.errors import UnavailableError
from spdnn.io import load_categories

SMALL = ("--engine", "scipy", "--rows", 200, "--repeat", 1)


@pytest.fixture(autouse=True)
def official_inputs(mnist_dir, cache):
    """MNIST, and a cache for the inputs made of it."""


def test_it_passes_and_says_so_last(spdnn):
    outcome = spdnn("challenge", *SMALL, "--layers", 12)
    lines = outcome.out.splitlines()
    assert outcome.status == 0
    assert lines[-1].startswith("PASS")
    assert "float64 reference on 200 of 200 rows" in lines[-1]
    assert "1024 neurons × 12 layers, 200 rows, 393,216 edges" in lines[0]
    assert "MNIST" in outcome.out
    assert outcome.err == ""


def test_several_instances_and_json(spdnn):
    outcome = spdnn("challenge", *SMALL, "--layers", "3,6", "--json", "--no-merge")
    kept = json.loads(outcome.out)
    assert [one["layers"] for one in kept] == [3, 6]
    for one in kept:
        jsonschema.validate(one, record.schema())
        assert (one["merge"], one["compact"]) == (False, True)
        assert one["verified"]


def test_the_record_is_kept_where_asked(spdnn, tmp_path):
    outcome = spdnn("challenge", *SMALL, "--layers", 6, "--output", tmp_path, "--machine", "here", "--json")
    path = tmp_path / "here" / "1024-6-scipy-200rows.json"
    assert outcome.status == 0
    assert json.loads(path.read_text())["seconds"] == json.loads(outcome.out)["seconds"]
    assert "1024-6-scipy" in spdnn("challenge", *SMALL, "--layers", 6, "--output", tmp_path).out
    assert (tmp_path / machine.machine_name() / path.name).is_file()


def test_a_failed_verification_is_a_failed_run(spdnn, stand_ins):
    outcome = spdnn("challenge", "--engine", "forgetful", "--rows", 200, "--layers", 6)
    last = outcome.out.splitlines()[-1]
    assert outcome.status == 1
    assert last.startswith("FAIL")
    assert "1 missing row: " in last
    assert "1 extra row: " in last


def test_float16_says_how_many_categories_change(spdnn, stand_ins):
    arguments = ("challenge", "--engine", "rounding", "--rows", 200, "--repeat", 1, "--layers", 6, "--dtype")
    outcome = spdnn(*arguments, "float16")
    assert outcome.status == 1
    assert "changes 2 categories: 1 missing, 1 extra" in outcome.out
    assert outcome.out.splitlines()[-1].startswith("FAIL  1 missing row: ")
    kept = json.loads(spdnn(*arguments, "float16", "--json").out)
    assert (kept["categories_missing"], kept["categories_extra"], kept["verified"]) == (1, 1, False)
    assert "changes" not in spdnn(*arguments, "float32").out


def test_too_large_is_a_failed_run_with_a_reason(spdnn, stand_ins):
    outcome = spdnn("challenge", "--engine", "huge", "--rows", 200, "--layers", 6)
    assert outcome.status == 1
    assert outcome.out.splitlines()[-1] == "FAIL  Expected 8 EiB of memory, got less."


def test_what_does_not_fit_is_printed(spdnn, stand_ins):
    outcome = spdnn("challenge", "--engine", "cramped", "--rows", 200, "--layers", 3)
    assert outcome.status == 0
    assert "features larger than the GPU: 3 row tiles of 70 rows" in " ".join(outcome.out.split())


def test_ctrl_c_leaves_nothing_behind(spdnn, stand_ins, tmp_path):
    outcome = spdnn("challenge", "--engine", "interrupted", "--rows", 200, "--output", tmp_path)
    assert outcome == (130, "", "interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_a_record_that_cant_be_written_is_one_line(spdnn, tmp_path):
    (tmp_path / "taken").write_text("")
    outcome = spdnn("challenge", *SMALL, "--layers", 3, "--output", tmp_path / "taken")
    assert outcome.status == 1
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1


def test_every_layer_is_printed_when_asked(spdnn):
    outcome = spdnn("challenge", *SMALL, "--layers", 24, "--profile")
    assert "live rows after" in outcome.out
    assert any(line.split()[0].endswith("24") for line in outcome.out.splitlines() if line.strip())


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_the_profile_is_drawn_where_asked(spdnn, tmp_path, suffix):
    pytest.importorskip("matplotlib")
    arguments = ("challenge", "--engine", "numba", "--rows", 200, "--repeat", 1, "--json", "--layers")
    path = tmp_path / f"profile.{suffix}"
    kept = json.loads(spdnn(*arguments, 6, "--profile-picture", path).out)
    assert path.stat().st_size > 1000
    assert len(kept["layer_seconds"]) == len(kept["layer_bytes"]) == 6
    assert kept["layer_bytes"][1] > 4 * kept["distinct_rows"][1]
    spdnn(*arguments, "3,6", "--profile-picture", path)
    assert {p.name for p in tmp_path.iterdir()} == {path.name, *(f"profile-1024-{n}.{suffix}" for n in (3, 6))}


def test_a_picture_that_cant_be_drawn_is_refused_before_the_run(spdnn, tmp_path, monkeypatch):
    outcome = spdnn("challenge", *SMALL, "--profile-picture", tmp_path / "profile.txt")
    assert outcome.status == 1
    assert "ending in .png, .svg, .pdf, got" in outcome.err
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    outcome = spdnn("challenge", *SMALL, "--profile-picture", tmp_path / "profile.png")
    assert (outcome.status, outcome.out) == (1, "")
    assert "pip install 'spdnn[plots]'" in outcome.err


def test_synthetic_digits_are_announced(spdnn, monkeypatch):
    def unavailable(neurons, *, source, rows, **options):
        if source == "mnist":
            raise UnavailableError("no MNIST here")
        return genuine(neurons, source="mnist", rows=rows)

    from spdnn.data import challenge_features as genuine

    monkeypatch.setattr("spdnn.data.challenge_features", unavailable)
    outcome = spdnn("challenge", *SMALL, "--layers", 3)
    assert "synthetic digits, not the official inputs" in outcome.out
    assert json.loads(spdnn("challenge", *SMALL, "--layers", 3, "--json").out)["input"] == "digits"
    outcome = spdnn("challenge", *SMALL, "--layers", 3, "--source", "mnist")
    assert (outcome.status, outcome.err) == (1, "error: no MNIST here\n")


def test_generated_files_give_the_generated_categories(spdnn, tmp_path):
    assert spdnn("generate", "images", "--rows", 200, "--output", tmp_path, "--gzip").status == 0
    assert spdnn("generate", "network", "--layers", 6, "--output", tmp_path).status == 0
    made = spdnn("generate", "categories", "--rows", 200, "--layers", 6, "--output", tmp_path, "--engine", "scipy")
    assert made.status == 0
    assert made.out.splitlines()[-1].startswith("PASS")
    images, truth = tmp_path / "sparse-images-1024.tsv.gz", tmp_path / "neuron1024-l6-categories.tsv"
    assert gzip.decompress(images.read_bytes()).startswith(b"1\t")

    again = tmp_path / "again.tsv"
    arguments = ("--rows", 200, "--engine", "scipy", "--categories", again, "--json")
    outcome = spdnn("infer", tmp_path / "neuron1024", images, *arguments)
    assert outcome.status == 0
    assert json.loads(outcome.out)["categories"] == len(load_categories(truth)) > 0
    assert again.read_bytes() == truth.read_bytes()

    held = spdnn("challenge", *SMALL, "--layers", 6, "--categories", truth)
    assert held.status == 0
    assert "file neuron1024-l6-categories.tsv" in held.out.splitlines()[-1]


def test_wrong_categories_are_not_written(spdnn, stand_ins, tmp_path):
    arguments = ("--rows", 200, "--layers", 6, "--output", tmp_path, "--engine", "forgetful")
    assert spdnn("generate", "categories", *arguments).status == 1
    assert list(tmp_path.iterdir()) == []


def test_the_doctor_tells_what_works(spdnn, mnist_dir, monkeypatch):
    outcome = spdnn("doctor")
    assert outcome.status == 0
    assert "scipy" in outcome.out
    facts = json.loads(spdnn("doctor", "--json").out)
    engines = {one["name"]: one for one in facts["engines"]}
    assert engines["scipy"]["works"]
    assert all(one["works"] or one["why_not"] for one in facts["engines"])
    assert engines[facts["chosen"]]["works"]
    assert facts["data"]["mnist"] == str(mnist_dir / "mnist")
    assert facts["data"]["official_categories"]


def test_the_doctor_says_what_to_install(spdnn, monkeypatch):
    class Lacking:
        name, device, requires, variants, dtypes, switches = "scipy", "cpu", "extra", (), (), ()

        def available(self):
            return "package x is missing."

    monkeypatch.setattr("spdnn.doctor.get_engine", lambda name: Lacking())
    monkeypatch.setattr("spdnn.doctor.engine_names", lambda: ["scipy"])
    outcome = spdnn("doctor")
    assert "package x is missing. pip install 'spdnn[extra]'" in outcome.out
