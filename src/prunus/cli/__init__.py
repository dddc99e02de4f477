"""The command line: one file per subcommand. Importing this package loads Typer, so nothing else imports it."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from prunus.cli.bench import bench
from prunus.cli.demo import demo
from prunus.cli.export import export
from prunus.cli.extract import extract
from prunus.cli.inspect import inspect
from prunus.cli.masks import masks
from prunus.cli.profile import profile
from prunus.cli.prune import prune
from prunus.cli.report import report
from prunus.cli.run import run
from prunus.cli.sensitivity import sensitivity
from prunus.errors import PrunusError

__all__ = ["app", "main"]

app = typer.Typer(
    help="Make trained PyTorch models really smaller and faster.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        from prunus import __version__

        typer.echo(f"prunus {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which this is.")] = (
        False
    ),
) -> None:
    """What comes before a command."""


for command in (inspect, profile, masks, sensitivity, prune, extract, export, bench, report, run, demo):
    app.command()(command)


def main() -> None:
    """The entry point. Our errors, and the system's, are one line on stderr and exit code 2."""
    try:
        app()
    except (PrunusError, OSError) as error:
        print(f"prunus: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
