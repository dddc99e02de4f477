"""``prunus inspect``: what can be cut together, and why the rest can't."""

from __future__ import annotations

from typing import Annotated

import typer

from prunus.cli.options import Inputs, Model, Weights, build, examples


def inspect(
    model: Model,
    shapes: Inputs,
    weights: Weights = None,
    why: Annotated[
        str, typer.Option(metavar="TENSOR[:DIM]", help="Tell of one dimension of one tensor only: conv1.weight:0.")
    ] = "",
) -> None:
    """Show the groups of a model: what is cut together, and why the rest is frozen."""
    import prunus

    name, _, dim = why.partition(":")
    if dim and not dim.lstrip("-").isdigit():
        raise prunus.InputError(f"--why takes a tensor and a dimension, such as conv1.weight:0, not {why!r}.")
    graph = prunus.trace(build(model, weights), examples(shapes))
    typer.echo(graph.explain(name, int(dim or 0)) if why else str(graph))
