"""The terminal: Rich where a person is looking, plain aligned text where the output is piped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.tree import Tree

    from prunus.report.tables import Table

Tick = Callable[[int, int, str], None]
"""``tick(done, of, text)`` moves a progress bar."""


class Terminal:
    """Writes headings, sentences, tables and progress bars to one console."""

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console

        self.console = console or Console(highlight=False)

    @property
    def live(self) -> bool:
        """Whether a person is looking."""
        return bool(self.console.is_terminal)

    def heading(self, text: str) -> None:
        """A line that stands out, with room above it."""
        self._print(f"\n{text}", style="bold cyan")

    def say(self, text: str) -> None:
        """A sentence, wrapped to the terminal; not wrapped in a pipe."""
        self._print(text)

    def done(self, text: str) -> None:
        """A sentence that reports a success."""
        self._print(f"✓ {text}", style="green")

    def table(self, table: Table) -> None:
        """A table; a pipe gets plain text."""
        if not self.live:
            self._print(f"\n{table.plain()}\n")
            return
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text

        rich = RichTable(title=table.title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
        for index, name in enumerate(table.columns):
            style = "bold green" if index == table.strong else None
            rich.add_column(name, justify="left" if index < table.labels else "right", style=style)
        for row in table.rows:
            rich.add_row(*(Text(cell) for cell in row))
        rich.caption, rich.caption_justify = table.note or None, "left"
        self.console.print(rich)

    def tree(self, tree: Tree) -> None:
        """A tree of Rich's; never wrapped, and without colour in a pipe."""
        self.console.print(tree, soft_wrap=True)

    @contextmanager
    def progress(self, text: str, left: bool = False) -> Iterator[Tick]:
        """A progress bar while the block runs, with the time ``left`` if asked; nothing at all in a pipe."""
        if not self.live:
            yield lambda done, of, text: None
            return
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(
            *columns,
            *((TextColumn("left"), TimeRemainingColumn()) if left else ()),
            console=self.console,
            transient=True,
        ) as bar:
            task = bar.add_task(text, total=None)
            yield lambda done, of, text: bar.update(task, completed=done, total=of, description=text)

    def _print(self, text: str, style: str | None = None) -> None:
        if self.live:
            self.console.print(text, style=style, markup=False)
        else:
            self.console.print(text, markup=False, soft_wrap=True)
