"""A report in another language: every sentence is looked up, with its numbers left in place."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from prunus.errors import InputError, suggest
from prunus.report.chinese import WORDS

if TYPE_CHECKING:
    from prunus.report.page import Report, Section
    from prunus.report.tables import Table

LANGUAGES: Mapping[str, Mapping[str, str]] = {"en": {}, "zh-CN": WORDS}
"""Language -> English text -> its translation. ``{}`` stands for whatever is there, in the same order in both."""

Say = Callable[[str], str]


def translated(report: Report, language: str) -> Report:
    """``report`` in ``language``: "en" or "zh-CN". What the catalogue doesn't know, names and code, stays as it is.

    Raises:
        InputError: there is no such language.
    """
    say = speaker(language)
    return replace(
        report,
        language=language,
        title=say(report.title),
        summary=say(report.summary),
        tiles=[replace(t, label=say(t.label), change=say(t.change)) for t in report.tiles],
        sections=[_section(section, say) for section in report.sections],
    )


def speaker(language: str) -> Say:
    """A function that translates one text. InputError: there is no such language."""
    if language not in LANGUAGES:
        raise InputError(f"no report in {language!r}.{suggest(language, LANGUAGES)} Known: {', '.join(LANGUAGES)}.")
    words = LANGUAGES[language]
    longest = sorted((english for english in words if "{}" in english), key=len, reverse=True)
    patterns = [(_pattern(english), words[english]) for english in longest]

    def say(text: str) -> str:
        if text in words:
            return words[text]
        for pattern, other in patterns:
            found = pattern.fullmatch(text)
            if found:
                return other.format(*(say(part) for part in found.groups()))
        return text

    return say


@lru_cache(maxsize=1024)
def _pattern(english: str) -> re.Pattern[str]:
    return re.compile("(.*?)".join(map(re.escape, english.split("{}"))), re.DOTALL)


def _section(section: Section, say: Say) -> Section:
    return replace(
        section,
        title=say(section.title),
        text=[say(sentence) for sentence in section.text],
        figures=[_figure(figure, say) for figure in section.figures],
        tables=[_table(table, say) for table in section.tables],
    )


def _figure(svg: str, say: Say) -> str:
    """The words in a drawing: those of its text elements, and its label for screen readers."""
    svg = re.sub(r"(<text[^>]*>)([^<]*)(</text>)", lambda m: m[1] + say(m[2]) + m[3], svg)
    return re.sub(r'(aria-label=")([^"]*)(")', lambda m: m[1] + say(m[2]) + m[3], svg)


def _table(table: Table, say: Say) -> Table:
    return replace(
        table,
        title=say(table.title),
        columns=tuple(map(say, table.columns)),
        rows=tuple(tuple(map(say, row)) for row in table.rows),
        note=say(table.note),
    )
