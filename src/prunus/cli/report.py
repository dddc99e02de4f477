"""``prunus report``: a large model beside the small one made of it, as one page."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from prunus.cli.answers import Json, answering
from prunus.cli.options import Inputs, Model, Weights, build, examples
from prunus.naming import named

RATIOS = (0.25, 0.5, 0.75)


def report(
    model: Model,
    folder: Annotated[Path, typer.Argument(help="What prunus saved: the folder with plan.json.")],
    shapes: Inputs,
    weights: Weights = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The page to write.")] = Path("report.html"),
    evaluate: Annotated[
        str, typer.Option(metavar="MODULE:NAME", help="A function from a model to a number, higher is better.")
    ] = "",
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="With --evaluate: also cut each group alone, at three ratios.")
    ] = False,
    language: Annotated[str, typer.Option(help="en or zh-CN.")] = "en",
    onnx: Annotated[bool, typer.Option(help="Also time both in ONNX Runtime.")] = True,
    as_json: Json = False,
) -> None:
    """Compare a saved small model with its original on one page: sizes, widths, proof, speed, what a cut costs."""
    import prunus
    from prunus.comparison import compare
    from prunus.report import write_report
    from prunus.report.language import speaker, translated

    speaker(language)  # one that isn't known is refused before anything is measured
    if sensitivity and not evaluate:
        raise prunus.InputError("--sensitivity asks what a cut costs: name the function that tells with --evaluate.")
    with answering(as_json) as answer:
        dense, args = build(model, weights), examples(shapes)
        small = prunus.load(folder, lambda: build(model, None))
        judge = named(evaluate) if evaluate else None
        command = shlex.join(["prunus", *sys.argv[1:]])
        curves = prunus.sensitivity(dense, args, evaluate=judge, ratios=RATIOS) if judge and sensitivity else None
        page = compare(dense, small, args, evaluate=judge, onnx=onnx, reproduce=command, curves=curves)
        written = write_report(translated(page, language), out)
        answer.text = f"wrote {written}: {page.summary}"
        answer.value = {"page": written, "summary": page.summary, "tiles": page.tiles}
