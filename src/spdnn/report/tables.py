"""The seed paper's Tables III to IX with this machine's records beside its two, and what else the records tell."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..challenge import Instance
from ..engine import get_engine
from ..radixnet import CHALLENGE_ROWS
from . import paper
from .cells import NO_ROOM, TOO_LONG, Cell, Column
from .paper import GTX_1080, V100, PaperCell

PAPER_INSTANCES = tuple(Instance(n, depth) for n in (1024, 4096, 16384) for depth in (120, 480, 1920))
TITLES = {"buffer": "cuSPARSE with buffer", "nobuffer": "cuSPARSE without buffer", "filter": "cuSPARSE with filter"}
TABLES = {"buffer": ("IV", "VII"), "nobuffer": ("V", "VIII"), "filter": ("VI", "IX")}
MISPRINT = 0.05  # how far a printed rate may be off rows × edges / seconds

Lookup = Callable[[Cell], dict[str, Any] | None]
"""The record of a cell, if there is one."""


@dataclass
class Table:
    """Text in rows, with notes that cells refer to by superscripts."""

    name: str
    title: str
    header: list[str]
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> str:
        """The mark of a note, the same one for the same text."""
        if text not in self.notes:
            self.notes.append(text)
        return _superscript(self.notes.index(text) + 1)

    def markdown(self) -> str:
        lines = [f"**{self.name}.** {self.title}", "", _line(self.header)]
        lines.append("|" + "|".join(" ---: " if k else " --- " for k in range(len(self.header))) + "|")
        lines += [_line(row) for row in self.rows]
        if self.notes:
            lines += ["", "<br>".join(f"{_superscript(k)} {note}" for k, note in enumerate(self.notes, 1))]
        return "\n".join(lines)


def build(
    instances: Sequence[Instance], variants: Sequence[str], engines: Sequence[Column], lookup: Lookup
) -> list[Table]:
    """Table III, the paper's time and rate tables of `variants` (of engine cusparse), then a table of the variants the
    paper doesn't have and one of memory. `engines` are further columns of the paper's tables."""
    own = [Column("cusparse", variant) for variant in variants]
    records = [kept for column in (*own, *engines) for i in instances if (kept := lookup(column.cell(i)))]
    tables = [_machines(records)]
    ours = [variant for variant in TABLES if variant in variants]
    for rates in (False, True):
        tables += [_paper_table(instances, variant, engines, lookup, rates) for variant in ours]
    others = [column for column in own if column.variant not in TABLES]
    tables += [_others(instances, others, lookup)] if others else []
    return [*tables, *_memory(instances, [*own, *engines], lookup)]


def lines(
    instances: Sequence[Instance], variants: Sequence[str], engines: Sequence[Column], lookup: Lookup
) -> list[dict[str, Any]]:
    """The same figures one a line: the paper's and the records', for CSV and JSON."""
    found = []
    for cell in paper.paper_cells():
        if cell.variant in variants and Instance(cell.neurons, cell.layers) in instances:
            off = misprint(cell)
            found.append(
                _figures(paper.CITATION, cell.gpu, "cusparse", cell.variant, Instance(cell.neurons, cell.layers))
                | {"seconds": cell.seconds, "edges_per_second": cell.edges_per_second}
                | {"note": "" if off is None else _misprinted(cell, off)}
            )
    for column in (*(Column("cusparse", variant) for variant in variants), *engines):
        for instance in instances:
            kept = lookup(column.cell(instance))
            if kept:
                device = _device(kept)
                found.append(
                    _figures("measured", device, column.engine, column.variant, instance)
                    | {key: kept[key] for key in ("seconds", "edges_per_second")}
                    | {"verified": kept["verified"], "peak_device_memory_bytes": kept["peak_device_memory_bytes"]}
                    | {"note": kept["reason"] or "; ".join(kept["problems"])}
                )
    return found


def to_csv(found: list[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(_figures("", "", "", None, PAPER_INSTANCES[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return out.getvalue().rstrip("\n")


def to_json(found: list[dict[str, Any]]) -> str:
    return "[\n" + ",\n".join("  " + json.dumps(line, ensure_ascii=False) for line in found) + "\n]"


def misprint(cell: PaperCell) -> float | None:
    """How many times the rate that follows from its time the printed rate of a cell is, where it isn't about 1."""
    if cell.seconds is None or cell.edges_per_second is None:
        return None
    times = cell.edges_per_second / (CHALLENGE_ROWS * Instance(cell.neurons, cell.layers).edges / cell.seconds)
    return times if abs(times - 1) > MISPRINT else None


# -- the tables --------------------------------------------------------------------------------------------------
def _machines(records: list[dict[str, Any]]) -> Table:
    table = Table("Table III", "The machines", ["Computer memory", "CPU", "GPU"])
    table.rows = [["64G", "Intel Core i7 6700K", GTX_1080], ["256G", "Intel Xeon E7-8860 v4", V100]]
    for kept in records:
        gpu = kept["gpu"] or "none"
        if kept["gpu_memory_bytes"]:
            gpu += f", {kept['gpu_memory_bytes'] / 2**30:.0f} GiB, driver {kept['driver']}"
        row = [f"{kept['memory_bytes'] / 2**30:.0f}G", f"{kept['cpu']}, {kept['cpu_cores']} cores", f"**{gpu}**"]
        if row not in table.rows:
            table.rows.append(row)
    return table


