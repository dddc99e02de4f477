"""What subcommands take of budgets, pruning tables and runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prunus.errors import InputError
from prunus.sensitivity import PruningTable

Budgets = Annotated[
    list[str] | None,
    typer.Option(
        "--budget",
        "-b",
        metavar="UNIT=VALUE",
        help="What may stay, in the place of a ratio: macs=60%, parameters=1.5M, bytes='10 MB', activation_memory=80%. "
        "Repeat for more.",
    ),
]
Table = Annotated[
    Path | None, typer.Option(metavar="FILE", help="A pruning table in YAML, as prunus sensitivity writes it.")
]


def budgets(texts: list[str] | None) -> dict[str, str] | None:
    """``["macs=60%"]`` as a dict; None where there are none. InputError where one has no ``=``."""
    if not texts:
        return None
    for text in texts:
        if "=" not in text:
            raise InputError(f"a budget is UNIT=VALUE, such as macs=60%, not {text!r}.")
    return {unit.strip(): value for unit, _, value in (text.partition("=") for text in texts)}


def table_of(path: Path, ratio: float | None, budget: list[str] | None) -> PruningTable:
    """The pruning table in a file; InputError where a ratio or a budget is given beside it."""
    if ratio is not None or budget:
        raise InputError("--table has the ratios: give neither --ratio nor --budget beside it.")
    return PruningTable.read(path)
