"""Norms over whole axis groups, as tensors: everything that goes through one index counts together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prunus.axes import Atom, Axis, Product, atoms
from prunus.errors import InputError, NothingToPrune, PlanError
from prunus.importance import score
from prunus.matching import kept_atoms
from prunus.plan import Plan
from prunus.planning import holding, make_plan
from prunus.selection import choose_indices
from prunus.trace import Graph, Group

_ATTEMPTS = 25


class Line:
    """How one dimension of one parameter runs through a group: for each position the index of the group it is in."""

    def __init__(self, name: str, dim: int, positions: Tensor | None) -> None:
        self.name, self.dim = name, dim
        self.positions = positions  # None: position i is index i; -1: none of the group's

    def gather(self, values: Tensor, size: int) -> Tensor:
        """A value for each position -> their sums for each index."""
        if self.positions is None:
            return values
        where = self.positions = self.positions.to(values.device)
        room = values.new_zeros(size + 1)
        return room.index_add_(0, where + 1, values)[1:]

    def spread(self, values: Tensor, fill: float = 0.0) -> Tensor:
        """A value for each index -> one for each position; ``fill`` where the group isn't."""
        if self.positions is None:
            return values
        where = self.positions = self.positions.to(values.device)
        return torch.cat([values.new_full((1,), fill), values])[where + 1]


class AxisGroups:
    """The groups of a graph that a regularizer works on, and the parameters of its model that they run through.

    Args:
        graph: what :func:`prunus.trace` returned; its model is the one that trains.
        keep: names of groups, modules, tensors, or patterns of them, that are left alone, as for :func:`prunus.plan`.
        lines: which of a group's lines count; all by default.

    Raises:
        NothingToPrune: no group is left.
        InputError: a name in ``keep`` matches nothing.
    """

    def __init__(self, graph: Graph, keep: Sequence[str] = (), lines: Any = lambda graph, line: True) -> None:
        self.graph, self.model = graph, graph.model
        left_out = kept_atoms(graph, keep)
        params = dict(self.model.named_parameters())
        self.sizes: dict[str, int] = {}
        self.lines: dict[str, list[Line]] = {}
        for group in graph.free:
            if group.atom in left_out or group.atom in graph.sizes.followers:
                continue
            found = [line for line in _lines(graph, group, params) if lines(graph, line)]
            if found:
                self.sizes[group.name], self.lines[group.name] = group.size, found
        if not self.lines:
            raise NothingToPrune("no group can be cut, so there is nothing to regularize: print(prunus.trace(...)).")
        self.dims: dict[str, set[int]] = {}
        for line in (line for each in self.lines.values() for line in each):
            self.dims.setdefault(line.name, set()).add(line.dim)
        self.names = list(self.dims)
        shapes = {name: params[name].shape for name in self.names}
        self.counts = {
            group: sum(
                shapes[line.name].numel() / shapes[line.name][line.dim] * _share(line, shapes[line.name], size)
                for line in self.lines[group]
            )
            for group, size in self.sizes.items()
        }
        """Weights for each index of a group."""

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """The parameters that the groups run through."""
        return {name: self.model.get_parameter(name) for name in self.names}

    @torch.no_grad()
    def squares(self) -> dict[str, Tensor]:
        """For each group the squared L2 norms of its indices, shape ``[size]``."""
        sums = {name: _line_squares(weight.detach(), self.dims[name]) for name, weight in self.weights.items()}
        result: dict[str, Tensor] = {}
        for group, lines in self.lines.items():
            for line in lines:
                found = line.gather(sums[line.name][line.dim], self.sizes[group])
                result[group] = result[group] + found if group in result else found
        return result

    @torch.no_grad()
    def pull(self, factors: Mapping[str, Tensor], into: str = "grad") -> None:
        """Add ``factor * weight`` to each weight's gradient, with the factor of its index, summed over its groups.

        ``into="weight"`` multiplies the weights by ``1 - factor`` instead, for each of the groups in turn.
        """
        weights = self.weights
        for name, scale in self._scales(factors, weights, product=into == "weight"):
            weight = weights[name]
            if into == "weight":
                weight.mul_(scale)
            elif weight.grad is not None:
                weight.grad.addcmul_(weight, scale)

    def _scales(
        self, factors: Mapping[str, Tensor], weights: Mapping[str, Tensor], product: bool
    ) -> Iterator[tuple[str, Tensor]]:
        """For each parameter its factors, in a shape that broadcasts to its own."""
        by_name: dict[str, Tensor] = {}
        for group, lines in self.lines.items():
            if group not in factors:
                continue
            for line in lines:
                weight = weights[line.name]
                shape = [1] * weight.dim()
                shape[line.dim] = -1
                mine = line.spread(factors[group].to(weight)).view(shape)
                mine = 1 - mine if product else mine
                old = by_name.get(line.name)
                by_name[line.name] = mine if old is None else old * mine if product else old + mine
        yield from by_name.items()

    def plan_without(self, gone: Mapping[str, Tensor], how: str) -> Plan:
        """The Plan that removes the indices that are True, ``[size]`` for each group, and no others.

        One index of each group stays anyhow; a group whose code can't follow the cut stays whole.

        Raises:
            NothingToPrune: none is.
        """
        graph, scores = self.graph, score(self.graph, "l2")
        atoms_of = {group.name: group.atom for group in graph.free}
        for name, mask in gone.items():
            scores[atoms_of[name]] = np.where(mask.cpu().numpy(), -1.0, scores[atoms_of[name]])
        for _ in range(_ATTEMPTS):
            free = {group.atom for group in graph.free}
            left = {a: max(1, int((scores[a] >= 0).sum())) for n in gone if (a := atoms_of[n]) in free}
            counts = {a: n for a, n in graph.sizes.complete(left).items() if n < a.size}
            if not counts:
                raise NothingToPrune(f"{how}: no index of any group is zero yet. Train longer, or regularize more.")
            made = make_plan(graph, choose_indices(scores, counts), {"sparse training": how})
            if holding(graph, made, counts) is not None:
                return made
        raise PlanError(f"no plan was found in {_ATTEMPTS} attempts: {type(self.model).__name__} keeps resisting.")


