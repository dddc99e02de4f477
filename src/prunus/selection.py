"""Scores to keep-vectors: how many indices of every atom stay, and which."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from prunus.axes import Atom, Axis, Keep, Product, Sum, atoms
from prunus.errors import InputError
from prunus.limits import Limits
from prunus.matching import by_pattern, is_plain, kept_atoms, matching
from prunus.sizes.expression import leaves
from prunus.trace import Graph, Group

Scores = Mapping[Atom, NDArray[np.float64]]
SCOPES = ("local", "global", "isomorphic")


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
    limits: Limits,
) -> dict[Atom, int]:
    """How many indices of each free atom stay, those that follow others included.

    Raises:
        InputError: a ratio outside [0, 1), an unknown scope, or a name that matches nothing.
    """
    if scope not in SCOPES:
        raise InputError(f"scope must be 'local', 'global', 'isomorphic' or 'shared', not {scope!r}.")
    open_ = open_groups(graph, scores, keep)
    if isinstance(ratio, Mapping):
        ratios = _from_table(graph, open_, ratio)
        wanted = {g.atom: g.size - int(ratios.get(g.atom, 0.0) * g.size) for g in open_}
    else:
        wanted = _together(pools(graph, open_, scope), scores, check_ratio(ratio))
    complete = graph.sizes.complete(limits.apply(graph, open_, wanted))
    return {atom: n for atom, n in complete.items() if n < atom.size}


def open_groups(graph: Graph, scores: Scores, keep: Sequence[str]) -> list[Group]:
    """The groups that are free, scored, not kept, and have a count of their own."""
    kept = kept_atoms(graph, keep)
    return [g for g in graph.free if g.atom in scores and g.atom not in kept and g.atom not in graph.sizes.followers]


def _from_table(graph: Graph, groups: Iterable[Group], table: Mapping[str, float]) -> dict[Atom, float]:
    """The ratio of each group that the table names, by its own name or by a pattern."""
    known = {g.name: g for g in graph.groups}
    for name, ratio in table.items():
        check_ratio(ratio)
        if name in known:
            _check_open(graph, known[name])
        elif is_plain(graph, name):
            graph.group(name)  # raises: there is none
        elif all(graph.space.reason(atom) for atom in matching(graph, name, "ratio")):
            reason = graph.space.reason(next(iter(matching(graph, name, "ratio"))))
            raise InputError(f"nothing that {name!r} matches can be cut: {reason}.")
    return by_pattern(graph, groups, table, "ratio")


def _check_open(graph: Graph, group: Group) -> None:
    if group.frozen is not None:
        raise InputError(f"group {group.name!r} can't be cut: {group.frozen}.")
    if group.atom in graph.sizes.followers:
        sources = [g.name for g in graph.groups if g.atom in set(leaves(graph.sizes.followers[group.atom]))]
        raise InputError(f"group {group.name!r} has no ratio of its own, its count follows {', '.join(sources)}.")


def pools(graph: Graph, groups: Sequence[Group], scope: str) -> list[list[Group]]:
    """The groups whose scores are compared with each other.

    ``"isomorphic"`` compares groups that run through tensors of the same kinds, at the same places, in the same
    order (Fang et al., Isomorphic Pruning for Vision Models, ECCV 2024): MLPs with each other, not with heads.
    """
    if scope == "global":
        return [list(groups)]
    if scope == "local":
        return [[group] for group in groups]
    alike: dict[Hashable, list[Group]] = defaultdict(list)
    for group in groups:
        alike[_structure(graph, group)].append(group)
    return list(alike.values())


def _structure(graph: Graph, group: Group) -> Hashable:
    """What a group runs through, without names of instances and sizes."""
    places = []
    for member in group.members:
        path, _, own = member.name.rpartition(".")
        kind = type(graph.model.get_submodule(path)).__name__
        places.append((kind, own, member.dim, _shape(graph.tensors[member.name][member.dim], group.atom)))
    return tuple(places)


def _shape(axis: Axis, atom: Atom) -> str:
    if isinstance(axis, Atom):
        return "x" if axis is atom else "o"
    parts = [_shape(part, atom) for part in axis.parts if isinstance(axis, Sum) or any(True for _ in atoms(part))]
    return f"({('*' if isinstance(axis, Product) else '+').join(parts)})"


def _together(pooled: Iterable[Sequence[Group]], scores: Scores, ratio: float) -> dict[Atom, int]:
    """Of each pool the lowest scores go."""
    wanted: dict[Atom, int] = {}
    for groups in filter(None, pooled):
        flat = np.concatenate([scores[g.atom] for g in groups])
        owner = np.repeat(np.arange(len(groups)), [g.size for g in groups])
        gone = owner[np.argsort(flat, kind="stable")[: int(ratio * flat.size)]]
        lost = np.bincount(gone, minlength=len(groups))
        wanted |= {g.atom: g.size - int(n) for g, n in zip(groups, lost, strict=True)}
    return wanted


def choose_indices(scores: Scores, counts: Mapping[Atom, int]) -> dict[Atom, Keep]:
    """Which indices stay: the highest scores of each atom; of equal ones, and of an axis of no tensor, the first."""
    result: dict[Atom, Keep] = {}
    for atom, n in counts.items():
        mask = np.zeros(atom.size, dtype=bool)
        mask[np.argsort(-scores[atom], kind="stable")[:n] if atom in scores else slice(n)] = True
        result[atom] = mask
    return result
