"""What goes to the terminal: tables on stdout, progress on stderr where it is a terminal, units for people."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, NoReturn

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ..errors import SpdnnError


def run_script(main: Callable[[], int | None]) -> NoReturn:
    """Run a script's `main` and exit with what it returns: 1 for errors, which are one line, 130 for Ctrl-C."""
    try:
        sys.exit(main())
    except SpdnnError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def stdout() -> Console:
    return Console(highlight=False, soft_wrap=False)


def facts_table() -> Table:
    """A table without lines: labels, then what is to be said."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def columns_table(headings: Sequence[str], rows: Sequence[Sequence[str]], missing: Mapping[str, str]) -> Table:
    """A comparison's columns: name, figures under `headings` and verdict of each row, and why some are missing."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("column")
    for heading in headings:
        table.add_column(heading, justify="right")
    table.add_column("")
    for row in rows:
        table.add_row(*row)
    for name, why in missing.items():
        table.add_row(name, *"–" * len(headings), f"[yellow]{why}[/]")
    return table


class Stages:
    """A progress bar for successive stages: call it with (stage, done, total); total 0 means unknown.

    Nothing is drawn between calls, so that it takes no time from a timed run, and nothing at all where stderr is not a
    terminal.
    """

    def __init__(self) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=40), TimeElapsedColumn())
        disable = not console.is_terminal
        self._bar = Progress(*columns, console=console, transient=True, auto_refresh=False, disable=disable)
        self._task: Any = None
        self._stage = ""
        self._drawn = 0.0

    def __enter__(self) -> Stages:
        self._bar.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage == self._stage and now - self._drawn < 0.1 and done < total:
            return
        if stage != self._stage:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task, self._stage = self._bar.add_task(stage), stage
        self._bar.update(self._task, completed=done, total=total or None)
        self._bar.refresh()
        self._drawn = now


def seconds(value: float | None) -> str:
    if value is None:
        return "–"
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if value >= scale:
            return f"{three(value / scale)} {unit}"
    return f"{three(value * 1e6)} µs"


def rate(edges_per_second: float | None) -> str:
    if edges_per_second is None:
        return "–"
    for scale, unit in ((1e12, "TE/s"), (1e9, "GE/s"), (1e6, "ME/s")):
        if edges_per_second >= scale:
            return f"{three(edges_per_second / scale)} {unit}"
    return f"{three(edges_per_second)} E/s"


def size(nbytes: int) -> str:
    value, unit = float(nbytes), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{three(value)} {unit}"


def ratio(value: float) -> str:
    return f"{three(value)}×"


def three(value: float) -> str:
    """Three significant digits, no exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3g}"