def _line_squares(weight: Tensor, dims: set[int]) -> dict[int, Tensor]:
    """For each of these dimensions, the sums of squares along all others. The weights are read once."""
    inner = [d for d in range(weight.dim()) if d not in dims]
    squares = weight.square() if not inner else torch.linalg.vector_norm(weight, dim=inner, keepdim=True).square()
    found = {}
    for dim in dims:
        others = [d for d in range(weight.dim()) if d != dim]
        found[dim] = squares.sum(others) if others else squares
    return found


def _lines(graph: Graph, group: Group, params: Mapping[str, nn.Parameter]) -> Iterable[Line]:
    """Where a group runs through trained parameters; a dimension that it runs through twice gives two lines."""
    for member in group.members:
        parameter = params.get(member.name)
        if parameter is None or not parameter.requires_grad or not parameter.is_floating_point():
            continue
        for positions in _positions(graph.tensors[member.name][member.dim], group.atom):
            whole = np.array_equal(positions, np.arange(group.size))
            yield Line(member.name, member.dim, None if whole else torch.from_numpy(positions))


def _positions(axis: Axis, atom: Atom) -> list[np.ndarray[Any, np.dtype[np.int64]]]:
    """For each occurrence of ``atom`` in ``axis``, the atom's index at every position, -1 where it doesn't reach."""
    if isinstance(axis, Atom):
        return [np.arange(axis.size)] if axis is atom else []
    found = []
    before = 1
    start = 0
    for part in axis.parts:
        for inner in _positions(part, atom) if atom in set(atoms(part)) else []:
            if isinstance(axis, Product):
                found.append(np.tile(np.repeat(inner, axis.size // (before * part.size)), before))
            else:
                whole = np.full(axis.size, -1)
                whole[start : start + part.size] = inner
                found.append(whole)
        before, start = before * part.size, start + part.size
    return found


def _share(line: Line, shape: torch.Size, size: int) -> float:
    """Positions of a line for each index."""
    positions = shape[line.dim] if line.positions is None else int((line.positions >= 0).sum())
    return positions / size


def check_positive(**values: float) -> None:
    """Raise InputError unless each is greater than zero; the argument's name is told."""
    for name, value in values.items():
        if not value > 0:
            raise InputError(f"{name} must be greater than 0, got {value}.")
