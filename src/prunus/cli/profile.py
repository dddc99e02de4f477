"""``prunus profile``: where the parameters, the arithmetic, the bytes and the time are."""

from __future__ import annotations

from typing import Annotated

import typer

from prunus.cli.answers import Json, answering
from prunus.cli.options import Inputs, Model, Weights, build, examples


def profile(
    model: Model,
    shapes: Inputs,
    weights: Weights = None,
    latency: Annotated[bool, typer.Option(help="Also time every module.")] = True,
    roofline: Annotated[
        bool, typer.Option("--roofline", help="Tell what binds each module here: compute, memory or overhead.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show parameters, multiply-accumulates, bytes and latency, module by module."""
    import prunus

    with answering(as_json) as answer:
        profiled = prunus.profile(build(model, weights), examples(shapes), latency=latency)
        found = prunus.roofline(profiled) if roofline else profiled
        answer.value, answer.text = found.to_dict(), str(found)
