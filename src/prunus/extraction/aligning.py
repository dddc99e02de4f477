"""Units that are dead at other places in each group, of a grouped convolution or of heads: put in an order in which the
dead lie at the same places of all groups, so that these can go.

An axis of ``groups * n`` loses the same places of every group: a weight ``[groups * out, n, ...]`` has one dimension
for the inputs of all of them. Within a group its units may be in any order, if all that runs through them follows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prunus.axes import Atom, Axes, atoms, places
from prunus.extraction.interpret import Interpretation
from prunus.extraction.liveness import Liveness
from prunus.surgery import copy_model, like, named_tensors
from prunus.trace import Graph


@dataclass(frozen=True, eq=False)
class Order:
    """New orders of the indices of ``inner``, one for each index of ``outer``.

    Attributes:
        table: ``[outer, inner]``, the old indices in their new order.
        axes: those of every tensor of the model.
    """

    outer: Atom
    inner: Atom
    table: Any
    axes: Mapping[str, Axes]

    def apply(self, model: nn.Module) -> nn.Module:
        """A copy of the model with its values in the new order; tensors that stay as they are are shared with it."""
        tensors = named_tensors(model)
        return copy_model(model, {id(t): self._ordered(name, t) for name, t in tensors.items()})

    def _ordered(self, name: str, tensor: Tensor) -> Tensor:
        at = {atom: d for d, axis in enumerate(self.axes[name]) for atom in atoms(axis)}
        if self.inner not in at:
            return tensor
        dim, across, axes = at[self.inner], at[self.outer], self.axes[name]
        mine, theirs = places(axes[dim], self.inner), places(axes[across], self.outer)
        lines = np.tile(np.arange(axes[dim].size), (self.outer.size, 1))
        for line, order in zip(lines, self.table, strict=True):
            line[mine] = mine[order]
        old = tensor.detach()
        new = old.clone()
        for line, rows in zip(lines, theirs, strict=True):
            if dim == across:
                new.index_copy_(dim, _index(rows, old), old.index_select(dim, _index(line[rows], old)))
            else:
                block = old.index_select(across, _index(rows, old)).index_select(dim, _index(line, old))
                new.index_copy_(across, _index(rows, old), block)
        return like(tensor, new)


def _index(places: Any, beside: Tensor) -> Tensor:
    return torch.from_numpy(places).to(beside.device)


def orders(found: Interpretation, carried: Sequence[str], drop: bool) -> list[Order]:
    """New orders by which more can go than as the units lie now; none if there are no such.

    Args:
        carried, drop: as of :class:`Liveness`.
    """
    pairs = {inner: mates for inner, mates in _companions(found.graph).items() if mates}
    if not pairs:
        return []
    live, result = Liveness(found, carried, drop), dict[Atom, Order]()
    live.solve()
    for inner, mates in pairs.items():
        common, outer, table = max((_best(live, mate, inner) for mate in mates), key=lambda each: each[0])
        orderly = outer not in result and all(inner is not order.outer for order in result.values())
        if orderly and common > int((~live.keep[inner]).sum()):
            result[inner] = Order(outer, inner, table, found.graph.tensors)
    return list(result.values())


def _companions(graph: Graph) -> dict[Atom, list[Atom]]:
    """For each free atom, those of which one index goes with each of its own, in all that runs through it."""
    free = {group.atom for group in graph.free if group.size > 1}
    found: dict[Atom, dict[Atom, None]] = {}
    twice: set[Atom] = set()
    for axes in _all_axes(graph):
        counts = Counter(atom for axis in axes for atom in atoms(graph.space.resolve(axis)))
        twice |= {atom for atom, n in counts.items() if n > 1}
        for atom in counts:
            if atom in free:
                known = found.get(atom, counts)
                found[atom] = {mate: None for mate in known if mate in counts and mate is not atom and mate.size > 1}
    return {atom: [mate for mate in mates if mate not in twice] for atom, mates in found.items() if atom not in twice}


def _all_axes(graph: Graph) -> Iterator[Axes]:
    """Of every tensor of the model and of every one that a run made."""
    yield from graph.tensors.values()
    for run in graph.runs:
        for record in run.records:
            yield from record.outputs


def _best(live: Liveness, outer: Atom, inner: Atom) -> tuple[int, Atom, Any]:
    """How many places can go when the dead lie at the same ones, and the table of an :class:`Order` that does it.

    Groups that go as a whole don't count. Of the dead, the largest constant comes first: it carries the others. Where
    the groups with the fewest dead units need that, one place less can go.
    """
    dead, size = _dead(live, outer, inner)
    stay = live.keep.get(outer, np.ones(outer.size, dtype=bool))
    numbers = dead.sum(1)
    common = int(numbers[stay].min(initial=inner.size))
    carriers = bool((dead & (size > 0))[stay & (numbers == common)].any())
    return common - carriers, outer, np.lexsort((np.where(dead, -size, 0), dead))


def _dead(live: Liveness, outer: Atom, inner: Atom) -> tuple[Any, Any]:
    """``[outer, inner]``: whether nothing needs a unit, and the constant that it is where a channel must carry it."""
    dead, size = np.ones((outer.size, inner.size), dtype=bool), np.zeros((outer.size, inner.size))
    if any(inner in atoms(axis) for axis in live.found.held):
        return ~dead, size
    for sink, carried in zip(live.found.sinks, live.carried, strict=True):
        if inner not in atoms(sink.inputs):
            continue
        mine = places(sink.inputs, inner)
        needed = live.needed(sink, carried).numpy()[mine]
        if outer not in atoms(sink.inputs):
            dead &= ~needed.any(1)
            continue
        group = np.zeros(sink.inputs.size, dtype=np.int64)
        for g, row in enumerate(places(sink.inputs, outer)):
            group[row] = g
        at = group[mine], np.arange(inner.size)[:, None]
        np.logical_and.at(dead, at, ~needed)
        if carried == "channel" and not live.drop:
            np.maximum.at(size, at, sink.value.abs().numpy()[mine])
    return dead, size