def _paper_table(
    instances: Sequence[Instance], variant: str, engines: Sequence[Column], lookup: Lookup, rates: bool
) -> Table:
    name = TABLES[variant][rates]
    what = "rate, rows × edges / second" if rates else "time, seconds"
    columns = [Column("cusparse", variant), *engines]
    heads = [_head(column, instances, lookup, bare=k == 0) for k, column in enumerate(columns)]
    table = Table(f"Table {name}", f"{TITLES[variant]}: {what}", ["Neurons", "Layers", GTX_1080, V100, *heads])
    table.header.insert(5, "V100 / ours")
    if name in ("VIII", "IX"):
        table.title += table.note("The paper prints the caption of Table VII here, too: rate with buffer.")
    printed = {(c.neurons, c.layers, c.gpu): c for c in paper.paper_cells() if c.variant == variant}
    for instance in instances:
        cells = [printed.get((instance.neurons, instance.layers, gpu)) for gpu in (GTX_1080, V100)]
        row = [str(instance.neurons), str(instance.layers)]
        row += [_printed(table, cell, rates) if cell else "" for cell in cells]
        for k, column in enumerate(columns):
            kept = lookup(column.cell(instance))
            row.append(_measured(table, kept, rates, bold=k == 0))
            if k == 0:
                theirs = cells[1].seconds if cells[1] else None
                row.append(f"{theirs / kept['seconds']:.1f}×" if theirs and kept and kept["seconds"] else "")
        table.rows.append(row)
    return table


def _others(instances: Sequence[Instance], columns: Sequence[Column], lookup: Lookup) -> Table:
    table = Table("Further variants", "time, seconds; the paper doesn't have them", ["Neurons", "Layers"])
    table.header += [_head(column, instances, lookup) for column in columns]
    for instance in instances:
        found = [lookup(column.cell(instance)) for column in columns]
        if any(found):
            texts = [_measured(table, kept, rates=False) for kept in found]
            table.rows.append([str(instance.neurons), str(instance.layers), *texts])
    return table


def _memory(instances: Sequence[Instance], columns: Sequence[Column], lookup: Lookup) -> list[Table]:
    """Peak device memory; of cusparse also how much of it is cuSPARSE's workspace."""
    whole = Table("Device memory", "peak, GiB, weights and features included", ["Neurons", "Layers"])
    workspace = Table("Workspace", "peak of what cuSPARSE asked for, GiB", ["Neurons", "Layers"])
    own = [column for column in columns if column.engine == "cusparse"]
    for table, chosen in ((whole, columns), (workspace, own)):
        table.header += [column.title for column in chosen]
        for instance in instances:
            found = [lookup(column.cell(instance)) for column in chosen]
            if table is whole:
                sizes = [kept["peak_device_memory_bytes"] if kept else None for kept in found]
            else:
                sizes = [kept["plan"].get("peak_workspace_bytes") if kept else None for kept in found]
            if any(sizes):
                texts = [f"{size / 2**30:.3g}" if size else "" for size in sizes]
                table.rows.append([str(instance.neurons), str(instance.layers), *texts])
    return [table for table in (whole, workspace) if table.rows]


# -- their cells -------------------------------------------------------------------------------------------------
def _printed(table: Table, cell: PaperCell, rates: bool) -> str:
    value = cell.edges_per_second if rates else cell.seconds
    if value is None:
        if cell.seconds is not None:
            return "/" + table.note("/ without a rate in the paper, although it has the time.")
        return "/" + table.note("/ not enough memory, says the paper.")
    off = misprint(cell)
    return _number(value, rates) + (table.note(_misprinted(cell, off)) if off else "")


def _misprinted(cell: PaperCell, times: float) -> str:
    many = f"{times:.2f} times" if times < 10 else f"{times:.0f} times"
    return (
        f"Tables {cell.time_table} and {cell.rate_table} disagree: the printed rate is {many} rows × edges over the "
        f"printed time."
    )


def _measured(table: Table, kept: dict[str, Any] | None, rates: bool, bold: bool = False) -> str:
    if kept is None:
        return "–" + table.note("– not run.")
    value = kept["edges_per_second"] if rates else kept["seconds"]
    if value is None:
        reason = kept["reason"]
        short = "not enough memory" if reason.startswith(NO_ROOM) else "failed"
        if reason.startswith(TOO_LONG):
            short = "over the time limit"
        return short + table.note(reason)
    text = f"**{_number(value, rates)}**" if bold else _number(value, rates)
    if not kept["verified"]:
        text += table.note("Wrong categories: " + "; ".join(kept["problems"]))
    return text


def _number(value: float, rates: bool) -> str:
    if rates:
        mantissa, _, exponent = f"{value:.3e}".partition("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:.4g}" if value < 1000 else f"{value:.0f}"


def _head(column: Column, instances: Sequence[Instance], lookup: Lookup, *, bare: bool = False) -> str:
    """The device a column was measured on, and unless `bare` the engine."""
    for instance in instances:
        kept = lookup(column.cell(instance))
        if kept:
            return _device(kept) if bare else f"{_device(kept)}, {column.title}"
    return column.title


def _device(kept: dict[str, Any]) -> str:
    on_gpu = get_engine(kept["engine"]).device == "gpu"
    return kept["gpu"] if on_gpu and kept["gpu"] else f"{kept['cpu']}, {kept['cpu_cores']} cores"


def _figures(source: str, device: str, engine: str, variant: str | None, instance: Instance) -> dict[str, Any]:
    line: dict[str, Any] = {"source": source, "device": device, "engine": engine, "variant": variant}
    line |= {"neurons": instance.neurons, "layers": instance.layers, "seconds": None, "edges_per_second": None}
    return line | {"verified": None, "peak_device_memory_bytes": None, "note": ""}


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|").replace("\n", " ") for text in cells) + " |"


def _superscript(number: int) -> str:
    return str(number).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
