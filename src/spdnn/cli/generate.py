"""`spdnn generate`: the challenge's files under their official names."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options as opt

app = typer.Typer(help="Write the challenge's files under their official names.", no_args_is_help=False)

Neurons = Annotated[int, typer.Option(help="1024, 4096, 16384 or 65536 per layer.")]
Layers = Annotated[int, typer.Option(min=1, help="Number of layers.")]
Output = Annotated[Path, typer.Option(metavar="DIR", help="Folder to write to.")]
Gzip = Annotated[bool, typer.Option("--gzip", help="Compress, and add .gz to the names.")]


@app.command("images")
def images(
    neurons: Neurons = 1024,
    output: Output = Path(),
    gzip: Gzip = False,
    source: opt.Source = "auto",
    rows: opt.Rows = None,
) -> None:
    """Write the input images, sparse-images-N.tsv."""
    from ..challenge import Inputs
    from ..generate import generate_images
    from . import console, show

    with console.Stages() as progress:
        inputs = Inputs.load(neurons, source=source, rows=rows, progress=progress)
        path = generate_images(
            inputs.features, output, gzip=gzip, progress=lambda done, total: progress("writing", done, total)
        )
    console.stdout().print(f"{path}: {inputs.features.rows:,} images, {show.source(inputs)}", soft_wrap=True)


@app.command("network")
def network(neurons: Neurons = 1024, layers: Layers = 120, output: Output = Path(), gzip: Gzip = False) -> None:
    """Write a network's layers, neuronN/nN-lK.tsv."""
    from ..challenge import Instance
    from ..generate import generate_network
    from . import console

    instance = Instance(neurons, layers)
    with console.Stages() as progress:
        folder = generate_network(
            instance.network(), output, gzip=gzip, progress=lambda done, total: progress("writing", done, total)
        )
    console.stdout().print(f"{folder}: {layers} layers, {instance.edges:,} weights", soft_wrap=True)


@app.command("categories")
def categories(
    neurons: Neurons = 1024,
    layers: Layers = 120,
    output: Output = Path(),
    source: opt.Source = "auto",
    rows: opt.Rows = None,
    engine: opt.Engine = "auto",
) -> int:
    """Run a network and write the verified categories, neuronN-lL-categories.tsv."""
    from ..challenge import Inputs, Instance, Session
    from ..engine import choose_engine
    from ..generate import generate_categories
    from . import console, show

    instance = Instance(neurons, layers)
    choose_engine(name=engine)
    out = console.stdout()
    with console.Stages() as progress:
        inputs = Inputs.load(neurons, source=source, rows=rows, progress=progress)
        with Session(instance, inputs, engine=engine, progress=progress) as session:
            session.run()
            run = session.result()
    if run.passed and run.categories is not None:
        path = generate_categories(run.categories, neurons, layers, output)
        out.print(f"{path}: of {run.rows:,} images, {show.source(inputs)}", soft_wrap=True)
    out.print(show.verdict(run), soft_wrap=True)
    return 0 if run.passed else 1
