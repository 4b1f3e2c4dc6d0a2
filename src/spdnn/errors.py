"""The errors spdnn raises for things its user can put right.

The command line prints any of these as one line and exits with a non-zero status; everything else is a bug
in spdnn and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class SpdnnError(Exception):
    """Base of every error spdnn raises on purpose."""


class InputError(SpdnnError, ValueError):
    """A value, shape or option that can't be used. Says what was expected, what came and what to do."""


class FileFormatError(InputError):
    """A file whose content is not what its format says.

    `path` is the file, `line` the 1-based line the problem is on (None for binary files).
    """

    def __init__(self, path: str | Path, message: str, line: int | None = None):
        self.path, self.line = Path(path), line
        where = f"{path}:{line}" if line is not None else f"{path}"
        super().__init__(f"{where}: {message}")


class UnavailableError(SpdnnError):
    """Something optional (an engine, a data set, a package) can't be had here. Says what to install."""


class MemoryLimitError(SpdnnError, MemoryError):
    """A run would need more memory than there is. `needed` and `limit` are bytes."""

    def __init__(self, message: str, *, needed: int, limit: int):
        self.needed, self.limit = needed, limit
        super().__init__(message)


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a misspelt name, with the nearest known one."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return InputError(f"Unknown {kind} {name!r}.{hint} Known: {', '.join(known)}.")
