"""``prunus run``: a recipe, from the model's name to the report."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prunus.cli.answers import Answer, Json, answering
from prunus.errors import InputError

if TYPE_CHECKING:
    from prunus.recipes import Step
    from prunus.report.terminal import Tick


def run(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or the name of a recipe that comes with prunus.")] = "",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Run folder; by default runs/NAME. A stopped run goes on.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The recipe's quick section: to try it.")] = False,
    dry: Annotated[bool, typer.Option("--dry-run", help="Say what would happen and what it costs.")] = False,
    names: Annotated[bool, typer.Option("--list", help="List the recipes that come with prunus.")] = False,
    as_json: Json = False,
) -> None:
    """Run a recipe: train, look, prune, mask, fine-tune, distil, export, measure, report; each stage is kept."""
    if not recipe and not names:
        raise InputError("name a recipe: a YAML file, or one of those that prunus run --list shows.")
    with answering(as_json) as answer:
        if names:
            _list(answer)
        elif dry:
            _dry(answer, recipe, out, quick)
        else:
            _run(answer, recipe, out, quick)


def _list(answer: Answer) -> None:
    from prunus import recipes

    answer.value = {name: recipes.read_recipe(name).description for name in recipes.ready_recipes()}
    answer.text = "\n".join(f"{name:18} {description}" for name, description in answer.value.items())


def _dry(answer: Answer, recipe: str, out: Path | None, quick: bool) -> None:
    from prunus import recipes
    from prunus.report.tables import Table

    rows = tuple(recipes.dry_run(recipe, out, quick=quick))
    columns = ("stage", "what", "state", "cost, uncut")
    answer.text = Table(f"{recipe}: nothing is run", columns, rows, labels=3).plain()
    answer.value = [dict(zip(("stage", "what", "state", "cost"), row, strict=True)) for row in rows]


def _run(answer: Answer, recipe: str, out: Path | None, quick: bool) -> None:
    from prunus import recipes
    from prunus.report.terminal import Terminal

    terminal = Terminal()
    with ExitStack() as bar:
        tick: list[Tick] = []

        def tell(step: Step, what: str) -> None:
            bar.close()
            if what == "run":
                tick[:] = [bar.enter_context(terminal.progress(step.name, left=True))]
            else:
                terminal.done(f"{step.name} {'is there already' if what == 'cached' else 'done'}: {step.folder.name}")

        def move(done: int, of: int, words: str) -> None:
            tick[0](done, of, words)

        folder = recipes.run(recipe, out, quick=quick, on_stage=tell, on_progress=move)
    report, weights = folder / "report.html", recipes.final_weights(folder)
    terminal.done(f"{report} shows what was found; weights: {weights}")
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    answer.value = {"folder": folder, "report": report, "weights": weights, "metrics": metrics}
