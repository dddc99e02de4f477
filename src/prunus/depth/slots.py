"""Slot numbers: what each block of a row holds as its place in the row, such as the place of its key-value cache.

A removed block leaves its slot empty, which costs nothing. Only the first slot must stay taken: code reads the state
of all from it (how many tokens a cache holds). So where the first block of a row goes, the first of its kind that stays
moves into its slot. Blocks are of one kind if all plain values that they hold, but for the slot number, are equal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from prunus.errors import PlanError
from prunus.surgery import AttributeChange, lies_in

_Place = tuple[str, str]
"""A module's path inside a block, and the name of its attribute."""


def slot_changes(model: nn.Module, dropped: Sequence[str]) -> Iterator[AttributeChange]:
    """The slot numbers that change when the named blocks go.

    Raises:
        PlanError: the first block goes, others stay, and none of its kind can take its slot.
    """
    for row in dict.fromkeys(name.rpartition(".")[0] for name in dropped):
        first, *rest = [f"{row}.{key}".lstrip(".") for key, _ in model.get_submodule(row).named_children()]
        values = {name: _plain_values(model.get_submodule(name)) for name in (first, *rest)}
        places = [place for place in values[first] if _is_slot(place, list(values.values()))]
        stays = [name for name in rest if not lies_in(name, dropped)]
        if not places or not lies_in(first, dropped) or not stays:
            continue
        heir = next((n for n in stays if _kind(values[n], places) == _kind(values[first], places)), None)
        if heir is None:
            raise PlanError(
                f"{first!r} can't be removed: it holds slot 0 ({places[0][1]}), from which the state of all its "
                "neighbours is told, and no block of its kind is left to take the slot."
            )
        for path, name in places:
            old = values[heir][path, name]
            yield AttributeChange(f"{heir}.{path}".rstrip("."), name, (), old, 0)


def _plain_values(block: nn.Module) -> dict[_Place, Any]:
    return {
        (path, name): value
        for path, module in block.named_modules()
        for name, value in vars(module).items()
        if not name.startswith("_") and type(value) in (int, float, str, bool, type(None))
    }


def _is_slot(place: _Place, row: Sequence[dict[_Place, Any]]) -> bool:
    values = [values.get(place) for values in row]
    return len(row) > 1 and all(type(v) is int and v == i for i, v in enumerate(values))


def _kind(values: dict[_Place, Any], places: Sequence[_Place]) -> dict[_Place, Any]:
    return {place: value for place, value in values.items() if place not in places}
