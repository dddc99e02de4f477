"""Where a run's figures go. After a restart each forgets what will be trained again, and goes on."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from prunus.errors import InputError


class Tracker(Protocol):
    """Takes figures, by name, as they come."""

    def start(self, step: int) -> None:
        """The run begins after so many steps of the optimizer; later figures from before it don't count."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Figures after so many steps."""

    def close(self) -> None:
        """The run is over."""


class JSONL:
    """One JSON object a line, with ``step`` and the figures."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def start(self, step: int) -> None:
        """Make the file, or keep what came up to ``step``."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        rows = [row for row in read_jsonl(self.path) if step and row["step"] <= step] if self.path.exists() else []
        _replace(self.path, "".join(json.dumps(row) + "\n" for row in rows))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def close(self) -> None:
        """Each line is on the disk already."""


class CSV:
    """One row a call; columns that come later are added, cells that are missing are empty."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.names: list[str] = []

    def start(self, step: int) -> None:
        """Make the file, or keep what came up to ``step``."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        rows = [row for row in self._rows() if step and int(row["step"]) <= step]
        self.names = list(rows[0]) if rows else ["step"]
        self._write_all(rows)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a row."""
        row = {"step": str(step), **{name: repr(value) for name, value in values.items()}}
        new = [name for name in row if name not in self.names]
        if new:
            self.names += new
            self._write_all([*self._rows(), row])
            return
        with self.path.open("a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, self.names, restval="").writerow(row)

    def close(self) -> None:
        """Each row is on the disk already."""

    def _rows(self) -> list[dict[str, str]]:
        if not self.path.exists():
            return []
        with self.path.open(encoding="utf-8", newline="") as file:
            return [row for row in csv.DictReader(file) if None not in row.values() and (row["step"] or "").isdigit()]

    def _write_all(self, rows: list[dict[str, str]]) -> None:
        draft = self.path.with_suffix(".tmp")
        with draft.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, self.names, restval="")
            writer.writeheader()
            writer.writerows(rows)
        draft.replace(self.path)


class TensorBoard:
    """Scalars for TensorBoard.

    Raises:
        InputError: tensorboard isn't installed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise InputError("TensorBoard files need tensorboard: pip install tensorboard.") from error
        self._make, self.folder = SummaryWriter, Path(folder)
        self._writer: Any = None

    def start(self, step: int) -> None:
        """Open the folder; TensorBoard hides what came after ``step`` before."""
        self._writer = self._make(str(self.folder), purge_step=step + 1 if step else None)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """One point of each curve."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


def read_jsonl(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of a JSONL file; a last one that a killed process left half written is not among them."""
    lines = Path(path).read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def _replace(path: Path, text: str) -> None:
    draft = path.with_suffix(".tmp")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
