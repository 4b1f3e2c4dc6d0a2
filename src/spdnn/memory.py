"""How much main memory a run may take."""

from __future__ import annotations

from pathlib import Path

import psutil

from .errors import MemoryLimitError

_SHARE = 0.8


def available() -> int:
    """Bytes of main memory that are free now, within the limit of the control group the process is in."""
    free = psutil.virtual_memory().available
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            free = min(free, max(0, int(Path(limit).read_text()) - int(Path(used).read_text())))
        except (OSError, ValueError):
            continue
    return free


def expect_room(needed: int, what: str) -> None:
    """Raise MemoryLimitError unless `needed` bytes of main memory are free, for `what`."""
    free = available()
    if needed > free:
        raise MemoryLimitError(
            f"Expected {needed:,} bytes of memory for {what}, got {free:,}. Are the sizes right?",
            needed=needed,
            limit=free,
        )


def budget(limit: int | None) -> int:
    """Bytes a run may take: `limit` where one was set, else four fifths of what is free."""
    return int(limit if limit is not None else available() * _SHARE)
