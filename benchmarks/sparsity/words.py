"""Figures gathered by method and sparsity, over seeds, and how they are told."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence

from prunus.report.tables import Table


class Told:
    """``add(method, sparsity, figure)`` for every seed; ``table`` gives mean and deviation."""

    def __init__(self) -> None:
        self.found: dict[str, dict[float, list[float]]] = {}

    def add(self, method: str, level: float, figure: float) -> None:
        self.found.setdefault(method, {}).setdefault(level, []).append(figure)

    def table(self, title: str, levels: Sequence[float], form: Callable[[list[float]], str], note: str) -> Table:
        rows = [
            (method, *(form(found[level]) if level in found else "–" for level in levels))
            for method, found in self.found.items()
        ]
        return Table(title, ("method", *(f"{level:.0%}" for level in levels)), tuple(rows), note=note)


def percent(figures: list[float]) -> str:
    """97.12 ± 0.21."""
    spread = statistics.stdev(figures) if len(figures) > 1 else 0.0
    return f"{statistics.mean(figures):.2f} ± {spread:.2f}"


def cents(figures: list[float]) -> str:
    """Few digits: it goes from 3 to a thousand."""
    return f"{statistics.mean(figures):.1f}" if statistics.mean(figures) < 100 else f"{statistics.mean(figures):.0f}"


def markdown(table: Table) -> str:
    """The table for a document."""
    head = [table.columns, tuple("---" for _ in table.columns), *table.rows]
    return "\n".join([f"## {table.title}", "", *(f"| {' | '.join(row)} |" for row in head), "", table.note, ""])


def say(words: str) -> None:
    """Progress, where it doesn't mix with the result."""
    print(words, file=sys.stderr, flush=True)
