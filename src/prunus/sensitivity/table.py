"""The pruning table: a ratio for each group, as YAML that a person can read and edit."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prunus.errors import InputError, suggest
from prunus.selection import check_ratio

_KEYS = ("model", "goal", "ratios")
_HEAD = """\
# Pruning table of prunus: the part of each group that goes, in [0, 1). Edit it, take lines out, add groups or
# patterns (see prunus inspect). Then: prunus prune ... --table {name}
"""


class PruningTable(dict[str, float]):
    """Group name or pattern -> the part that goes: what :func:`prunus.plan` takes as ``ratio``, and its YAML.

    Attributes:
        notes: group name -> what to say beside its line, for people.
        model: the class it was made for, for people.
        goal: what it was made to meet, for people.
    """

    def __init__(
        self, ratios: Mapping[str, float], *, notes: Mapping[str, str] | None = None, model: str = "", goal: str = ""
    ) -> None:
        super().__init__(ratios)
        self.notes, self.model, self.goal = dict(notes or {}), model, goal

    def to_yaml(self, path: str | os.PathLike[str]) -> None:
        """Write the table; the notes become comments."""
        yaml = _yaml()

        def line(value: Any) -> str:
            return str(yaml.safe_dump(value, default_flow_style=True, width=10**6)).partition("\n")[0]

        width = max((len(line(name)) for name in self), default=0)
        text = (
            _HEAD.format(name=os.path.basename(path)) + f"model: {line(self.model)}\ngoal: {line(self.goal)}\nratios:"
        )
        for name, ratio in self.items():
            note = f"  # {self.notes[name]}" if name in self.notes else ""
            text += f"\n  {(line(name) + ':').ljust(width + 1)} {ratio:g}{note}"
        Path(path).write_text(text + (" {}\n" if not self else "\n"), encoding="utf-8")

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> PruningTable:
        """Read what :meth:`to_yaml` wrote, or a person.

        Raises:
            InputError: there is no such file, it isn't such a table, or a ratio is outside [0, 1).
        """
        yaml = _yaml()
        try:
            document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise InputError(f"there is no pruning table {os.fspath(path)!r}.") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InputError(f"{os.fspath(path)} isn't YAML: {' '.join(str(error).split())}") from error
        if not isinstance(document, dict) or not isinstance(document.get("ratios"), dict):
            raise InputError(
                f"{os.fspath(path)} is no pruning table: it has no 'ratios:' with a group and a ratio a line."
            )
        for key in document:
            if key not in _KEYS:
                raise InputError(f"{os.fspath(path)} has an unknown key {key!r}.{suggest(str(key), _KEYS)}")
        ratios = {str(name): check_ratio(ratio) for name, ratio in document["ratios"].items()}
        return cls(ratios, model=str(document.get("model", "")), goal=str(document.get("goal", "")))


def _yaml() -> Any:
    try:
        import yaml
    except ImportError as error:
        raise InputError("PyYAML isn't installed: pip install pyyaml") from error
    return yaml
