"""A table as data, shown in the terminal, in the report and as JSON, and how its numbers are written."""

from __future__ import annotations

from dataclasses import dataclass

from prunus.columns import aligned


@dataclass(frozen=True)
class Table:
    """Cells are text, ready to show. The first ``labels`` columns are left-aligned, the others hold numbers.

    ``strong`` is the index of a column that the eye should find first, ``note`` one line below the table.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    labels: int = 1
    strong: int | None = None
    note: str = ""

    def plain(self) -> str:
        """The table as aligned text without colour, frames or truncation, for pipes and files."""
        lines = [self.columns, *self.rows]
        text = aligned(lines, self.labels)
        text.insert(1, "  ".join("-" * max(map(len, column)) for column in zip(*lines, strict=True)))
        return "\n".join([self.title, *text, *([self.note] if self.note else [])])

    def as_json(self) -> list[dict[str, str]]:
        """One object per row, keyed by column."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


def count(number: float) -> str:
    """12345 -> "12,345"."""
    return f"{round(number):,}"


def short(number: float) -> str:
    """12345 -> "12,345"; from ten million on three digits and a unit: 39675904 -> "39.7 M"."""
    if number < 1e7:
        return count(number)
    size, unit = (1e9, "G") if number >= 1e9 else (1e6, "M")
    return f"{number / size:.3g} {unit}" if number < 1000 * size else f"{number / size:,.0f} {unit}"


def kilobytes(number: float) -> str:
    """Bytes as decimal kB or MB with three significant digits or so: 240296 -> "240.3 kB"."""
    return f"{number / 1e6:,.2f} MB" if number >= 1e6 else f"{number / 1e3:,.1f} kB"


def milliseconds(number: float) -> str:
    """Three significant digits: 0.0712 -> "0.0712 ms"."""
    digits = 1 if number >= 100 else 2 if number >= 10 else 3 if number >= 1 else 4
    return f"{number:.{digits}f} ms"


def change(before: float, after: float) -> str:
    """The relative change: "-78.2 %"; "±0 %" where nothing changed."""
    if before == after:
        return "±0 %"
    if before == 0:
        return "new"
    return f"{100 * (after - before) / before:+.1f} %".replace("-", "\N{MINUS SIGN}")


def times(before: float, after: float) -> str:
    """How many times faster or smaller: "2.31x"."""
    return f"{before / after:.2f}×" if after else "–"
