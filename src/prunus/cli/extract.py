"""``prunus extract``: from a factory and masked weights to the exact small model in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prunus.cli.answers import Json, answering
from prunus.cli.options import Inputs, Model, Weights, build, examples
from prunus.cli.shipping import shipped


def extract(
    model: Model,
    shapes: Inputs,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to save the small model to.")],
    weights: Weights = None,
    mode: Annotated[
        str, typer.Option(help="exact: the same function. drop: without what dead units still emit, to be fine-tuned.")
    ] = "exact",
    spread: Annotated[
        bool, typer.Option(help="Let layers whose dead channels are alive elsewhere compute the others alone.")
    ] = True,
    onnx: Annotated[Path | None, typer.Option(help="Also export the small model to this ONNX file.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a folder that prunus saved before.")] = False,
    as_json: Json = False,
) -> None:
    """Take the small network out of one with masks or zeros, check that it is the same, and save it without pickle."""
    import prunus

    with answering(as_json) as answer:
        masked, args = build(model, weights), examples(shapes)
        small = prunus.extract(masked, args, mode=mode, spread=spread)
        typer.echo(str(small.prunus_extraction))
        answer.value = {"extraction": small.prunus_extraction} | shipped(masked, small, args, out, overwrite, onnx)
