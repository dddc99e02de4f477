"""``prunus sensitivity``: cut each group alone, evaluate, and write a pruning table that ``prunus prune`` takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from prunus.cli.answers import Json, answering
from prunus.cli.budgets import Budgets, budgets
from prunus.cli.options import WITHOUT_DATA, Inputs, Model, Weights, build, examples
from prunus.errors import InputError
from prunus.naming import named


def sensitivity(
    model: Model,
    shapes: Inputs,
    evaluate: Annotated[
        str,
        typer.Option(
            metavar="WHAT",
            help="package.module:name or file.py:name, a function that takes the network and returns a number (higher "
            "is better) or a dict of numbers.",
        ),
    ],
    weights: Weights = None,
    ratios: Annotated[str, typer.Option(help="Shares to remove.")] = "0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9",
    groups: Annotated[list[str] | None, typer.Option(help="Group, or pattern, to measure. Repeat for more.")] = None,
    importance: Annotated[str, typer.Option(help=f"What goes first: {WITHOUT_DATA}.")] = "l2",
    stop: Annotated[float | None, typer.Option(help="Don't measure a group deeper once it dropped by more.")] = None,
    cache: Annotated[Path | None, typer.Option(help="File of measurements; the same command goes on from it.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the measurements to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the curves into this file (.svg, .png, .pdf).")] = None,
    table: Annotated[Path | None, typer.Option(help="Write a pruning table to this YAML file.")] = None,
    max_drop: Annotated[
        float | None, typer.Option(help="For the table: what each group, alone, may lose of the metric.")
    ] = None,
    budget: Budgets = None,
    as_json: Json = False,
) -> None:
    """Measure which layers can lose how much. Run by accelerate launch, its processes share the work."""
    import prunus
    from prunus.report.terminal import Terminal

    limits = budgets(budget)
    if table is not None and (max_drop is None) == (limits is None):
        raise InputError("--table needs to know what for: give --max-drop, or one --budget or more.")
    accelerator = _accelerator()
    with answering(as_json and (accelerator is None or accelerator.is_main_process)) as answer:
        dense, args = build(model, weights), examples(shapes)
        with Terminal().progress("cutting each group alone", left=True) as tick:
            found = prunus.sensitivity(
                dense,
                args,
                evaluate=named(evaluate),
                ratios=_numbers(ratios),
                groups=groups,
                importance=importance,
                stop=stop,
                cache=cache,
                accelerator=accelerator,
                on_progress=tick,
            )
        if accelerator is not None and not accelerator.is_main_process:
            return
        answer.text = str(found)
        answer.value = {"baseline": found.baseline, "sizes": found.sizes, "measurements": found.rows}
        if csv is not None:
            found.to_csv(csv)
        if plot is not None:
            found.plot(plot)
        if table is not None:
            made = (
                found.table(max_drop)
                if max_drop is not None
                else found.budget_table(prunus.trace(dense, args), limits or {}, importance=importance)
            )
            made.to_yaml(table)
            answer.text += f"\nwrote {table}: edit it, then prunus prune ... --table {table}"
            answer.value["table"] = {"file": table, "ratios": dict(made)}


def _accelerator() -> Any:
    """Accelerate's, where it launched several processes; None otherwise."""
    import os

    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    from accelerate import Accelerator

    return Accelerator()


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"--ratios are numbers with commas between, such as 0.25,0.5,0.75, not {text!r}.") from error
