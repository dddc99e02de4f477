"""The groups of a model as a page, and as a drawing of which weights lie between which of them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prunus.axes import atoms
from prunus.report.page import Report, Section, Tile
from prunus.report.tables import Table, count
from prunus.report.tree import kind

if TYPE_CHECKING:
    from prunus.axes import Atom
    from prunus.trace import Graph


@dataclass(frozen=True)
class Node:
    """One group: its ``kind`` as in the tree, ``why`` in words, ``share`` of the parameters that it runs through."""

    name: str
    size: int
    kind: str
    why: str
    share: float


@dataclass(frozen=True)
class Network:
    """Groups in the model's order, and (from, to, tensor) for every weight that lies between two of them."""

    nodes: tuple[Node, ...]
    links: tuple[tuple[int, int, str], ...]


def network(graph: Graph) -> Network:
    """The groups that weights map from or to; windows of convolutions and the like, which only add noise, left out."""
    numel = {name: tensor.numel() for name, tensor in graph.model.named_parameters()}
    pairs = {name: _ends(graph, name) for name in numel}
    total = max(sum(numel.values()), 1)
    drawn = {atom for ends in pairs.values() for atom in (*ends[0], *ends[1])}
    groups = [g for g in graph.groups if g.atom in drawn and (g.frozen is None or not _is_window(g.frozen))]
    place = {g.atom: i for i, g in enumerate(groups)}
    nodes = tuple(
        Node(
            g.name,
            g.size,
            kind(graph, g),
            graph.state(g),
            sum(numel.get(name, 0) for name in {m.name for m in g.members}) / total,
        )
        for g in groups
    )
    links: dict[tuple[int, int], str] = {}
    for name, (sources, targets) in pairs.items():
        for a in sources:
            for b in targets:
                if a in place and b in place and a is not b:
                    links.setdefault((place[a], place[b]), name)
    return Network(nodes, tuple((a, b, name) for (a, b), name in links.items()))


def _ends(graph: Graph, name: str) -> tuple[list[Atom], list[Atom]]:
    """The atoms that a weight reads (its dimensions but the first) and those that it makes (the first)."""
    first, *rest = graph.tensors[name] or ((),)
    made = list(atoms(first)) if first else []
    return [atom for axis in rest for atom in atoms(axis)], made


def _is_window(reason: str) -> bool:
    return reason.startswith("a convolution's window")


def report(graph: Graph) -> Report:
    """The page: how much can be cut, the drawing, every group, every reason."""
    from prunus.report.charts import groups_figure
    from prunus.report.svg import inline_svg

    found = network(graph)
    name = type(graph.model).__name__
    free = [g for g in graph.groups if g.frozen is None]
    reachable = _reachable(graph)
    figure = inline_svg(groups_figure(found), "groups", f"The groups of {name} and the weights between them")
    parameters = sum(p.numel() for p in graph.model.parameters())
    return Report(
        title=f"What can be cut in {name}",
        summary=f"{len(free)} groups can be cut; they run through {reachable:.1%} of the parameters.",
        tiles=[
            Tile("groups that can be cut", f"{len(graph.groups)} in all", count(len(free)), ""),
            Tile("parameters within reach", count(parameters), count(reachable * parameters), f"{reachable:.1%}"),
        ],
        sections=[
            Section(
                title="The groups and the weights between them",
                text=["A group is what is cut together. An arc is a weight that maps one group to another."],
                figures=[figure],
            ),
            Section(title="Every group", tables=[_groups(graph)]),
            *(
                [Section(title="Why the rest is frozen", tables=[_reasons(graph)])]
                if len(free) < len(graph.groups)
                else []
            ),
        ],
    )


def _reachable(graph: Graph) -> float:
    """The share of the parameters that lie in at least one group that can be cut."""
    open_ = {m.name for g in graph.free for m in g.members}
    sizes = {name: p.numel() for name, p in graph.model.named_parameters()}
    return sum(n for name, n in sizes.items() if name in open_) / max(sum(sizes.values()), 1)


def _groups(graph: Graph) -> Table:
    rows = tuple((g.name, graph.state(g), str(g.size), str(len(g.members))) for g in graph.groups if g.frozen is None)
    return Table("Groups that can be cut", ("group", "state", "size", "tensor dimensions"), rows, labels=2)


def _reasons(graph: Graph) -> Table:
    found: dict[str, list[str]] = defaultdict(list)
    for group in graph.groups:
        if group.frozen is not None:
            found[group.frozen].append(str(group.members[0]))
    rows = tuple((reason, ", ".join(names[:3]), str(len(names))) for reason, names in found.items())
    return Table("Reasons", ("reason", "such as", "groups"), rows, labels=2)
