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
Source = Annotated[
    str, typer.Option(metavar="auto|mnist|digits", help="Inputs: MNIST, synthetic digits, or MNIST if there is any.")
]
