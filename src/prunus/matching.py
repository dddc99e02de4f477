"""From names to atoms: groups, tensors, modules with all below them, or shell patterns of any of these."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from prunus.axes import Atom, atoms
from prunus.errors import InputError, suggest
from prunus.sizes.expression import leaves
from prunus.trace import Graph, Group

_T = TypeVar("_T")


def kept_atoms(graph: Graph, keep: Sequence[str]) -> set[Atom]:
    """The atoms that ``keep`` names, and those that they follow.

    Raises:
        InputError: a name matches nothing; close names are suggested.
    """
    if isinstance(keep, str):
        raise InputError(f"keep must be a list of names, not the string {keep!r}: write keep=[{keep!r}].")
    return _with_sources(graph, {atom for pattern in keep for atom in matching(graph, pattern, "keep")})


def matching(graph: Graph, pattern: str, argument: str) -> set[Atom]:
    """The atoms of the groups, or in the tensors, that the pattern matches; ``argument`` is who asks.

    Raises:
        InputError: it matches nothing; close names are suggested.
    """
    found = _named(graph, pattern)
    for name, axes in graph.tensors.items():
        parts = name.split(".")
        prefixes = [".".join(parts[:i]) for i in range(1, len(parts) + 1)]
        if any(fnmatch.fnmatchcase(prefix, pattern) for prefix in prefixes):
            found |= {atom for axis in axes for atom in atoms(axis)}
    if not found:
        names = [g.name for g in graph.groups] + list(graph.tensors) + [n for n, _ in graph.model.named_modules() if n]
        raise InputError(
            f"{argument} names {pattern!r}, but no group, module or tensor matches.{suggest(pattern, names)}"
        )
    return found


def _named(graph: Graph, pattern: str) -> set[Atom]:
    return {g.atom for g in graph.groups if fnmatch.fnmatchcase(g.name, pattern)}


def is_plain(graph: Graph, name: str) -> bool:
    """Whether the name is no pattern, and no module's or tensor's: it can only be a group's."""
    modules = dict(graph.model.named_modules())
    return not set("*?[") & set(name) and name not in modules and name not in graph.tensors


def by_pattern(graph: Graph, groups: Iterable[Group], table: Mapping[str, _T], argument: str) -> dict[Atom, _T]:
    """The value that ``table`` gives to each of ``groups``: that of its own name, else of the first pattern it matches.

    A pattern is matched with the names of groups; only one that matches none of these is matched with modules and
    tensors, and means all groups that run through them.

    Raises:
        InputError: a pattern matches nothing.
    """
    own = {group.name for group in graph.groups}
    found = {p: _named(graph, p) or matching(graph, p, argument) for p in table if p not in own}
    result: dict[Atom, _T] = {}
    for group in groups:
        hits = [group.name] if group.name in table else [p for p in found if group.atom in found[p]]
        if hits:
            result[group.atom] = table[hits[0]]
    return result


def each(graph: Graph, groups: Sequence[Group], value: Any, argument: str) -> dict[Atom, Any]:
    """``value`` for every group, or what its table gives by pattern; a table may leave groups out."""
    if isinstance(value, Mapping):
        return by_pattern(graph, groups, value, argument)
    return {} if value is None else {group.atom: value for group in groups}


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
