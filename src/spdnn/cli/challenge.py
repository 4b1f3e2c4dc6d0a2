"""`spdnn challenge`: official instances, timed and verified."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options as opt


def challenge(
    neurons: Annotated[
        str, typer.Option(help="1024, 4096, 16384 or 65536 per layer; several as in 1024,4096.")
    ] = "1024",
    layers: Annotated[str, typer.Option(help="120, 480, 1920 or any other number; several as in 120,480.")] = "120",
    engine: opt.Engine = "auto",
    variant: opt.Variant = None,
    repeat: Annotated[int, typer.Option(min=1, help="Timed runs after the warm-up; the median counts.")] = 3,
    time_limit: Annotated[
        float | None,
        typer.Option(min=0.0, metavar="SECONDS", help="Start no further run after so long.", show_default="none"),
    ] = None,
    merge: opt.Merge = True,
    compact: opt.Compact = True,
    fold: opt.Fold = True,
    dtype: opt.Dtype = "float32",
    source: opt.Source = "auto",
    rows: opt.Rows = None,
    categories: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Hold the categories against this file.", show_default="the official one"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the rows held against the float64 reference.")] = 0,
    threads: opt.Threads = None,
    device: opt.Device = None,
    memory_limit: opt.MemoryLimit = None,
    profile: Annotated[bool, typer.Option("--profile", help="Also print what every layer cost.")] = False,
    profile_picture: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Draw what every layer cost: .svg, .png or .pdf; several instances, several files."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the record (several: a list) instead of tables.")] = False,
    record: Annotated[bool, typer.Option("--record", help="Keep the record in benchmarks/results/MACHINE/.")] = False,
    output: Annotated[Path | None, typer.Option(metavar="DIR", help="Keep the record in DIR/MACHINE/ instead.")] = None,
    machine: Annotated[
        str | None, typer.Option(help="Name of this machine's folder.", show_default="from the hardware")
    ] = None,
) -> int:
    """Run official Sparse DNN Graph Challenge instances: generate, time, verify.

    Networks and inputs are regenerated exactly. The categories are held against the official file (in SPDNN_DATA) or
    number; for other inputs or depths against a float64 reference. The last line of each is PASS or FAIL; the exit
    status is 1 unless all passed.
    """
    from .. import record as records
    from ..challenge import Inputs, Instance, run_instance
    from ..engine import Options, choose_engine
    from . import console, show

    if profile_picture:
        from ..figures import expect_drawable

        expect_drawable(profile_picture)
    switches = Options(
        compact=compact,
        merge=merge,
        fold=fold,
        dtype=dtype,  # pyright: ignore[reportArgumentType]
        variant=variant,
        device=device,
        memory_limit=memory_limit,
        threads=threads,
    )
    chosen = choose_engine(name=engine).engine
    if engine != "auto":  # which may still choose another one by the network
        chosen.expect(switches)
    depths = opt.parse_numbers(layers, "--layers")
    plan = [[Instance(width, depth) for depth in depths] for width in opt.parse_numbers(neurons, "--neurons")]
    out = console.stdout()
    runs = []
    for instances in plan:
        with console.Stages() as progress:
            inputs = Inputs.load(instances[0].neurons, source=source, rows=rows, progress=progress)
        for instance in instances:
            with console.Stages() as progress:
                run = run_instance(
                    instance,
                    inputs,
                    engine=engine,
                    options=switches,
                    repeat=repeat,
                    time_limit=time_limit,
                    categories_file=categories,
                    seed=seed,
                    progress=progress,
                )
            runs.append(run)
            path = None
            if record or output:
                path = records.write(run, folder=output, machine_name=machine)
            if profile_picture and run.profile:
                from ..report.profile import plot_profile

                several = sum(map(len, plan)) > 1
                name = f"{profile_picture.stem}-{instance.name}{profile_picture.suffix}" if several else None
                plot_profile(run, profile_picture.with_name(name) if name else profile_picture)
            if not json:
                if len(runs) > 1:
                    out.print()
                show.run(out, run, record=path, profile=profile)
    if json:
        kept = [records.record_of(run) for run in runs]
        print(records.to_json(kept[0] if len(kept) == 1 else kept))
    return 0 if all(run.passed for run in runs) else 1
