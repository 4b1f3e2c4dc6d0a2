"""The tables from recorded figures: which figures stand where, and what is said about those that are missing."""

from __future__ import annotations

import csv
import io
import json

import pytest

from spdnn.challenge import Instance
from spdnn.report import tables
from spdnn.report.cells import Cell, Column
from spdnn.report.paper import GTX_1080, V100, paper_cells
from spdnn.report.tables import PAPER_INSTANCES, build, lines, misprint

GPU = "NVIDIA T9000"
TIMED = {"reason": None, "verified": True, "problems": [], "plan": {"peak_workspace_bytes": 1 << 30}}
MACHINE = {
    "gpu": GPU, "gpu_memory_bytes": 80 << 30, "driver": "580.1",
    "cpu": "A CPU", "cpu_cores": 16, "memory_bytes": 128 << 30,
}  # fmt: skip


def recorded(engine: str, seconds: float | None, *, peak: int | None = 3 << 30, **others):
    edges = None if seconds is None else 6e4 / seconds
    figures = {"engine": engine, "seconds": seconds, "edges_per_second": edges, "peak_device_memory_bytes": peak}
    return TIMED | MACHINE | figures | others


RECORDS = {
    Cell(Instance(1024, 120), "cusparse", "filter"): recorded("cusparse", 0.25),
    Cell(Instance(1024, 120), "cusparse", "buffer"): recorded("cusparse", 0.5),
    Cell(Instance(1024, 120), "cusparse", "spmm"): recorded("cusparse", 0.0125),
    Cell(Instance(1024, 480), "cusparse", "filter"): recorded(
        "cusparse", None, peak=None, reason="Not enough memory: 7 bytes more.", verified=False
    ),
    Cell(Instance(1024, 1920), "cusparse", "filter"): recorded(
        "cusparse", None, peak=None, reason="Time limit: more than 5 s.", verified=False
    ),
    Cell(Instance(4096, 120), "cusparse", "filter"): recorded(
        "cusparse", 2.0, verified=False, problems=["3 missing rows"]
    ),
    Cell(Instance(65536, 120), "cusparse", "filter"): recorded("cusparse", 12.5),
    Cell(Instance(1024, 120), "scipy"): recorded("scipy", 21.0, peak=None, plan={}),
}
INSTANCES = (*PAPER_INSTANCES, Instance(65536, 120))


@pytest.fixture(scope="module")
def built():
    made = build(INSTANCES, ["buffer", "nobuffer", "filter", "spmm"], [Column("scipy")], RECORDS.get)
    return {table.name: table for table in made}


def row(table, neurons, layers):
    (found,) = [row for row in table.rows if row[:2] == [str(neurons), str(layers)]]
    return found


def test_all_tables_in_the_order_of_the_paper(built):
    names = ["III", "IV", "V", "VI", "VII", "VIII", "IX"]
    assert list(built) == [*(f"Table {name}" for name in names), "Further variants", "Device memory", "Workspace"]
    for name in names[1:]:
        assert [row[:2] for row in built[f"Table {name}"].rows] == [[str(i.neurons), str(i.layers)] for i in INSTANCES]


@pytest.mark.parametrize("cell", paper_cells(), ids=str)
def test_every_figure_of_the_paper_is_in_its_place(built, cell):
    for name, value in ((cell.time_table, cell.seconds), (cell.rate_table, cell.edges_per_second)):
        table = built[f"Table {name}"]
        text = row(table, cell.neurons, cell.layers)[2 + [GTX_1080, V100].index(cell.gpu)].rstrip("⁰¹²³⁴⁵⁶⁷⁸⁹")
        assert text == "/" if value is None else float(text) == pytest.approx(value, rel=1e-3)


def test_this_machine_stands_beside_the_papers(built):
    assert built["Table VI"].header == [
        "Neurons", "Layers", GTX_1080, V100, GPU, "V100 / ours", "A CPU, 16 cores, scipy"
    ]  # fmt: skip
    assert row(built["Table VI"], 1024, 120)[4:] == ["**0.25**", "11.0×", "21"]
    assert row(built["Table IX"], 1024, 120)[4:6] == ["**2.400e5**", "11.0×"]
    assert row(built["Table VI"], 65536, 120)[2:6] == ["", "", "**12.5**", ""]
    assert built["Table III"].rows[-1] == ["128G", "A CPU, 16 cores", f"**{GPU}, 80 GiB, driver 580.1**"]


def test_why_there_is_no_time(built):
    table = built["Table VI"]
    texts = {depth: row(table, 1024, depth)[4] for depth in (480, 1920)}
    assert texts[480].startswith("not enough memory")
    assert texts[1920].startswith("over the time limit")
    assert "Not enough memory: 7 bytes more." in table.notes
    assert row(table, 16384, 480)[4].startswith("–")
    assert row(table, 4096, 120)[4].startswith("**2**")
    assert "Wrong categories: 3 missing rows" in table.notes


def test_misprints_are_noted(built):
    wrong = {(c.gpu, c.neurons, c.layers) for c in paper_cells() if misprint(c)}
    assert wrong == {
        (GTX_1080, 4096, 120), (GTX_1080, 4096, 480), (GTX_1080, 4096, 1920), (GTX_1080, 16384, 120),
        (V100, 1024, 480), (V100, 1024, 1920),
    }  # fmt: skip
    for name in ("VI", "IX"):
        notes = [note for note in built[f"Table {name}"].notes if "disagree" in note]
        assert {note.split("rate is ")[1].split()[0] for note in notes} == {"0.25", "0.26", "0.68", "0.92"}
    for name in ("IV", "V", "VII", "VIII"):
        assert not any("disagree" in note for note in built[f"Table {name}"].notes)
    for name in ("VIII", "IX"):
        assert "caption of Table VII" in built[f"Table {name}"].notes[0]
        assert built[f"Table {name}"].title.endswith("¹")


def test_further_variants_and_memory(built):
    assert built["Further variants"].rows == [["1024", "120", "0.0125"]]
    assert row(built["Device memory"], 1024, 120)[2:] == ["3", "", "3", "3", ""]
    assert row(built["Workspace"], 1024, 120)[2:] == ["1", "", "1", "1"]


def test_markdown_is_a_table_with_its_notes(built):
    text = built["Table IX"].markdown().splitlines()
    assert text[0].startswith("**Table IX.** cuSPARSE with filter: rate")
    assert {line.count("|") for line in text if line.startswith("|")} == {8}
    assert text[-1].startswith("¹ ")


def test_one_figure_a_line():
    found = lines(INSTANCES, ["buffer", "nobuffer", "filter", "spmm"], [Column("scipy")], RECORDS.get)
    assert len(found) == 54 + len(RECORDS)
    read = list(csv.DictReader(io.StringIO(tables.to_csv(found))))
    assert [line["note"] for line in read] == [line["note"] for line in found]
    assert json.loads(tables.to_json(found)) == found
    ours = [line for line in read if line["source"] == "measured" and line["engine"] == "scipy"]
    assert [(line["seconds"], line["variant"]) for line in ours] == [("21.0", "")]
