"""What a trace learned, for people and for the planner: the groups, their members, and why anything is frozen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import nn

from prunus.axes import Atom, Axes, Axis, Product, Space, atoms
from prunus.errors import InputError, suggest
from prunus.operators import Work
from prunus.running import Inputs
from prunus.sizes import Count, Equation, Sizes, solve
from prunus.trace.explaining import explain, state, summary
from prunus.trace.modes import Record


@dataclass(frozen=True)
class Member:
    """One dimension of one tensor that a group runs through."""

    name: str
    dim: int

    def __str__(self) -> str:
        return f"{self.name}[{self.dim}]"


@dataclass(frozen=True)
class Group:
    """An atom with every (tensor, dimension) whose expression contains it: what is cut together.

    Attributes:
        name: unique in the graph; the path of the module that makes the axis, with ``#2`` where it makes another.
        size: the number of indices.
        members: the tensor dimensions, in the order of the model's tensors.
        frozen: why it can't be cut, or None.
    """

    name: str
    size: int
    members: tuple[Member, ...]
    frozen: str | None
    atom: Atom


@dataclass(frozen=True, eq=False)
class Run:
    """One traced run: its inputs, the training mode it had, the record of every operator call in it, what it decided by
    values (see :class:`~prunus.trace.choices.Choices`), the arithmetic with the module that did it, and the axes and
    bytes a value of every tensor that a module made.
    """

    inputs: Inputs
    training: bool
    records: Sequence[Record]
    choices: Sequence[Any] = ()
    work: Sequence[tuple[str, Work]] = ()
    made: Sequence[tuple[Axes, int]] = ()


@dataclass(eq=False)
class Graph:
    """How every axis of a model relates to every other.

    Attributes:
        model: the model that was traced, as given.
        args, kwargs: the example inputs; of several, the first.
        tensors: the axes of every parameter, buffer and tensor attribute.
        equations: what the run asked of integers.
        sizes: the integers that follow sizes, and the counts that follow others.
        skeleton: the copy that was run, on the meta device unless ``real``.
        unsupported: operators without a row in the table, with the module that called them first.
        notes: what a reader should know of how the trace was made.
        least: how many indices of an atom stay at least, where an operator (``topk``) chooses so many of them.
        pairs: atoms of which two stay at least, with the reason, which a plan found.
    """

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    space: Space
    tensors: Mapping[str, Axes]
    equations: Sequence[Equation]
    sizes: Sizes
    runs: Sequence[Run]
    skeleton: nn.Module
    real: bool
    unsupported: Mapping[str, str]
    notes: Sequence[str]
    least: Mapping[Atom, int] = field(default_factory=dict)
    pairs: dict[Atom, str] = field(default_factory=dict)
    failures: set[Hashable] = field(default_factory=set)  # kinds of calls that have departed from a prediction

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """Every atom that runs through a tensor of the model, in the order of the model's tensors."""
        members: dict[Atom, dict[Member, None]] = defaultdict(dict)
        for name, axes in self.tensors.items():
            for dim, axis in enumerate(axes):
                for atom in atoms(axis):
                    members[atom][Member(name, dim)] = None
        taken: dict[str, int] = defaultdict(int)
        return tuple(
            Group(_unique(_name(found), taken), atom.size, tuple(found), self.space.reason(atom), atom)
            for atom, found in members.items()
        )

    @property
    def free(self) -> tuple[Group, ...]:
        """The groups that can be cut."""
        return tuple(group for group in self.groups if group.frozen is None)

    def freeze(self, found: Iterable[Atom], reason: str) -> None:
        """Mark atoms as not to be cut, with all that follows from it."""
        for atom in found:
            self.space.freeze(atom, reason)
        held = (axis for axes in self.tensors.values() for axis in axes)
        self.sizes = solve(self.space, self.equations, self.sizes.values, held)
        self.__dict__.pop("groups", None)

    def keep_two(self, found: Iterable[Atom], reason: str) -> None:
        """Let two indices of each atom stay at least; those that have no more, or no count of their own, are frozen."""
        leaders = {atom: _leader(atom, self.sizes) for atom in found}
        held = [atom for atom, leader in leaders.items() if atom.size <= 2 or leader in self.sizes.followers]
        self.pairs |= {leader: reason for atom, leader in leaders.items() if atom not in held}
        if held:
            self.freeze(held, reason)

    def at_least(self, atom: Atom) -> int:
        """How many indices of ``atom`` must stay, for itself and for those whose count is its own."""
        counts = {**self.least, **dict.fromkeys(self.pairs, 2)}
        return max((n for other, n in counts.items() if _leader(other, self.sizes) is atom), default=1)

    def group(self, name: str) -> Group:
        """The group of that name.

        Raises:
            InputError: there is none; close names are suggested.
        """
        for group in self.groups:
            if group.name == name:
                return group
        raise InputError(f"there is no group {name!r}.{suggest(name, (g.name for g in self.groups))}")

    def format(self, axis: Axis) -> str:
        """``axis`` as text, its atoms by the names of their groups."""
        if isinstance(axis, Atom):
            name = self._names.get(axis)
            return f"{name}:{axis.size}" if name else str(axis.size)
        if not axis.parts:
            return str(axis.size)
        if isinstance(axis, Product):
            return " * ".join(self.format(part) for part in axis.parts)
        return "(" + " + ".join(self.format(part) for part in axis.parts) + ")"

    @cached_property
    def _names(self) -> dict[Atom, str]:
        return {group.atom: group.name for group in self.groups}

    def explain(self, name: str, dim: int | None = None) -> str:
        """What the axes of a tensor are made of, what is cut with them, and why they are frozen if they are.

        Args:
            name: a tensor, a group, or a module, which stands for all its tensors.
            dim: one dimension of a tensor; by default all of them.

        Raises:
            InputError: no such name or dimension; close names are suggested.
        """
        return explain(self, name, dim)

    def state(self, group: Group) -> str:
        """Whether ``group`` can be cut, in words: by itself, as others are, or why not."""
        return state(self, group)

    def __str__(self) -> str:
        return summary(self)


def _leader(atom: Atom, sizes: Sizes) -> Atom:
    """The atom whose count is that of ``atom``: itself, or one that it follows."""
    expr = sizes.followers.get(atom)
    while isinstance(expr, Count) and isinstance(expr.axis, Atom):
        atom = expr.axis
        expr = sizes.followers.get(atom)
    return atom


def _name(members: Mapping[Member, None]) -> str:
    """The module whose output the axis is: the first that has it as dimension 0 of a matrix or more, if any."""
    made = [m for m in members if m.dim == 0 and m.name.endswith("weight")] or list(members)
    return made[0].name.rpartition(".")[0] or made[0].name


def _unique(name: str, taken: dict[str, int]) -> str:
    taken[name] += 1
    return name if taken[name] == 1 else f"{name}#{taken[name]}"
