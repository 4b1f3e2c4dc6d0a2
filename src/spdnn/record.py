"""The JSON record of a run: flat keys, a published schema, written whole or not at all."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from . import machine
from .challenge import TIMER, Run
from .errors import InputError
from .io.atomic import atomic_write
from .radixnet import CHALLENGE_ROWS

SCHEMA_VERSION = 1


@functools.cache
def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) every record fulfils."""
    text = resources.files("spdnn").joinpath("record_schema.json").read_text(encoding="utf-8")
    return json.loads(text)


def record_of(run: Run, *, command: Sequence[str] | None = None) -> dict[str, Any]:
    """The record of a run, ready for JSON. `command` is the command line, that of this process by default.

    The keys are described in the schema (`schema()`).
    """
    engine, options, verification = run.choice.engine, run.options, run.verification
    return {
        "schema": SCHEMA_VERSION,
        "engine": engine.name,
        "variant": options.variant,
        "merge": run.switch("merge"),
        "compact": run.switch("compact"),
        "fold": run.switch("fold"),
        "dtype": options.dtype,
        "neurons": run.instance.neurons,
        "layers": run.instance.layers,
        "rows": run.rows,
        "edges": run.instance.edges,
        "input": run.inputs.source,
        "seconds": run.seconds,
        "seconds_each": list(run.seconds_each),
        "reason": run.reason,
        "warmed_up": run.warmed_up,
        "edges_per_second": run.edges_per_second,
        "live_edges": run.live_edges,
        "live_edges_per_second": run.live_edges_per_second,
        "timer": TIMER,
        "input_seconds": run.inputs.seconds,
        "prepare_seconds": run.prepare_seconds,
        "load_seconds": run.load_seconds,
        "streaming_seconds": run.streaming_seconds,
        "categories": None if run.categories is None else len(run.categories),
        "verified": run.passed,
        "verification": verification.method if verification else None,
        "categories_missing": len(verification.missing) if verification else None,
        "categories_extra": len(verification.extra) if verification else None,
        "problems": list(verification.problems) if verification else [],
        "live_rows": [layer.live for layer in run.profile] or None,
        "distinct_rows": [layer.computed for layer in run.profile] or None,
        "layer_seconds": _all([layer.seconds for layer in run.profile]),
        "layer_bytes": _all([layer.nbytes for layer in run.profile]),
        "peak_memory_bytes": run.peak_memory_bytes,
        "peak_device_memory_bytes": run.plan.get("peak_device_bytes"),
        "memory_limit_bytes": options.memory_limit,
        "threads": options.threads or machine.usable_cores(),
        "plan": _plain(run.plan),
        **machine.circumstances(command, engine),
    }


def file_name(run: Run) -> str:
    """The name a record is kept under: instance, engine, variant and what was asked for besides the defaults."""
    options = run.asked
    parts = [run.instance.name, run.choice.engine.name]
    variant = run.options.variant or next(iter(run.choice.engine.variants), None)
    if variant:
        parts.append(variant)
    parts += [f"no-{switch}" for switch in ("compact", "merge", "fold") if not getattr(options, switch)]
    if options.dtype != "float32":
        parts.append(options.dtype)
    if run.inputs.source != "mnist":
        parts.append(run.inputs.source)
    if run.rows != CHALLENGE_ROWS:
        parts.append(f"{run.rows}rows")
    if options.memory_limit:
        parts.append(f"limit{options.memory_limit}")
    if options.threads:
        parts.append(f"{options.threads}threads")
    return "-".join(parts) + ".json"


def results_folder() -> Path:
    """Where records are kept: benchmarks/results of the checkout, else of the current folder."""
    return (machine.checkout() or Path()) / "benchmarks" / "results"


def write(run: Run, *, folder: Path | None = None, machine_name: str | None = None) -> Path:
    """Write the record of a run to `folder`/`machine_name`/`file_name(run)`, replacing an earlier one.

    folder : `results_folder()` by default. machine_name : derived from the hardware by default, the GPU's for engines
    that run on one. Returns the path. Raises InputError where it can't be written.
    """
    name = machine_name or machine.machine_name(run.choice.engine.device)
    if name in (".", "..") or set(name) & set("/\\:"):
        raise InputError(f"Expected a machine's name that can be that of a folder, got {name!r}.")
    path = (folder or results_folder()) / name / file_name(run)
    write_json(record_of(run), path)
    return path


def write_json(value: Any, path: Path) -> None:
    """Write JSON for people and programs to read: atomically, lists of numbers on one line."""
    with atomic_write(path) as temporary:
        temporary.write_text(to_json(value) + "\n", encoding="utf-8")


def to_json(value: Any) -> str:
    """JSON of a record or a list of them, one key a line."""
    if isinstance(value, list):
        return "[\n" + ",\n".join(map(to_json, value)) + "\n]" if value else "[]"
    lines = (f"  {json.dumps(key)}: {json.dumps(item, ensure_ascii=False)}" for key, item in value.items())
    return "{\n" + ",\n".join(lines) + "\n}"


def _all(figures: list[Any]) -> list[Any] | None:
    """The figures, or None where any is missing or there are none."""
    return None if not figures or any(figure is None for figure in figures) else figures


def _plain(facts: dict[str, Any]) -> dict[str, Any]:
    """Facts with NumPy's scalars and anything else JSON doesn't know made plain."""
    return json.loads(json.dumps(facts, default=lambda value: value.item() if hasattr(value, "item") else str(value)))
