"""`spdnn tables` with an engine on the CPU in the place of cuSPARSE, on the first rows of the inputs."""

from __future__ import annotations

import json
import time

import challenge_stand_ins
import pytest

from spdnn import challenge, engine, machine, record
from spdnn.engines.scipy import ScipyEngine, ScipyPlan
from spdnn.errors import MemoryLimitError, UnavailableError
from spdnn.report import cells

ROWS = 200
COMMIT = ["a" * 40]
RAN: list[str] = []


class Plan(ScipyPlan):
    def _execute(self, *arguments, **options):
        RAN.append(f"{len(self.network)} {self.options.variant}")
        progress = options.get("progress")
        if self.options.variant == "reuse" and progress:
            time.sleep(0.02)
            progress(1, len(self.network))
        if self.options.variant == "spmm":
            raise KeyboardInterrupt
        return super()._execute(*arguments, **options)


class Engine(ScipyEngine):
    """buffer is right, nobuffer doesn't fit, reuse is slow, spmm is interrupted."""

    name, variants = "cusparse", ("filter", "buffer", "nobuffer", "reuse", "spmm")

    def _prepare(self, network, rows, options):
        if options.variant == "nobuffer":
            raise MemoryLimitError("Not enough memory: 8 EiB more.", needed=2**63, limit=1)
        return Plan(network, rows, options)


@pytest.fixture(autouse=True)
def _stand_in(mnist_dir, cache, stand_ins, monkeypatch):
    load = challenge.Inputs.load
    monkeypatch.setattr(cells.Inputs, "load", lambda n, **options: load(n, **options | {"rows": ROWS}))
    monkeypatch.setattr(record, "CHALLENGE_ROWS", ROWS)
    monkeypatch.setattr(machine, "commit", lambda: (COMMIT[0], False))
    monkeypatch.setitem(engine.BUILT_IN, "cusparse", f"{__name__}:{Engine.__name__}")
    RAN.clear()


def tables(spdnn, folder, *arguments):
    return spdnn("tables", "--output", folder, "--machine", "here", "--repeat", 1, *arguments)


def test_cells_are_run_recorded_and_not_run_again(spdnn, tmp_path):
    arguments = ("--instances", "1024-3,1024-6", "--variants", "buffer,filter")
    outcome = tables(spdnn, tmp_path, *arguments)
    assert outcome.status == 0
    assert outcome.out.count("**Table ") == 5
    assert [line.split()[-1] for line in outcome.err.splitlines()] == ["PASS"] * 4
    names = {path.name for path in (tmp_path / "here").iterdir()}
    assert names == {f"1024-{d}-cusparse-{v}.json" for d in (3, 6) for v in ("buffer", "filter")}
    kept = json.loads((tmp_path / "here" / "1024-3-cusparse-filter.json").read_text())
    assert (kept["variant"], kept["layers"], kept["verified"]) == ("filter", 3, True)
    assert f"**{kept['seconds']:.4g}**" in outcome.out

    RAN.clear()
    again = tables(spdnn, tmp_path, *arguments)
    assert (again.out, again.status, RAN) == (outcome.out, 0, [])
    assert again.err.count("(recorded before)") == 4
    (tmp_path / "here" / "1024-6-cusparse-buffer.json").unlink()
    tables(spdnn, tmp_path, *arguments)
    assert set(RAN) == {"6 buffer"}
    RAN.clear()
    tables(spdnn, tmp_path, *arguments, "--again")
    assert {ran.split()[1] for ran in RAN} == {"buffer", "filter"}


def test_another_commit_runs_them_again(spdnn, tmp_path, monkeypatch):
    arguments = ("--instances", "1024-3", "--variants", "filter")
    tables(spdnn, tmp_path, *arguments)
    RAN.clear()
    monkeypatch.setattr(machine, "commit", lambda: ("b" * 40, False))
    tables(spdnn, tmp_path, *arguments)
    assert RAN


def test_why_a_cell_has_no_time(spdnn, tmp_path):
    arguments = ("--instances", "1024-6", "--variants", "nobuffer,reuse", "--time-limit", "0.01")
    outcome = tables(spdnn, tmp_path, *arguments)
    assert outcome.status == 0
    assert "not enough memory" in outcome.out
    assert "over the time limit" in outcome.out
    kept = json.loads((tmp_path / "here" / "1024-6-cusparse-nobuffer.json").read_text())
    assert (kept["seconds"], kept["reason"]) == (None, "Not enough memory: 8 EiB more.")
    kept = json.loads((tmp_path / "here" / "1024-6-cusparse-reuse.json").read_text())
    assert kept["seconds"] is None
    assert kept["reason"].startswith("Time limit: more than 0.01 s, ")
    assert kept["reason"].endswith(" of 6 layers done.")


