"""``prunus masks``: what the zeros of a model amount to, what could be cut out, what speed to expect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from prunus.cli.answers import Json, answering
from prunus.cli.options import Model, Weights, build, examples

if TYPE_CHECKING:
    from torch import nn

    from prunus.masks.inspection import Zeros


def masks(
    model: Model,
    weights: Weights = None,
    shapes: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", metavar="SHAPE", help="As for profile; extracts and times sparse kernels."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show a model's zeros at each granularity, what could be cut out, and what speed to expect."""
    import prunus
    from prunus.masks.inspection import zeros

    with answering(as_json) as answer:
        built = build(model, weights)
        found = zeros(built)
        fast = prunus.accelerate_sparse(built, examples(shapes)) if shapes else None
        speed = _DENSE if fast is None else str(fast)
        left, told = (None, "") if shapes is None else _extracted(built, examples(shapes))
        answer.text = "\n\n".join(part for part in (_table(found), _extractable(found), told, speed) if part)
        answer.value = {"parameters": [parameter.to_dict() for parameter in found]}
        if left is not None:
            answer.value["extracted"] = left
        if fast is not None:
            answer.value["sparse"] = {"layers": fast.layers, "dense": fast.dense, "sparse": fast.sparse}


_DENSE = (
    "Speed: dense kernels multiply zeros as well, so none by itself. With --input SHAPE the sparse kernels are timed "
    "here; whole filters are worth more cut out."
)


def _extracted(model: nn.Module, args: Any) -> tuple[int | None, str]:
    """How many parameters an exact extraction leaves, and how that is told."""
    import prunus

    try:
        small = prunus.extract(model, args)
    except prunus.NothingToPrune as error:
        return None, f"Extracted: nothing; {error}"
    report = small.prunus_extraction
    assert isinstance(report, prunus.Extraction)
    return report.parameters[1], f"Extracted: {report}"


def _table(found: tuple[Zeros, ...]) -> str:
    from prunus.masks.inspection import GRANULARITIES
    from prunus.report.tables import Table

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
    return Table("Units that are wholly zero", columns, tuple(rows), labels=2).plain()


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
