"""``prunus run``: a recipe, from the model's name to the report."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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
) -> None:
    """Run a recipe: train, look, prune, mask, fine-tune, distil, export, measure, report; each stage is kept."""
    from prunus import recipes
    from prunus.report.tables import Table
    from prunus.report.terminal import Terminal

    if names:
        for name in recipes.ready_recipes():
            typer.echo(f"{name:18} {recipes.read_recipe(name).description}")
        return
    if not recipe:
        raise InputError("name a recipe: a YAML file, or one of those that prunus run --list shows.")
    if dry:
        rows = tuple(recipes.dry_run(recipe, out, quick=quick))
        columns = ("stage", "what", "state", "cost, uncut")
        typer.echo(Table(f"{recipe}: nothing is run", columns, rows, labels=3).plain())
        return
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
    terminal.done(f"{folder / 'report.html'} shows what was found; weights: {recipes.final_weights(folder)}")
