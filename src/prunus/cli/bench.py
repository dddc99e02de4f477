"""``prunus bench``: models, saved folders and ONNX files side by side, in several runtimes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prunus.cli.answers import Json, answering
from prunus.cli.options import Inputs, build, examples

if TYPE_CHECKING:
    from prunus.deploy.runtimes import Source


def bench(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="Each file.onnx, FOLDER@MODEL (what prunus saved, and what builds the unpruned one), or MODEL as for "
            "other commands. Speed-ups are against the first.",
        ),
    ],
    shapes: Inputs,
    runtimes: Annotated[
        str, typer.Option("--runtimes", "-r", help="Of eager, compile, onnx, openvino; commas between.")
    ] = "eager,onnx",
    batch: Annotated[str, typer.Option(help="Batch sizes, commas between; by default the example's.")] = "",
    threads: Annotated[str, typer.Option(help="Numbers of threads, commas between; by default torch's.")] = "",
    repeats: Annotated[int, typer.Option(help="Timed runs of each.")] = 30,
    as_json: Json = False,
) -> None:
    """Measure latency with confidence intervals, load time, size, peak memory and energy, taking turns."""
    import prunus

    with answering(as_json) as answer:
        found = prunus.bench(
            {text: _source(text) for text in models},
            examples(shapes),
            runtimes=[name.strip() for name in runtimes.split(",")],
            batch_sizes=_numbers("--batch", batch),
            threads=_numbers("--threads", threads),
            repeats=repeats,
        )
        answer.value, answer.text = found.to_dict(), str(found)


def _source(text: str) -> Source:
    import prunus

    folder, at, spec = text.rpartition("@")
    if at:
        return prunus.Saved(Path(folder), partial(build, spec, None))
    return Path(text) if text.endswith(".onnx") else build(text, None)


def _numbers(option: str, text: str) -> list[int]:
    from prunus.errors import InputError

    try:
        return [int(number) for number in text.split(",") if number.strip()]
    except ValueError as error:
        raise InputError(f"{option} takes whole numbers with commas between, such as 1,8, not {text!r}.") from error
