"""Scores to keep-vectors: how many indices of every atom stay, and which."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from prunus.axes import Atom, Axis, Keep, Product, atoms
from prunus.errors import InputError, suggest
from prunus.sizes.expression import leaves
from prunus.trace import Graph, Group

Scores = Mapping[Atom, NDArray[np.float64]]


def check_ratio(ratio: float) -> float:
    """``ratio`` if it is a fraction in [0, 1); InputError otherwise."""
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 <= ratio < 1:
        raise InputError(f"ratio must be at least 0 and less than 1 (the part that goes), not {ratio!r}.")
    return float(ratio)


def choose_counts(
    graph: Graph,
    scores: Scores,
    ratio: float | Mapping[str, float],
    scope: str,
    keep: Sequence[str],
    round_to: int | None,
) -> dict[Atom, int]:
    """How many indices of each free atom stay, those that follow others included.

    Raises:
        InputError: a ratio outside [0, 1), an unknown scope, or a name that matches nothing.
    """
    kept = kept_atoms(graph, keep)
    open_ = [g for g in graph.free if g.atom in scores and g.atom not in kept and g.atom not in graph.sizes.followers]
    if isinstance(ratio, Mapping):
        wanted = _from_table(graph, open_, ratio)
    elif scope == "local":
        wanted = {g.atom: g.size - int(check_ratio(ratio) * g.size) for g in open_}
    elif scope == "global":
        wanted = _global(open_, scores, check_ratio(ratio))
    else:
        raise InputError(f"scope must be 'local' or 'global', not {scope!r}.")
    if round_to is not None and (isinstance(round_to, bool) or not isinstance(round_to, int) or round_to < 1):
        raise InputError(f"round_to must be a positive integer, not {round_to!r}.")
    steps = _steps(graph, round_to or 1)
    counts = {atom: _rounded(n, steps.get(atom, 1), atom.size) for atom, n in wanted.items()}
    complete = graph.sizes.complete(counts)
    return {atom: n for atom, n in complete.items() if n < atom.size}


def _rounded(n: int, step: int, size: int) -> int:
    return min(size, max(1, math.ceil(n / step)) * step)


def _from_table(graph: Graph, groups: Iterable[Group], table: Mapping[str, float]) -> dict[Atom, int]:
    for name, ratio in table.items():
        check_ratio(ratio)
        group = graph.group(name)
        if group.frozen is not None:
            raise InputError(f"group {name!r} can't be cut: {group.frozen}.")
        if group.atom in graph.sizes.followers:
            sources = [g.name for g in graph.groups if g.atom in set(leaves(graph.sizes.followers[group.atom]))]
            raise InputError(f"group {name!r} has no ratio of its own, its count follows {', '.join(sources)}.")
    return {g.atom: g.size - int(table.get(g.name, 0.0) * g.size) for g in groups}


def _global(groups: Sequence[Group], scores: Scores, ratio: float) -> dict[Atom, int]:
    """The lowest scores of all groups go, each group's divided by their mean to be comparable."""
    if not groups:
        return {}
    flat = np.concatenate([scores[g.atom] / max(float(scores[g.atom].mean()), 1e-300) for g in groups])
    owner = np.repeat(np.arange(len(groups)), [g.size for g in groups])
    gone = owner[np.argsort(flat, kind="stable")[: int(ratio * flat.size)]]
    lost = np.bincount(gone, minlength=len(groups))
    return {g.atom: g.size - int(n) for g, n in zip(groups, lost, strict=True)}


def _steps(graph: Graph, round_to: int) -> dict[Atom, int]:
    """For each atom the multiple its count must be of, so that every dimension it is in is one of ``round_to``."""
    steps: dict[Atom, int] = {}
    if round_to > 1:
        for axes in graph.tensors.values():
            for axis in axes:
                _widths(axis, 1, round_to, steps)
    return steps


def _widths(axis: Axis, width: int, round_to: int, steps: dict[Atom, int]) -> None:
    if isinstance(axis, Atom):
        step = round_to // math.gcd(round_to, width)
        steps[axis] = max(steps.get(axis, 1), step if axis.size >= step else 1)
        return
    for i, part in enumerate(axis.parts):
        others = [p.size for j, p in enumerate(axis.parts) if j != i] if isinstance(axis, Product) else []
        _widths(part, width * math.prod(others), round_to, steps)


def kept_atoms(graph: Graph, keep: Sequence[str]) -> set[Atom]:
    """The atoms that ``keep`` names: groups, tensors, modules with all below them, or shell patterns of any of these.

    Raises:
        InputError: a name matches nothing; close names are suggested.
    """
    if isinstance(keep, str):
        raise InputError(f"keep must be a list of names, not the string {keep!r}: write keep=[{keep!r}].")
    result: set[Atom] = set()
    for pattern in keep:
        found = _matching(graph, pattern)
        if not found:
            names = (
                [g.name for g in graph.groups] + list(graph.tensors) + [n for n, _ in graph.model.named_modules() if n]
            )
            raise InputError(
                f"keep names {pattern!r}, but no group, module or tensor matches.{suggest(pattern, names)}"
            )
        result |= found
    return _with_sources(graph, result)


def _matching(graph: Graph, pattern: str) -> set[Atom]:
    found = {g.atom for g in graph.groups if fnmatch.fnmatchcase(g.name, pattern)}
    for name, axes in graph.tensors.items():
        parts = name.split(".")
        prefixes = [".".join(parts[:i]) for i in range(1, len(parts) + 1)]
        if any(fnmatch.fnmatchcase(prefix, pattern) for prefix in prefixes):
            found |= {atom for axis in axes for atom in atoms(axis)}
    return found


def _with_sources(graph: Graph, kept: set[Atom]) -> set[Atom]:
    """To keep an atom that follows others, those others must be kept."""
    todo, result = list(kept), set(kept)
    while todo:
        expr = graph.sizes.followers.get(todo.pop())
        for x in leaves(expr) if expr is not None else ():
            if isinstance(x, Atom) and x not in result:
                result.add(x)
                todo.append(x)
    return result


def choose_indices(scores: Scores, counts: Mapping[Atom, int]) -> dict[Atom, Keep]:
    """Which indices stay: the highest scores of each atom; of equal ones the first."""
    result: dict[Atom, Keep] = {}
    for atom, n in counts.items():
        mask = np.zeros(atom.size, dtype=bool)
        mask[np.argsort(-scores[atom], kind="stable")[:n]] = True
        result[atom] = mask
    return result
