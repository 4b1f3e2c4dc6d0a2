"""A challenge run, printed."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..challenge import Inputs, Run
from ..radixnet import CHALLENGE_ROWS
from ..report import paper
from . import console as c

_INPUTS = {"mnist": "MNIST", "digits": "synthetic digits, not the official inputs"}


def run(out: Console, run: Run, *, record: Path | None = None, profile: bool = False) -> None:
    """Print everything about a run; the last line says PASS or FAIL."""
    instance = run.instance
    out.print(
        f"[bold]Sparse DNN Graph Challenge[/]  {instance.neurons} neurons × {instance.layers} layers, "
        f"{run.rows:,} rows, {instance.edges:,} edges"
    )
    out.print(_facts(run))
    if profile:
        out.print()
        out.print(_profile(run))
        if run.profile and run.profile[0].nbytes is not None:
            out.print("[dim]each layer by itself; GB/s: computed rows read and written once, weights read once[/]")
    cells = paper.cells_of(instance.neurons, instance.layers)
    if cells and run.seconds and run.rows == CHALLENGE_ROWS and run.inputs.source == "mnist":
        out.print()
        out.print(_beside(run.seconds, cells))
    out.print()
    if record:
        out.print(f"[dim]recorded in {record}[/]", soft_wrap=True)
    out.print(verdict(run), soft_wrap=True)


def source(inputs: Inputs) -> Text:
    """What the rows are, conspicuously where they aren't the official ones."""
    return Text(_INPUTS[inputs.source], style="" if inputs.source == "mnist" else "yellow")


def _facts(run: Run) -> Table:
    table = c.facts_table()
    features = run.inputs.features
    table.add_row(
        "inputs",
        Text.assemble(source(run.inputs), f", {features.nnz:,} non-zeros, {c.seconds(run.inputs.seconds)}"),
    )
    table.add_row("engine", f"{_engine(run)}; {run.choice.reason}")
    if run.choice.skipped:
        table.add_row("", f"[dim]not here: {', '.join(run.choice.skipped)} (`spdnn doctor` says why)[/]")
    if run.seconds is None:
        return table
    table.add_row("prepared in", f"{c.seconds(run.prepare_seconds)}, inputs loaded in {c.seconds(run.load_seconds)}")
    if run.plan.get("remark"):
        table.add_row("memory", str(run.plan["remark"]))
    each = sorted(run.seconds_each)
    spread = f"median of {len(each)}, {c.seconds(each[0])} to {c.seconds(each[-1])}" if len(each) > 1 else "one run"
    table.add_row("time", f"[bold]{c.seconds(run.seconds)}[/]  {spread}{'' if run.warmed_up else ', not warmed up'}")
    table.add_row("", "[dim]inputs and weights on the device → category ids on the host[/]")
    if run.streaming_seconds:
        table.add_row("streaming", f"{c.seconds(run.streaming_seconds)} for weights, not in the time")
    live = f", {c.rate(run.live_edges_per_second)} on live rows" if run.live_edges_per_second else ""
    table.add_row("rate", f"[bold]{c.rate(run.edges_per_second)}[/]{live}")
    device = run.plan.get("peak_device_bytes")
    on_device = f", {c.size(device)} on the device" if device else ""
    table.add_row("peak memory", f"{c.size(run.peak_memory_bytes)}{on_device}")
    found = run.verification
    if found and run.options.dtype == "float16":
        changed = len(found.missing) + len(found.extra)
        table.add_row(
            "float16", f"changes {changed} categories: {len(found.missing)} missing, {len(found.extra)} extra"
        )
    return table


def _engine(run: Run) -> str:
    engine, options = run.choice.engine, run.options
    parts = [engine.name + (f" ({options.variant})" if options.variant else ""), options.dtype]
    parts += [name if getattr(options, name) else f"no {name}" for name in engine.switches]
    return ", ".join(parts)


def _beside(seconds: float, cells: list[paper.PaperCell]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("Wang et al. 2019")
    for heading in ("time", "rate", "speedup of this run"):
        table.add_column(heading, justify="right")
    for cell in cells:
        assert cell.seconds is not None
        rate = c.rate(cell.edges_per_second)
        table.add_row(f"{cell.gpu}, {cell.variant}", c.seconds(cell.seconds), rate, c.ratio(cell.seconds / seconds))
    return table


def _profile(run: Run) -> Table | str:
    if not run.profile:
        return "[dim]this engine can't tell what each layer cost[/]"
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("layers", "live rows after", "computed rows", "time", "GB/s"):
        table.add_column(heading, justify="right")
    for (live, computed), group in groupby(run.profile, lambda layer: (layer.live, layer.computed)):
        same = list(group)
        first, last = same[0].layer + 1, same[-1].layer + 1
        times = [layer.seconds for layer in same if layer.seconds is not None]
        moved = [layer.nbytes for layer in same if layer.nbytes is not None]
        spent = sum(times) if len(times) == len(same) else None
        speed = c.three(sum(moved) / spent / 1e9) if spent and len(moved) == len(same) else "–"
        span = f"{first}" if first == last else f"{first}–{last}"
        table.add_row(span, f"{live:,}", f"{computed:,}", c.seconds(spent), speed)
    return table


def verdict(run: Run) -> Text:
    if run.verification is None or run.categories is None:
        return Text.assemble(("FAIL", "bold red"), f"  {run.reason}")
    if run.passed:
        return Text.assemble(("PASS", "bold green"), f"  {len(run.categories)} categories; {run.verification.method}")
    problems = "; ".join(run.verification.problems)
    return Text.assemble(("FAIL", "bold red"), f"  {problems}; {run.verification.method}")
