"""`spdnn tables`: the seed paper's tables, measured here."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..challenge import Instance

MARKS = "<!-- spdnn tables -->", "<!-- /spdnn tables -->"


def tables(
    instances: Annotated[
        str,
        typer.Option(
            metavar="LIST", help="As in 1024-120,4096 (all three depths); paper for its nine, official for all twelve."
        ),
    ] = "paper,65536-120",
    variants: Annotated[
        str, typer.Option(metavar="LIST", help="Of engine cusparse: buffer, nobuffer, filter, reuse, spmm.")
    ] = "buffer,nobuffer,filter",
    engines: Annotated[
        str, typer.Option(metavar="LIST", help="Further columns: engines, or ENGINE:VARIANT.", show_default="none")
    ] = "",
    repeat: Annotated[int, typer.Option(min=1, help="Timed runs of a cell; the median counts.")] = 3,
    time_limit: Annotated[
        float, typer.Option(min=0.0, metavar="SECONDS", help="A run that takes longer is ended, and the cell says so.")
    ] = 600.0,
    once: Annotated[
        float,
        typer.Option(min=0.0, metavar="SECONDS", help="Start no further run of a cell after so long."),
    ] = 10.0,
    stop_after: Annotated[
        float | None,
        typer.Option(min=0.0, metavar="SECONDS", help="Start no further cell after so long.", show_default="none"),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Run cells that this commit or a later one has run.")] = False,
    render: Annotated[bool, typer.Option("--render", help="Run nothing, only print what is recorded.")] = False,
    format: Annotated[str, typer.Option(metavar="markdown|csv|json", help="What is printed.")] = "markdown",
    into: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help=f"Put the tables between {MARKS[0]} and {MARKS[1]} in FILE instead."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Records are in DIR/MACHINE/.", show_default="benchmarks/results"),
    ] = None,
    machine: Annotated[
        str | None, typer.Option(help="Name of this machine's folder.", show_default="from the hardware")
    ] = None,
) -> int:
    """Run instances × variants and print Tables III to IX of Wang et al. 2019 with this machine beside theirs.

    A record of every finished cell is kept at once; run again after an interruption, and what is recorded is not run
    again. The exit status is 1 if a cell that was run isn't verified.
    """
    from .. import record as records
    from ..engine import get_engine
    from ..errors import unknown_name
    from ..report import tables as report
    from ..report.cells import Cell, Column, Limits, load, run_cells
    from . import console

    if format not in ("markdown", "csv", "json"):
        raise unknown_name("format", format, ("markdown", "csv", "json"))
    chosen = _instances(instances)
    own = [Column.parse(f"cusparse:{name}") for name in _names(variants)]
    further = [Column.parse(name) for name in _names(engines)]
    folder = output or records.results_folder()
    failed = False
    if not render:
        cells = [column.cell(instance) for instance in chosen for column in (*own, *further)]
        _check_available([*own, *further])
        ran = run_cells(
            cells,
            folder=folder,
            machine_name=machine,
            limits=Limits(repeat, time_limit, once),
            again=again,
            stop_after=stop_after,
            progress=console.Stages,
        )
        with contextlib.closing(ran):
            for cell, kept, now in ran:
                typer.echo(_said(cell, kept, now), err=True)
                failed |= now and not (kept or {})["verified"] and (kept or {})["seconds"] is not None

    def lookup(cell: Cell) -> dict[str, Any] | None:
        from ..machine import machine_name

        return load(folder / (machine or machine_name(get_engine(cell.engine).device)), cell)

    names = [str(column.variant) for column in own]
    if format == "markdown":
        text = "\n\n".join(table.markdown() for table in report.build(chosen, names, further, lookup))
    else:
        found = report.lines(chosen, names, further, lookup)
        text = report.to_csv(found) if format == "csv" else report.to_json(found)
    if into:
        _insert(into, text)
    else:
        typer.echo(text)
    return 1 if failed else 0


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _instances(text: str) -> list[Instance]:
    from ..challenge import Instance
    from ..radixnet import CHALLENGE_LAYERS, CHALLENGE_NEURONS
    from ..report.tables import PAPER_INSTANCES

    found: list[Instance] = []
    for name in _names(text):
        if name == "paper":
            found += PAPER_INSTANCES
            continue
        if name == "official":
            found += [Instance(n, depth) for n in CHALLENGE_NEURONS for depth in CHALLENGE_LAYERS]
            continue
        neurons, _, layers = name.partition("-")
        if not neurons.isdecimal() or not (layers.isdecimal() or not layers):
            raise typer.BadParameter(f"expected instances as in 1024-120,4096, got {name!r}", param_hint="--instances")
        found += [Instance(int(neurons), depth) for depth in ([int(layers)] if layers else CHALLENGE_LAYERS)]
    if not found:
        raise typer.BadParameter("expected at least one instance", param_hint="--instances")
    return list(dict.fromkeys(found))


def _check_available(columns: list[Any]) -> None:
    from ..engine import get_engine
    from ..errors import UnavailableError

    for name in dict.fromkeys(column.engine for column in columns):
        why = get_engine(name).available()
        if why is not None:
            raise UnavailableError(f"Engine {name!r} can't run here: {why} With --render, records are shown alone.")


def _said(cell: Any, kept: dict[str, Any] | None, now: bool) -> str:
    from . import console as c

    name = f"{cell.instance.name:>10}  {cell.engine} {cell.variant or ''}".rstrip()
    if kept is None:
        return f"{name:<32} not started"
    what = kept["reason"] or c.seconds(kept["seconds"])
    verdict = "" if kept["seconds"] is None else "  PASS" if kept["verified"] else "  FAIL"
    return f"{name:<32} {what}{verdict}{'' if now else '  (recorded before)'}"


def _insert(path: Path, text: str) -> None:
    from ..errors import FileFormatError
    from ..io.atomic import atomic_write

    whole = path.read_text(encoding="utf-8")
    before, first, rest = whole.partition(MARKS[0])
    _, last, after = rest.partition(MARKS[1])
    if not first or not last:
        raise FileFormatError(path, f"Expected the lines {MARKS[0]} and {MARKS[1]}, and the tables go between them.")
    with atomic_write(path) as temporary:
        temporary.write_text(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{after}", encoding="utf-8")
