"""``prunus profile``: where the parameters, the arithmetic, the bytes and the time are."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from prunus.cli.options import Inputs, Model, Weights, build, examples


def profile(
    model: Model,
    shapes: Inputs,
    weights: Weights = None,
    latency: Annotated[bool, typer.Option(help="Also time every module.")] = True,
    roofline: Annotated[
        bool, typer.Option("--roofline", help="Tell what binds each module here: compute, memory or overhead.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show parameters, multiply-accumulates, bytes and latency, module by module."""
    import prunus

    found = prunus.profile(build(model, weights), examples(shapes), latency=latency)
    if roofline:
        bounds = prunus.roofline(found)
        typer.echo(json.dumps(bounds.to_dict(), indent=2) if as_json else str(bounds))
        return
    typer.echo(json.dumps(found.to_dict(), indent=2) if as_json else str(found))
