"""Bounds on what stays of a group: at least, at most, and the multiple that hardware likes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prunus.axes import Atom, Axis, Product
from prunus.errors import InputError, suggest
from prunus.matching import each
from prunus.trace import Graph, Group

MULTIPLES: Mapping[str, int] = {
    "avx2": 8,  # fp32 lanes of a vector register
    "avx512": 16,
    "neon": 4,
    "cuda-tf32": 4,  # 16 bytes, below which tensor cores are fed badly (NVIDIA, Matrix Multiplication Background)
    "cuda-fp16": 8,
    "cuda-int8": 16,
}
"""The multiple that sizes should be of, by target."""

Multiple = int | str | Mapping[str, "int | str"]
Least = int | float | Mapping[str, "int | float"]


@dataclass(frozen=True)
class Limits:
    """What a choice of counts must obey.

    Attributes:
        min_keep, max_keep: how many indices of a group stay at least and at most, an int, or as a part of it, a float
            in (0, 1]; a dict gives them by pattern. ``max_keep`` cuts what the ratio or the scores would spare.
        round_to: the multiple that every dimension is rounded up to, or a target of :data:`MULTIPLES`, or a dict.
    """

    min_keep: Least = 1
    max_keep: Least | None = None
    round_to: Multiple | None = None

    def told(self) -> dict[str, Any]:
        """The limits as JSON values, for the plan; those that limit nothing are left out."""
        given = {"min_keep": self.min_keep, "max_keep": self.max_keep}
        told = {name: value for name, value in given.items() if value not in (1, None)}
        return {k: dict(v) if isinstance(v, Mapping) else v for k, v in {**told, "round_to": self.round_to}.items()}

    def apply(self, graph: Graph, groups: Sequence[Group], wanted: Mapping[Atom, int]) -> dict[Atom, int]:
        """``wanted`` counts of ``groups``, brought into the bounds and rounded: up, and down where up is too much.

        Raises:
            InputError: a bound or a multiple is no such thing, a pattern matches nothing, or no count fits a group.
        """
        return {g.atom: _fitted(wanted[g.atom], *span, g) for g, span in self._spans(graph, groups)}

    def choices(self, graph: Graph, groups: Sequence[Group]) -> dict[Atom, list[int]]:
        """Every count that each of ``groups`` may have, ascending.

        Raises:
            InputError: as :meth:`apply`.
        """
        return {
            g.atom: sorted({_fitted(n, *span, g) for n in range(span[0], span[1] + 1)})
            for g, span in self._spans(graph, groups)
        }

    def _spans(self, graph: Graph, groups: Sequence[Group]) -> Iterator[tuple[Group, tuple[int, int, int]]]:
        """Each group with the least and the most it may keep, and its step."""
        least = each(graph, groups, self.min_keep, "min_keep")
        most = each(graph, groups, self.max_keep, "max_keep")
        steps = _steps(graph, each(graph, groups, self.round_to, "round_to"))
        for group in groups:
            low = max(_number(least.get(group.atom, 1), group, "min_keep"), graph.at_least(group.atom))
            high = _number(most.get(group.atom, group.size), group, "max_keep")
            if low > high:
                raise InputError(f"group {group.name!r} is to keep at least {low} and at most {high} indices.")
            yield group, (low, high, steps.get(group.atom, 1))


def _fitted(n: int, low: int, high: int, step: int, group: Group) -> int:
    up = math.ceil(min(max(n, low), high) / step) * step
    if up <= high:
        return up
    if high == group.size:
        return group.size
    down = high // step * step
    if down < low:
        raise InputError(f"no multiple of {step} lies between min_keep {low} and max_keep {high} of {group.name!r}.")
    return down


def _number(bound: Any, group: Group, argument: str) -> int:
    """A bound in indices of the group, from 1 to its size."""
    if isinstance(bound, float) and 0 < bound <= 1:
        wanted = bound * group.size
        return max(1, math.ceil(wanted - 1e-9) if argument == "min_keep" else int(wanted + 1e-9))
    if isinstance(bound, bool) or not isinstance(bound, int) or bound < 1:
        raise InputError(f"{argument} must be a whole number from 1 or a part in (0, 1], not {bound!r}.")
    return min(bound, group.size)


def multiple(value: Any) -> int:
    """The number that ``round_to`` means.

    Raises:
        InputError: neither a positive integer nor a known target.
    """
    if isinstance(value, str):
        if value not in MULTIPLES:
            raise InputError(
                f"round_to knows no target {value!r}.{suggest(value, MULTIPLES)} Known: {', '.join(MULTIPLES)}."
            )
        return MULTIPLES[value]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"round_to must be a positive integer, not {value!r}, or a target: {', '.join(MULTIPLES)}.")
    return value


def _steps(graph: Graph, wanted: Mapping[Atom, Any]) -> dict[Atom, int]:
    """For each atom the multiple its count must be of, so that every dimension it is in is one of what is wanted."""
    multiples = {atom: multiple(value) for atom, value in wanted.items()}
    steps: dict[Atom, int] = {}
    if any(n > 1 for n in multiples.values()):
        for axes in graph.tensors.values():
            for axis in axes:
                _widths(axis, 1, multiples, steps)
    return steps


def _widths(axis: Axis, width: int, multiples: Mapping[Atom, int], steps: dict[Atom, int]) -> None:
    if isinstance(axis, Atom):
        wanted = multiples.get(axis, 1)
        step = wanted // math.gcd(wanted, width)
        steps[axis] = max(steps.get(axis, 1), step if axis.size >= step else 1)
        return
    for i, part in enumerate(axis.parts):
        others = [p.size for j, p in enumerate(axis.parts) if j != i] if isinstance(axis, Product) else []
        _widths(part, width * math.prod(others), multiples, steps)
