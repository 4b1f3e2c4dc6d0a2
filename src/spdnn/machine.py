"""What a figure was measured on: hardware, versions of software, commit, peak memory."""

from __future__ import annotations

import contextlib
import datetime
import functools
import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from . import __version__
from .engine import Engine

_NOISE = re.compile(
    r"\((?:r|tm|c)\)|@.*|\b(?:amd|intel|nvidia|tesla|cpu|gpu|processor|geforce|[0-9]+-core|with .*)\b", re.I
)


@functools.cache
def hardware() -> dict[str, Any]:
    """Flat facts: `cpu`, `cpu_cores` (those this process may use), `memory_bytes`, and of the NVIDIA GPUs `gpu` (name
    of the first), `gpu_count`, `gpu_memory_bytes`, `driver`; None and 0 where there is none."""
    gpus = _gpus()
    first = gpus[0] if gpus else {"name": None, "memory_bytes": None, "driver": None}
    return {
        "cpu": _cpu_model(),
        "cpu_cores": usable_cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpu": first["name"],
        "gpu_count": len(gpus),
        "gpu_memory_bytes": first["memory_bytes"],
        "driver": first["driver"],
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def usable_cores() -> int:
    """CPU cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine_name(device: str = "cpu") -> str:
    """A folder name for results: the GPU's (``"h200"``) for ``"gpu"``, else CPU and cores (``"epyc-2core"``)."""
    facts = hardware()
    if device == "gpu" and facts["gpu"]:
        count = facts["gpu_count"]
        return _slug(facts["gpu"]) + (f"-x{count}" if count > 1 else "")
    return f"{_slug(facts['cpu'])}-{facts['cpu_cores']}core"


def versions(engine: Engine | None = None) -> dict[str, str]:
    """Versions of spdnn, Python, NumPy and what the engine computes with."""
    found = {"spdnn": __version__, "python": platform.python_version(), "numpy": importlib.metadata.version("numpy")}
    return found | (engine.versions() if engine else {})


def checkout() -> Path | None:
    """The root of the source checkout this package runs from, or None where it is installed."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / "src" / "spdnn").is_dir() and (root / "pyproject.toml").is_file() else None


@functools.cache
def commit() -> tuple[str, bool | None]:
    """The commit of the running code and whether its sources differ from it; ``("unknown", None)`` outside a checkout.

    The environment variable SPDNN_COMMIT names it for a copy without its history or with an older one, as on a
    cluster's node.
    """
    root, named = checkout(), os.environ.get("SPDNN_COMMIT")
    if root is not None and not named and (root / ".git").exists():
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            head = _output(["git", "-C", str(root), "rev-parse", "HEAD"])
            changed = _output(["git", "-C", str(root), "status", "--porcelain", "--", "src", "pyproject.toml"])
            return head, bool(changed)
    return named or "unknown", None


def circumstances(command: Sequence[str] | None = None, engine: Engine | None = None) -> dict[str, Any]:
    """What a record says of how it came about: `hardware()`, `versions`, `commit`, `dirty`, `date` and `command`, the
    command line, that of this process by default."""
    hash_, dirty = commit()
    return {
        **hardware(),
        "versions": versions(engine),
        "commit": hash_,
        "dirty": dirty,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(command or [Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def reset_peak_memory() -> None:
    """Let `peak_memory` count from now on, where the system can (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int:
    """Bytes: the largest resident set of this process since it started or `reset_peak_memory` was called."""
    with contextlib.suppress(OSError):
        found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
        if found:
            return int(found[1]) * 1024
    if os.name == "nt":
        return psutil.Process().memory_info().peak_wset  # pyright: ignore[reportAttributeAccessIssue]
    import resource

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine() or "unknown"


def _gpus() -> list[dict[str, Any]]:
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    try:
        lines = _output(query).splitlines()
    except (OSError, subprocess.SubprocessError):
        return []
    gpus = []
    for line in lines:
        name, memory, driver = (part.strip() for part in line.split(","))
        gpus.append({"name": name, "memory_bytes": int(memory) << 20 if memory.isdigit() else None, "driver": driver})
    return gpus


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", _NOISE.sub(" ", name).lower()).strip("-") or "unknown"