def test_an_interruption_loses_no_finished_cell(spdnn, tmp_path):
    outcome = tables(spdnn, tmp_path, "--instances", "1024-3", "--variants", "buffer,spmm,filter")
    assert outcome.status == 130
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["1024-3-cusparse-buffer.json"]


def test_wrong_categories_fail(spdnn, tmp_path):
    outcome = tables(spdnn, tmp_path, "--instances", "1024-6", "--variants", "filter", "--engines", "forgetful")
    assert outcome.status == 1
    assert "Wrong categories: 1 missing row" in outcome.out
    assert "forgetful" in challenge_stand_ins.ENGINES


def test_no_further_cell_starts_after_the_given_time(spdnn, tmp_path):
    outcome = tables(spdnn, tmp_path, "--instances", "1024-3,1024-6", "--variants", "filter", "--stop-after", 0)
    assert outcome.err.splitlines()[-1].split() == ["1024-6", "cusparse", "filter", "not", "started"]


def test_records_alone_need_no_engine(spdnn, tmp_path, monkeypatch):
    arguments = ("--instances", "1024-3,16384-480", "--variants", "filter")
    tables(spdnn, tmp_path, "--instances", "1024-3", "--variants", "filter")
    monkeypatch.setattr(Engine, "available", lambda self: "no GPU here.")
    outcome = tables(spdnn, tmp_path, *arguments)
    assert outcome.err.startswith("error: Engine 'cusparse' can't run here: no GPU here. With --render")
    outcome = tables(spdnn, tmp_path, *arguments, "--render", "--format", "json")
    assert [line["source"] == "measured" for line in json.loads(outcome.out)] == [False, False, True]
    assert tables(spdnn, tmp_path, *arguments, "--render", "--format", "csv").out.count("\n") == 4


def test_tables_in_a_document(spdnn, tmp_path):
    document = tmp_path / "page.md"
    document.write_text("Before\n<!-- spdnn tables -->\nold\n<!-- /spdnn tables -->\nAfter\n")
    arguments = ("--render", "--instances", "paper", "--into", document)
    assert tables(spdnn, tmp_path, *arguments).out == ""
    text = document.read_text()
    assert text.startswith("Before\n<!-- spdnn tables -->\n**Table III.**")
    assert text.endswith("\n<!-- /spdnn tables -->\nAfter\n")
    assert "old" not in text
    document.write_text("no marks")
    assert "Expected the lines <!-- spdnn tables -->" in tables(spdnn, tmp_path, *arguments).err
    assert document.read_text() == "no marks"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--variants", "bufer"), "Did you mean 'buffer'?"),
        (("--engines", "scip"), "Did you mean 'scipy'?"),
        (("--instances", "1024x3"), "expected instances as in 1024-120,4096"),
        (("--instances", "1000-3"), "Expected 1024, 4096, 16384 or 65536 neurons"),
        (("--format", "html"), "Unknown format 'html'"),
    ],
)
def test_what_is_misspelt_is_said(spdnn, tmp_path, arguments, said):
    outcome = tables(spdnn, tmp_path, *arguments)
    assert outcome.status in (1, 2)
    assert said in outcome.err


def test_a_damaged_record_is_named(spdnn, tmp_path):
    (tmp_path / "here").mkdir()
    path = tmp_path / "here" / "1024-3-cusparse-filter.json"
    path.write_text("{")
    outcome = tables(spdnn, tmp_path, "--instances", "1024-3", "--variants", "filter")
    assert (outcome.status, RAN) == (1, [])
    assert str(path) in outcome.err


def test_without_mnist_nothing_is_run(spdnn, tmp_path, monkeypatch):
    def none(neurons, **options):
        raise UnavailableError("no MNIST here")

    monkeypatch.setattr(cells.Inputs, "load", none)
    outcome = tables(spdnn, tmp_path, "--instances", "1024-3", "--variants", "filter")
    assert (outcome.status, outcome.err) == (1, "error: no MNIST here\n")
