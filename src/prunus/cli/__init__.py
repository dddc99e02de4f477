"""The command line: one file per subcommand. Importing this package loads Typer, so nothing else imports it."""

from __future__ import annotations

import sys
from typing import Annotated, Any, NoReturn

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

_UsageError: Any = typer.BadParameter.__base__
"""A wrong or missing option or command; click's own class, or that of the copy that newer Typers bring."""

app = typer.Typer(
    help="Make trained PyTorch models really smaller and faster.",
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
    """The entry point. Our errors, the system's and wrong options are one line on stderr and exit code 2."""
    try:
        sys.exit(app(sys.argv[1:] or ["--help"], prog_name="prunus", standalone_mode=False))
    except (PrunusError, OSError) as error:
        _end(str(error))
    except _UsageError as error:
        where = error.ctx.command_path if error.ctx is not None else "prunus"
        _end(f"{error.format_message().rstrip('.?')}. See {where} --help.")


def _end(message: str) -> NoReturn:
    print(f"prunus: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)
