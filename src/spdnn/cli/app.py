"""The commands and their places. Each command's module loads what it needs when it is called."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from .. import __version__
from . import challenge, doctor, generate, infer, tables, train

USAGE_ERRORS: Any = typer.BadParameter.__bases__[0].__bases__[0]
"""Every error about a command line (typer keeps this class, click's ClickException, in different places)."""

app = typer.Typer(
    name="spdnn",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"spdnn {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def spdnn(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version.")
    ] = False,
) -> None:
    """Sparse deep neural networks: run them at the speed of the hardware."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


app.command("challenge")(challenge.challenge)
app.command("tables")(tables.tables)
app.command("infer")(infer.infer)
app.command("train")(train.train)
app.command("doctor")(doctor.doctor)
app.add_typer(generate.app, name="generate")
