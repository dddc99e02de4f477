"""``prunus export``: a model, or a saved folder, to a checked file for deployment."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from prunus.cli.options import Inputs, Weights, build, examples


def export(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="MODEL as for other commands, or FOLDER@MODEL for what prunus saved."),
    ],
    path: Annotated[Path, typer.Argument(metavar="FILE", help="The ONNX file to write.")],
    shapes: Inputs,
    weights: Weights = None,
    int8: Annotated[Path | None, typer.Option(help="Also quantize it, dynamically, to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Export to ONNX, compare it with torch in ONNX Runtime on random inputs, and keep it only if they agree."""
    import prunus

    folder, at, spec = model.rpartition("@")
    loaded = prunus.load(folder, lambda: build(spec, None)) if at else build(model, weights)
    results: list[Any] = [prunus.export(loaded, examples(shapes), path)]
    if int8 is not None:
        results.append(prunus.quantize(path, int8, scheme="dynamic"))
    if as_json:
        typer.echo(json.dumps([asdict(result) for result in results], indent=2, default=str))
    else:
        typer.echo("\n".join(map(str, results)))
