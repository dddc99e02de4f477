"""What a plan saves, group by group, and what is frozen and holds: JSON values for the plan to tell."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from prunus.axes import Atom, Axes, Axis, atoms
from prunus.budget.costs import Costs
from prunus.trace import Graph

_EXACT = ("parameters", "macs", "bytes", "activation_memory")


def explained(graph: Graph, counts: Mapping[Atom, int]) -> dict[str, Any]:
    """Costs before and after ``counts``; what each group's cut alone saves; what runs through frozen groups.

    Returns:
        ``costs``: unit -> [before, after]. ``groups``: name -> [size, kept, {unit: saved by its cut alone}], followers
        with whom they follow. ``frozen``: reason -> [groups, parameters, MACs that run through these]. ``fixed``:
        parameters and MACs in which nothing at all can be cut.
    """
    costs = Costs(graph)
    groups = [g for g in graph.free if counts.get(g.atom, g.size) < g.size and g.atom not in graph.sizes.followers]
    rows = len(groups) + 2  # nothing cut, each group alone, all of them
    table = {g.atom: np.full(rows, g.size, dtype=np.int64) for g in groups}
    for i, group in enumerate(groups):
        table[group.atom][[i + 1, -1]] = counts[group.atom]
    found = costs.table(table, rows, _EXACT)
    saved = {g.name: {unit: int(v[0] - v[i + 1]) for unit, v in found.items()} for i, g in enumerate(groups)}
    return {
        "costs": {unit: [int(v[0]), int(v[-1])] for unit, v in found.items()},
        "groups": {g.name: [g.size, counts[g.atom], saved[g.name]] for g in groups},
        **_frozen(graph, costs.parameters),
    }


def _frozen(graph: Graph, parameters: Sequence[Axes]) -> dict[str, Any]:
    number: dict[str, int] = defaultdict(int)
    for group in graph.groups:
        if group.frozen is not None:
            number[group.frozen] += 1
    through: dict[str, list[int]] = {reason: [n, 0, 0] for reason, n in number.items()}
    fixed = [0, 0]
    products = [axes for _, work in graph.runs[0].work for axes in work.products]
    for column, parts in enumerate((parameters, products)):
        for size, reasons, free in _read(graph, parts):
            for reason in reasons & through.keys():
                through[reason][column + 1] += size
            fixed[column] += 0 if free else size
    return {"frozen": through, "fixed": fixed}


def _read(graph: Graph, parts: Iterable[Axes]) -> Iterable[tuple[int, set[str], bool]]:
    """Each with its size, why parts of it are frozen, and whether any of it can be cut."""
    known: dict[Axis, set[str | None]] = {}
    for axes in parts:
        for axis in axes:
            if axis not in known:
                known[axis] = {graph.space.reason(atom) for atom in atoms(graph.space.resolve(axis))}
        found = set().union(*(known[axis] for axis in axes))
        yield prod(axis.size for axis in axes), {reason for reason in found if reason is not None}, None in found
