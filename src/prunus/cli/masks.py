"""``prunus masks``: what the zeros of a model amount to, what could be cut out, what speed to expect."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from prunus.cli.options import Model, Weights, build, examples

if TYPE_CHECKING:
    from prunus.masks.inspection import Zeros


def masks(
    model: Model,
    weights: Weights = None,
    shapes: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", metavar="SHAPE", help="As for profile; also times sparse kernels on it."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show a model's zeros at each granularity, what could be cut out, and what speed to expect."""
    import prunus
    from prunus.masks.inspection import GRANULARITIES, zeros
    from prunus.report.tables import Table

    built = build(model, weights)
    found = zeros(built)
    if as_json:
        typer.echo(json.dumps([parameter.to_dict() for parameter in found], indent=2))
        return
    columns = ("parameter", "shape", *GRANULARITIES, "2:4")
    rows = [
        (
            parameter.name,
            "×".join(map(str, parameter.shape)),
            *(f"{parameter.share(kind):.1%}" if kind in parameter.units else "–" for kind in GRANULARITIES),
            "yes" if parameter.two_of_four else "no",
        )
        for parameter in found
    ]
    typer.echo(Table("Units that are wholly zero", columns, tuple(rows), labels=2).plain())
    typer.echo()
    typer.echo(_extractable(found))
    typer.echo()
    if shapes:
        typer.echo(str(prunus.accelerate_sparse(built, examples(shapes))))
    else:
        typer.echo(
            "Speed: dense kernels multiply zeros as well, so none by itself. With --input SHAPE the sparse kernels are "
            "timed here; whole filters are worth more cut out."
        )


def _extractable(found: tuple[Zeros, ...]) -> str:
    """Whole filters and input channels without a weight, which need not be stored or computed at all."""
    lines = []
    for parameter in found:
        parts = [
            f"{zero} of {total} {kind}s"
            for kind, (zero, total) in parameter.units.items()
            if kind in ("filter", "channel") and zero
        ]
        if parts:
            lines.append(f"  {parameter.name}: {', '.join(parts)}")
    if not lines:
        return "Nothing to cut out: no filter and no input channel is wholly zero."
    return "\n".join(["Can be cut out (prunus extract, or prunus.extract(model, args)):", *lines])
