"""A model as a tree of its modules, every tensor with its axes, coloured by what can be cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunus.axes import Atom, Product

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree

    from prunus.axes import Axis
    from prunus.trace import Graph, Group

STYLES = {"free": "green", "follows": "yellow", "frozen": "bright_black"}


def kind(graph: Graph, group: Group) -> str:
    """ "free", "follows" (its count follows that of others), or "frozen"."""
    if group.frozen is not None:
        return "frozen"
    return "follows" if group.atom in graph.sizes.followers else "free"


def module_tree(graph: Graph, depth: int | None = None) -> Tree:
    """The tree for Rich. Modules deeper than ``depth`` are left out; their tensors stand with the last one shown.

    An axis is written as in :meth:`Graph.format`; a group that is named after the module it stands in is written by
    its size alone.
    """
    from rich.text import Text
    from rich.tree import Tree

    modules = dict(graph.model.named_modules())
    root = Tree(Text.assemble((type(graph.model).__name__, "bold"), "  ", *_legend()))
    branches = {"": root}
    groups = {group.atom: group for group in graph.groups}
    for name, axes in graph.tensors.items():
        path = name.rpartition(".")[0]
        shown = path if depth is None else ".".join(path.split(".")[:depth]) if path else ""
        for step in _steps(shown):
            if step not in branches:
                parent = step.rpartition(".")[0]
                label = Text.assemble((step.rpartition(".")[2], "bold"), f"  {type(modules[step]).__name__}")
                branches[step] = branches[parent].add(label)
        own = name[len(shown) + 1 :] if shown else name
        line = Text(f"{own} [")
        for i, axis in enumerate(axes):
            line.append(", " if i else "").append_text(_axis(graph, axis, groups, path))
        branches[shown].add(line.append("]"))
    return root


def _legend() -> list[str | tuple[str, str]]:
    words = {"free": "can be cut", "follows": "follows others", "frozen": "frozen"}
    found: list[str | tuple[str, str]] = []
    for key, style in STYLES.items():
        found += ["  ", ("■ ", style), words[key]]
    return found


def _steps(path: str) -> list[str]:
    """``"a.b.c"`` -> ``["a", "a.b", "a.b.c"]``."""
    parts = path.split(".") if path else []
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _axis(graph: Graph, axis: Axis, groups: dict[Atom, Group], path: str) -> Text:
    from rich.text import Text

    if isinstance(axis, Atom):
        return _atom(graph, axis, groups.get(axis), path)
    if not axis.parts:
        return Text(str(axis.size))
    left, between, right = ("", " * ", "") if isinstance(axis, Product) else ("(", " + ", ")")
    parts = [_axis(graph, part, groups, path) for part in axis.parts]
    return Text.assemble(left, Text(between).join(parts), right)


def _atom(graph: Graph, atom: Atom, group: Group | None, path: str) -> Text:
    """An index range; only what can be cut and isn't named after its module needs a name."""
    from rich.text import Text

    state = kind(graph, group) if group is not None else "frozen"
    named = group is not None and state != "frozen" and group.name != path
    return Text(f"{group.name}:{atom.size}" if group is not None and named else str(atom.size), STYLES[state])
