"""``prunus demo``: the whole way, on real digits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prunus.cli.answers import Json, answering


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the models, the figures and report.html.")] = Path("demo-out"),
    seed: Annotated[int, typer.Option(help="Seed of the weights and of the order of the digits.")] = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="One epoch on 1,000 digits: to try it, not to judge it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a LeNet on real digits, prune it to a quarter, prove, retrain, save, export, measure, report."""
    from prunus.demo.job import run
    from prunus.demo.outcome import Settings
    from prunus.report.terminal import Terminal

    settings = Settings(seed, epochs=1, finetune_epochs=1, examples=1000, repeats=10) if quick else Settings(seed)
    with answering(as_json) as answer:
        answer.value = run(out, settings, Terminal()).to_dict()
