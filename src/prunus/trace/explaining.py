"""A graph in words: what belongs together, and why anything is frozen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from prunus.axes import atoms
from prunus.columns import aligned
from prunus.errors import InputError, suggest
from prunus.sizes.expression import leaves

if TYPE_CHECKING:
    from prunus.trace.graph import Graph, Group


def summary(graph: Graph) -> str:
    """The free groups with their members, then the reasons for which the others are frozen."""
    free = graph.free
    rows = [(g.name, str(g.size), _some(g.members)) for g in free]
    header = f"{len(free)} groups can be cut, {len(graph.groups) - len(free)} are frozen"
    lines = [header, "", *aligned([("group", "size", "runs through"), *rows])]
    reasons: dict[str, list[str]] = defaultdict(list)
    for group in graph.groups:
        if group.frozen is not None:
            reasons[group.frozen].append(f"{group.members[0]}")
    if reasons:
        shown = [(reason, str(len(names)), _some(names)) for reason, names in reasons.items()]
        lines += ["", *aligned([("frozen because", "groups", "such as"), *shown])]
    unknown = (f"no row for operator {op} (in {where or 'the model'})" for op, where in graph.unsupported.items())
    return "\n".join([*lines, "", *unknown, *graph.notes]).rstrip()


def state(graph: Graph, group: Group) -> str:
    """Whether a group can be cut, in words."""
    if group.frozen is not None:
        return f"frozen: {group.frozen}"
    follows = graph.sizes.followers.get(group.atom)
    if follows is None:
        least = graph.at_least(group.atom)
        why = graph.pairs.get(group.atom, "so many are chosen of it")
        return "can be cut" if least == 1 else f"can be cut; at least {least} stay, for {why}"
    sources = set(leaves(follows))
    names = [other.name for other in graph.groups if other.atom in sources]
    return f"its count follows {_some(names) or 'others'}"


def explain(graph: Graph, name: str, dim: int | None) -> str:
    """See :meth:`Graph.explain`."""
    if name in graph.tensors:
        return "\n".join(_dimension(graph, name, d) for d in _dims(graph, name, dim))
    if dim is not None:
        raise InputError(f"the model has no tensor {name!r}.{suggest(name, graph.tensors)}")
    inside = [tensor for tensor in graph.tensors if tensor.startswith(f"{name}.")]
    within = {atom for tensor in inside for axis in graph.tensors[tensor] for atom in atoms(axis)}
    groups = [g for g in graph.groups if g.name == name or g.atom in within]
    if not groups and not inside:
        modules = (path for path, _ in graph.model.named_modules() if path)
        close = suggest(name, [*graph.tensors, *(g.name for g in graph.groups), *modules])
        raise InputError(f"the model has no tensor, group or module {name!r}.{close}")
    shapes = [f"{tensor} = [{', '.join(map(graph.format, graph.tensors[tensor]))}]" for tensor in inside]
    told = [line for g in groups for line in _told(graph, [g])[: None if g.name == name else 1]]
    return "\n".join([*shapes, *told])


def _dims(graph: Graph, name: str, dim: int | None) -> Iterable[int]:
    count = len(graph.tensors[name])
    if dim is None:
        return range(count)
    if not -count <= dim < count:
        raise InputError(f"{name!r} has {count} dimensions; there is no dimension {dim}.")
    return [dim % count]


def _dimension(graph: Graph, name: str, dim: int) -> str:
    axis = graph.tensors[name][dim]
    found = set(atoms(axis))
    told = _told(graph, [g for g in graph.groups if g.atom in found])
    return "\n".join(
        [
            f"{name}[{dim}] = {graph.format(axis)}",
            *(f"  {line}" for line in told or ["every position of it is taken by itself: nothing to cut"]),
        ]
    )


def _told(graph: Graph, groups: Iterable[Group]) -> list[str]:
    """Each group with its state, and below it every member with its axis."""
    lines = []
    for group in groups:
        lines.append(f"{group.name} ({group.size}): {state(graph, group)}")
        lines += [f"  {m} = {graph.format(graph.tensors[m.name][m.dim])}" for m in group.members]
    return lines


def _some(members: Sequence[Any], limit: int = 3) -> str:
    more = f", and {len(members) - limit} more" if len(members) > limit else ""
    return ", ".join(map(str, members[:limit])) + more
