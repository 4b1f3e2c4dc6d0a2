"""Cells of the tables: one instance on one engine and variant, run once and kept as a record.

Every finished cell is written at once, so that an interruption loses none, and cells that are there already can be
left out.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import machine, record
from ..challenge import Inputs, Instance, Run, Stage, run_instance
from ..engine import Options, choose_engine, get_engine
from ..errors import FileFormatError, SpdnnError

NO_ROOM = "Not enough memory"
TOO_LONG = "Time limit"


class _TooLong(Exception):
    """A cell is taking longer than it may."""


@dataclass(frozen=True)
class Cell:
    """`variant` None for engines without any; `engine` is never ``"auto"``."""

    instance: Instance
    engine: str
    variant: str | None = None

    @property
    def file_name(self) -> str:
        return "-".join(filter(None, (self.instance.name, self.engine, self.variant))) + ".json"


@dataclass(frozen=True)
class Column:
    """An engine and a variant of it, as in ``"cusparse:spmm"``."""

    engine: str
    variant: str | None = None

    @classmethod
    def parse(cls, text: str) -> Column:
        """Raises InputError for unknown names. The variant is the engine's first where none is given."""
        name, _, variant = text.partition(":")
        engine = get_engine(name) if name != "auto" else choose_engine().engine
        if variant and variant not in engine.variants:
            from ..errors import unknown_name

            raise unknown_name(f"variant of engine {name!r}:", variant, engine.variants)
        return cls(engine.name, variant or next(iter(engine.variants), None))

    @property
    def title(self) -> str:
        return f"{self.engine} {self.variant}" if self.variant else self.engine

    def cell(self, instance: Instance) -> Cell:
        return Cell(instance, self.engine, self.variant)


def load(folder: Path, cell: Cell) -> dict[str, Any] | None:
    """The record of a cell in a machine's folder, or None. Raises FileFormatError for a damaged one."""
    path = folder / cell.file_name
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise FileFormatError(path, f"Expected a record in JSON ({error}). Remove it and run the cell again.") from None
    missing = [key for key in ("engine", "neurons", "layers", "seconds", "reason", "verified") if key not in kept]
    if missing:
        raise FileFormatError(path, f"Expected a record, but it has no {', '.join(missing)}.")
    return kept


def is_current(kept: dict[str, Any]) -> bool:
    """Whether a record was made by this commit or by one that has it among its ancestors."""
    now, _ = machine.commit()
    then = kept.get("commit")
    if then == now:
        return True
    root = machine.checkout()
    if root is None or not then:
        return False
    try:
        command = ["git", "-C", str(root), "merge-base", "--is-ancestor", now, then]
        return subprocess.run(command, capture_output=True, timeout=20).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


@dataclass(frozen=True)
class Limits:
    """repeat : timed runs after the warm-up. seconds : after which a first run is ended between two layers. once :
    seconds after which no further run starts; a first run that takes longer is the time, after the engine's own short
    warm-up."""

    repeat: int = 3
    seconds: float = 600.0
    once: float = 10.0


def run_cells(
    cells: Sequence[Cell],
    *,
    folder: Path,
    machine_name: str | None = None,
    limits: Limits | None = None,
    again: bool = False,
    stop_after: float | None = None,
    source: str = "mnist",
    rows: int | None = None,
    progress: Callable[[], Any] | None = None,
) -> Generator[tuple[Cell, dict[str, Any] | None, bool], None, None]:
    """Run cells one after another; gives each with its record as soon as that is written, and whether it was run now.

    folder : records go to `folder`/machine/. again : run cells that have a current record, too. stop_after : seconds
    after which no further cell starts; the remaining ones come without a record. source, rows : of the inputs; records
    of fewer rows than all have another name and aren't found again. progress : makes a context manager whose value is
    called with (stage, done, total).
    """
    limits = limits or Limits()
    start, inputs = time.monotonic(), None
    for cell in cells:
        engine = get_engine(cell.engine)
        home = folder / (machine_name or machine.machine_name(engine.device))
        kept = None if again else load(home, cell)
        if kept is not None and is_current(kept):
            yield cell, kept, False
            continue
        if stop_after is not None and time.monotonic() - start > stop_after:
            yield cell, None, False
            continue
        with progress() if progress else _Silent() as report:
            if inputs is None or inputs.features.columns != cell.instance.neurons:
                inputs = None  # the last ones' memory goes first
                inputs = Inputs.load(cell.instance.neurons, source=source, rows=rows, progress=report)
            run = run_cell(cell, inputs, limits, report)
        path = record.write(run, folder=folder, machine_name=machine_name)
        yield cell, json.loads(path.read_text(encoding="utf-8")), True


def run_cell(cell: Cell, inputs: Inputs, limits: Limits, progress: Stage | None = None) -> Run:
    """The run of a cell; one that was ended, failed or doesn't fit has a reason and no time."""
    options = Options(variant=cell.variant)
    began: list[float] = []

    def report(stage: str, done: int, total: int) -> None:
        if progress:
            progress(stage, done, total)
        if stage == "warming up":
            if not began:
                began.append(time.perf_counter())
            if done < total and time.perf_counter() - began[0] > limits.seconds:
                raise _TooLong(f"{TOO_LONG}: more than {limits.seconds:g} s, {done} of {total} layers done.")

    try:
        return run_instance(
            cell.instance,
            inputs,
            engine=cell.engine,
            options=options,
            repeat=limits.repeat,
            time_limit=limits.once,
            progress=report,
        )
    except (_TooLong, SpdnnError) as error:
        reason = str(error) if isinstance(error, _TooLong) else f"Failed: {error}"
        choice, peak = choose_engine(name=cell.engine), machine.peak_memory()
        return Run(cell.instance, inputs, choice, options, options, reason=reason, peak_memory_bytes=peak)


class _Silent:
    def __enter__(self) -> None:
        return None

    def __exit__(self, *error: object) -> None:
        return None
