"""Options several commands have, and how their values are read."""

from __future__ import annotations

import re
from typing import Annotated

import typer

_UNITS = {"": 1, "B": 1}
_UNITS |= {f"{letter}{form}": 1000 ** (k + 1) for k, letter in enumerate("KMGT") for form in ("", "B")}
_UNITS |= {f"{letter}I{form}": 1024 ** (k + 1) for k, letter in enumerate("KMGT") for form in ("", "B")}


def parse_size(text: str | int) -> int:
    """Bytes from ``8GiB``, ``500MB`` or ``1e9``. Raises typer.BadParameter."""
    if isinstance(text, int):
        return text
    found = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([a-z]*)\s*", text, re.I)
    try:
        if found is None:
            raise ValueError
        size = int(float(found[1]) * _UNITS[found[2].upper()])
    except (ValueError, KeyError):
        raise typer.BadParameter(f"expected a size such as 8GiB, 500MB or a number of bytes, got {text!r}") from None
    if size < 1:
        raise typer.BadParameter(f"expected more than 0 bytes, got {text!r}")
    return size


def parse_numbers(text: str, option: str) -> list[int]:
    """Whole numbers above 0 from ``120,480``. Raises typer.BadParameter."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise typer.BadParameter(
            f"expected a whole number above 0, or several as in 120,480, got {text!r}", param_hint=option
        )
    return list(dict.fromkeys(numbers))


Engine = Annotated[str, typer.Option(help="An engine's name, or auto for the fastest here; `spdnn doctor` lists them.")]
Variant = Annotated[str | None, typer.Option(help="Which of the engine's variants.", show_default="the engine's first")]
Merge = Annotated[bool, typer.Option("--merge/--no-merge", help="Compute rows that have become equal once.")]
Compact = Annotated[bool, typer.Option("--compact/--no-compact", help="Drop rows that have become all zero.")]
Fold = Annotated[bool, typer.Option("--fold/--no-fold", help="Compute neurons equal by construction once.")]
Dtype = Annotated[
    str, typer.Option(metavar="float32|float64|float16", help="Arithmetic; float16: activations are stored as such.")
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="all cores")]
Device = Annotated[str | None, typer.Option(help="Device number or name.", show_default="the first")]
MemoryLimit = Annotated[
    int | None,
    typer.Option(
        parser=parse_size,
        metavar="SIZE",
        help="Device memory the run may use, as in 8GiB; what doesn't fit is streamed.",
        show_default="what is free",
    ),
]
Rows = Annotated[int | None, typer.Option(min=1, help="Only the first rows.", show_default="60000")]
Source = Annotated[
    str, typer.Option(metavar="auto|mnist|digits", help="Inputs: MNIST, synthetic digits, or MNIST if there is any.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
