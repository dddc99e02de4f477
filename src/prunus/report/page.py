"""report.html: one file with everything in it, that opens without a network."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from prunus.report.language import speaker
from prunus.report.tables import Table


@dataclass(frozen=True)
class Tile:
    """One of the few numbers at the top: what it was, what it is, and the change in words."""

    label: str
    before: str
    after: str
    change: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading with sentences, plots (``<svg>`` from :func:`prunus.report.svg.inline_svg`), tables, commands."""

    title: str
    text: Sequence[str] = ()
    figures: Sequence[str] = ()
    tables: Sequence[Table] = ()
    code: str = ""


@dataclass(frozen=True, kw_only=True)
class Report:
    """The whole page: a title, the result in one sentence, the tiles, then the sections."""

    title: str
    summary: str
    tiles: Sequence[Tile] = ()
    sections: Sequence[Section] = ()
    language: str = "en"


def write_report(report: Report, path: str | os.PathLike[str]) -> Path:
    """Render ``report`` to ``path`` and return it. It is written beside and renamed, so it is never half there."""
    target = Path(path)
    beside = target.with_name(target.name + ".part")
    beside.write_text(render(report), encoding="utf-8")
    os.replace(beside, target)
    return target


def render(report: Report) -> str:
    """The page as HTML text. Everything but the figures is escaped."""
    from jinja2 import Environment, StrictUndefined

    source = resources.files("prunus.report").joinpath("page.html.jinja").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(source).render(report=report, say=speaker(report.language))
