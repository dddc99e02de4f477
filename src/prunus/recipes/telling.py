"""The report of a run: what each stage did and found, in one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prunus.recipes.schema import Recipe, Stage
from prunus.recipes.state import Outcome
from prunus.report import write_report
from prunus.report.charts import sensitivity_figure, training_figure
from prunus.report.page import Report, Section, Tile
from prunus.report.svg import inline_svg
from prunus.report.tables import Table, change, count, milliseconds

Done = Sequence[tuple[str, Stage, Outcome]]


def write_page(recipe: Recipe, out: Path, done: Done) -> Path:
    """Write ``report.html``."""
    title = f"{recipe.name}: a run of prunus"
    report = Report(
        title=title, summary=recipe.description or title, tiles=_tiles(done), sections=_sections(recipe, done)
    )
    return write_report(report, out / "report.html")


def _tiles(done: Done) -> list[Tile]:
    """Before and after, if the recipe ends with a comparison."""
    compared = [outcome.found for _, stage, outcome in done if stage.kind == "bench"]
    if not compared:
        return []
    before, after = compared[-1]["before"], compared[-1]["after"]
    rows = [("parameters", "parameters", count), ("MACs", "macs", count), ("latency", "latency_ms", milliseconds)]
    tiles = [Tile(label, form(before[k]), form(after[k]), change(before[k], after[k])) for label, k, form in rows]
    points = f"{after['test'] - before['test']:+.2f} points"
    return [*tiles, Tile("test", f"{before['test']:.2f}", f"{after['test']:.2f}", points)]


def _sections(recipe: Recipe, done: Done) -> list[Section]:
    rows = tuple(
        (
            name,
            f"{_metric(outcome.found):.2f}",
            count(outcome.found["parameters"]),
            _zeros(outcome.found),
            f"{outcome.found['seconds']:.1f} s",
        )
        for name, _, outcome in done
    )
    columns = ("stage", "validation", "parameters", "zeros", "time")
    note = "Everything is decided on the validation data; the test data are only reported on."
    first = Section(title="Stages", tables=[Table("What each stage left", columns, rows, note=note)])
    return [first, *(_section(name, stage, outcome) for name, stage, outcome in done)]


def _section(name: str, stage: Stage, outcome: Outcome) -> Section:
    found = outcome.found
    figures = []
    if "epochs" in found:
        figure = training_figure({name: found["epochs"]}, ylabel="validation")
        figures.append(inline_svg(figure, f"{name}-epochs", f"The validation score after each epoch of {name}."))
    if "curves" in found:
        figure = sensitivity_figure(found["curves"], ylabel="validation")
        figures.append(inline_svg(figure, f"{name}-curves", "The validation score where each group is cut alone."))
    settings = ", ".join(f"{key}: {value}" for key, value in stage.settings.model_dump(exclude_unset=True).items())
    words = [f"{key}: {value}" for key, value in found.items() if key not in ("epochs", "curves")]
    return Section(title=name, text=[f"Asked: {settings or 'the defaults'}.", *words], figures=figures)


def _metric(found: Mapping[str, Any]) -> float:
    """The validation score: the one figure that every stage has beside those with fixed names."""
    return float(found["validation"])


def _zeros(found: Mapping[str, Any]) -> str:
    return f"{found['zeros']:.1%}" if "zeros" in found else "–"
