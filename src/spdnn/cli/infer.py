"""`spdnn infer`: any network and any features from files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import options as opt


def infer(
    network: Annotated[Path, typer.Argument(metavar="NETWORK", help="A network's file, or the folder of its layers.")],
    features: Annotated[Path, typer.Argument(metavar="FEATURES", help="A file of feature rows.")],
    bias: Annotated[float | None, typer.Option(help="Bias of every neuron.", show_default="the file's")] = None,
    lower: Annotated[float | None, typer.Option(help="Lower activation bound.", show_default="the file's")] = None,
    upper: Annotated[float | None, typer.Option(help="Upper activation bound.", show_default="the file's")] = None,
    bias_rule: Annotated[
        str | None,
        typer.Option(metavar="nonzero|all", help="Entries that get the bias.", show_default="the file's"),
    ] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="Only the first layers.", show_default="all")] = None,
    neurons: Annotated[
        int | None, typer.Option(min=1, help="Neurons per layer.", show_default="what the file or its name says")
    ] = None,
    rows: Annotated[
        int | None, typer.Option(min=1, help="Number of feature rows.", show_default="what the file says")
    ] = None,
    engine: opt.Engine = "auto",
    variant: opt.Variant = None,
    merge: opt.Merge = True,
    compact: opt.Compact = True,
    fold: opt.Fold = True,
    dtype: opt.Dtype = "float32",
    threads: opt.Threads = None,
    device: opt.Device = None,
    memory_limit: opt.MemoryLimit = None,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Classes from 0, one a line or .npy.", show_default="the features' own"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the final rows: .safetensors, .npy, .tsv, .mtx or .mat.")
    ] = None,
    categories: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the ids of the rows with a positive sum.")
    ] = None,
    json: opt.Json = False,
) -> None:
    """Run any sparse network on any features, and say how many rows end positive, how long it took, and how well the
    rows are classified where there are labels."""
    from .. import infer as library
    from .. import io
    from ..engine import Options, choose_engine
    from ..errors import unknown_name
    from . import console

    if bias_rule not in (None, "nonzero", "all"):
        raise unknown_name("bias rule", bias_rule, ("nonzero", "all"))
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
    chosen = choose_engine(name=engine)
    chosen.engine.expect(switches)
    net = io.load_network(
        network,
        bias=bias,
        lower=lower,
        upper=upper,
        bias_rule=bias_rule,  # pyright: ignore[reportArgumentType]
        layers=layers,
        neurons=neurons,
    )
    data = io.load_features(features, columns=net.inputs, rows=rows)
    classes = data.labels if labels is None else library.load_labels(labels, data.rows)
    with console.Stages() as progress:
        plan = chosen.engine.prepare(net, rows=data.rows, options=switches)
        result = plan.run(
            data,
            values=output is not None or classes is not None,
            progress=lambda done, total: progress("running", done, total),
        )
    facts: dict[str, Any] = {
        "network": str(network),
        "features": str(features),
        "rows": data.rows,
        "widths": list(net.widths),
        "edges": net.edges,
        "engine": chosen.engine.name,
        "variant": plan.options.variant,
        "dtype": plan.options.dtype,
        "seconds": result.seconds,
        "streaming_seconds": result.streaming_seconds,
        "edges_per_second": data.rows * net.edges / result.seconds,
        "categories": len(result.categories),
    }
    remark = plan.describe().get("remark")
    if remark:
        facts["remark"] = remark
    if classes is not None:
        from .. import metrics

        values = result.to_dense()
        facts["accuracy"] = float(metrics.accuracy(values, classes))
        facts["cross_entropy"] = float(metrics.cross_entropy(values, classes))
    if categories:
        io.save_categories(result.categories, categories)
    if output:
        io.save_features(library.final_rows(result), output)
    if json:
        from ..record import to_json

        print(to_json(facts))
        return
    _show(facts, [path for path in (categories, output) if path])


def _show(facts: dict[str, Any], written: list[Path]) -> None:
    from rich.markup import escape

    from . import console as c

    widths = facts["widths"]
    shape = " → ".join(map(str, widths if len(widths) < 8 else [*widths[:3], "…", *widths[-2:]]))
    variant = f" ({facts['variant']})" if facts["variant"] else ""
    table = c.facts_table()
    table.add_row("network", f"{escape(facts['network'])}: {shape}, {len(widths) - 1} layers, {facts['edges']:,} edges")
    table.add_row("features", f"{escape(facts['features'])}: {facts['rows']:,} rows")
    table.add_row("engine", f"{facts['engine']}{variant}, {facts['dtype']}")
    if "remark" in facts:
        table.add_row("memory", escape(facts["remark"]))
    table.add_row("time", f"[bold]{c.seconds(facts['seconds'])}[/], {c.rate(facts['edges_per_second'])}, first run")
    table.add_row("categories", f"[bold]{facts['categories']:,}[/] rows with a positive sum")
    if "accuracy" in facts:
        table.add_row("accuracy", f"[bold]{facts['accuracy']:.2%}[/], cross entropy {facts['cross_entropy']:.4f}")
    for path in written:
        table.add_row("written", escape(str(path)))
    c.stdout().print(table)
