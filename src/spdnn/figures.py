"""Figures as files, by Matplotlib: the `plots` extra."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from .errors import InputError, UnavailableError
from .io.atomic import atomic_write

FORMATS = ("png", "svg", "pdf")


def expect_drawable(path: str | Path) -> None:
    """Raise InputError for a file name that isn't a figure's, UnavailableError where there is no Matplotlib."""
    if Path(path).suffix.lower().lstrip(".") not in FORMATS:
        raise InputError(f"Expected a figure's file name, ending in .{', .'.join(FORMATS)}, got {str(path)!r}.")
    _figure()


def subplots(count: int, size: tuple[float, float], *, columns: int = 1) -> tuple[Any, list[Any]]:
    """A figure of `size` inches and its `count` axes, row by row."""
    figure = _figure()(figsize=size, layout="constrained")
    return figure, [figure.add_subplot(-(-count // columns), columns, k + 1) for k in range(count)]


def save(figure: Any, path: str | Path) -> Path:
    """Write a figure, PNG where the name doesn't say otherwise, whole or not at all."""
    path = Path(path)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lstrip(".").lower() or "png", dpi=150)
    return path


def _figure() -> Any:
    try:
        return importlib.import_module("matplotlib.figure").Figure
    except ImportError as error:
        raise UnavailableError("Figures need Matplotlib: pip install 'spdnn[plots]'.") from error
