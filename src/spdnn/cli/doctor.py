"""`spdnn doctor`: what works here."""

from __future__ import annotations

from typing import Any

from . import options as opt


def doctor(json: opt.Json = False) -> None:
    """Say which engines work here and what the others lack, what data there is, hardware and versions."""
    from ..doctor import examine

    facts = examine()
    if json:
        from json import dumps

        print(dumps(facts, indent=2, ensure_ascii=False))
    else:
        _show(facts)


def _show(facts: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from . import console as c

    out = c.stdout()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("engine", "", "device", "variants, or what it lacks"):
        table.add_column(heading, overflow="fold")
    for engine in facts["engines"]:
        works = "[green]works[/]" if engine["works"] else "[yellow]no[/]"
        note = ", ".join(engine["variants"]) if engine["works"] else escape(_lack(engine))
        name = f"[bold]{engine['name']}[/]" if engine["name"] == facts["chosen"] else engine["name"]
        table.add_row(name, works, engine["device"] or "–", note)
    out.print(table)
    out.print(f"[dim]--engine auto takes[/] {facts['chosen'] or 'none: no engine works here'}\n")

    hardware, data = facts["hardware"], facts["data"]
    rest = c.facts_table()
    rest.add_row("CPU", f"{hardware['cpu']}, {hardware['cpu_cores']} cores, {c.size(hardware['memory_bytes'])}")
    gpu = "none found"
    if hardware["gpu"]:
        count = f"{hardware['gpu_count']} × " if hardware["gpu_count"] > 1 else ""
        memory = c.size(hardware["gpu_memory_bytes"]) if hardware["gpu_memory_bytes"] else "memory unknown"
        gpu = f"{count}{hardware['gpu']}, {memory}, driver {hardware['driver']}"
    rest.add_row("GPU", gpu)
    folder = data["SPDNN_DATA"]
    missing = "" if data["folder_exists"] else " (no such folder)"
    rest.add_row("SPDNN_DATA", f"{escape(folder)}{missing}" if folder else "not set")
    rest.add_row("MNIST", escape(data["mnist"] or "not here: downloaded when needed, or synthetic digits stand in"))
    rest.add_row("cache", escape(data["cache"]))
    rest.add_row(
        "official files", "\n".join(map(escape, data["official_categories"])) or "none: categories are counted"
    )
    rest.add_row("versions", ", ".join(f"{name} {number}" for name, number in facts["versions"].items()))
    changed = ", with changes" if facts["dirty"] else ""
    rest.add_row("commit", f"{facts['commit']}{changed}")
    out.print(rest)


def _lack(engine: dict[str, Any]) -> str:
    """Why an engine doesn't work, and what to install unless that is said already."""
    why, install = engine["why_not"], engine["install"]
    return why if not install or "install" in why else f"{why} {install}"
