"""``prunus export``: a model, or a saved folder, to a checked file for deployment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from prunus.cli.answers import Json, answering
from prunus.cli.options import Data, Inputs, Weights, batches, build, examples


def export(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="MODEL as for other commands, or FOLDER@MODEL for what prunus saved."),
    ],
    path: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="The file to write; its suffix says what: .onnx, .xml (OpenVINO), .pt2, .pte, .engine."
        ),
    ],
    shapes: Inputs,
    weights: Weights = None,
    open_sizes: Annotated[
        bool, typer.Option("--open-sizes", help="Also leave resolution or length open, where the model can (ONNX).")
    ] = False,
    slim: Annotated[bool, typer.Option("--slim", help="Also simplify the graph with onnxslim (ONNX).")] = False,
    int8: Annotated[
        Path | None, typer.Option(help="Also quantize the ONNX file to this one: static with --data, else dynamic.")
    ] = None,
    data: Data = "",
    as_json: Json = False,
) -> None:
    """Export to ONNX or another format, compare it with torch on random inputs, and keep it only if they agree."""
    import prunus

    if int8 is not None and path.suffix != ".onnx":
        raise prunus.InputError(f"--int8 quantizes an ONNX file: give FILE the suffix .onnx, not {path.suffix!r}.")
    if data and int8 is None:
        raise prunus.InputError("--data calibrates INT8: say with --int8 FILE where it goes.")
    if (open_sizes or slim) and path.suffix not in (".onnx", ".xml"):
        raise prunus.InputError(f"--open-sizes and --slim are for .onnx and .xml files, not {path.suffix!r}.")
    options: dict[str, Any] = {"dynamic_sizes": open_sizes, "slim": slim} if open_sizes or slim else {}
    with answering(as_json) as answer:
        folder, at, spec = model.rpartition("@")
        if at and weights is not None:
            raise prunus.InputError(f"--weights is for a MODEL; {folder} holds its own: leave it out.")
        loaded = prunus.load(folder, lambda: build(spec, None)) if at else build(model, weights)
        seen = batches(data)
        results: list[Any] = [prunus.export(loaded, examples(shapes), path, **options)]
        if int8 is not None:
            results.append(prunus.quantize(path, int8, seen))
        answer.value, answer.text = results, "\n".join(map(str, results))
