"""The operator table: one row per ATen operator, and the view of a call that a row's rule works on.

A rule learns from one call: it unifies, regroups, cuts or freezes axes of the inputs and returns the axes of the
outputs. It may also declare which integer arguments are sizes of axes (:meth:`Call.sized`) and over which axes the
operator takes statistics (:meth:`Call.reduces`). An operator without a row is never guessed at: :func:`unsupported`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

from torch import Tensor
from torch._ops import OpOverload

from prunus.axes import UNIT, Axes, Axis, Space

Outputs = Axes | list[Axes]
Rule = Callable[["Call"], Outputs]


@dataclass(frozen=True)
class Row:
    """One operator: its name without overload, its rule, and how it treats removed indices.

    The name has a namespace only where it isn't torch's own (see :func:`operator_name`).

    ``preserves_zero`` holds where zeros in the removed positions of the inputs give zeros in those of the outputs, so
    that the proof has nothing to mask and can check that the rule tells the truth.
    """

    name: str
    rule: Rule
    preserves_zero: bool


TABLE: dict[str, Row] = {}


def row(*names: str, preserves_zero: bool = True) -> Callable[[Rule], Rule]:
    """Enter a rule into the table under each of ``names``; a name that is already there is an error."""

    def enter(rule: Rule) -> Rule:
        for name in names:
            if name in TABLE:
                raise ValueError(f"operator {name!r} has two rows")
            TABLE[name] = Row(name, rule, preserves_zero)
        return rule

    return enter


@dataclass
class Call:
    """One call of one operator, as a rule sees it: arguments by schema name, tensors with their axes.

    Attributes:
        outputs: the tensors that the call returned, in order.
        sizes: (argument name, position in it or None, axis): integers that are the size of an axis.
        strides: those of the first argument before the call, where the operator changes them in place.
        statistics: axes over which the operator takes statistics; after a cut they are taken over the kept indices.
        positions_of: the axis along which the integers in a tensor are positions, or None: where an expert is chosen.
        positions: the same for outputs, by their number.
        followed: tensors of such integers that the rule has understood, by id.
        least: axes with how many of their positions the operator asks for.
    """

    space: Space
    func: OpOverload
    args: Sequence[Any]
    kwargs: dict[str, Any]
    outputs: list[Tensor]
    axes_of: Callable[[Tensor], Axes]
    strides: tuple[int, ...] | None = None
    sizes: list[tuple[str, int | None, Axis]] = field(default_factory=list)
    statistics: list[Axis] = field(default_factory=list)
    positions_of: Callable[[Tensor], Axis | None] = lambda tensor: None
    positions: dict[int, Axis] = field(default_factory=dict)
    followed: set[int] = field(default_factory=set)
    least: list[tuple[Axis, int]] = field(default_factory=list)

    def arg(self, name: str, default: Any = None) -> Any:
        """The argument called ``name`` in the operator's schema, or its default; ``default`` if there is none."""
        place, usual = _parameters(self.func).get(name, (-1, default))
        return self.args[place] if 0 <= place < len(self.args) else self.kwargs.get(name, usual)

    def axes(self, name: str) -> Axes:
        """The axes of the tensor argument called ``name``."""
        return self.axes_of(self.arg(name))

    def maybe_axes(self, name: str) -> Axes | None:
        """The same, or None where the argument is absent or None."""
        value = self.arg(name)
        return self.axes_of(value) if isinstance(value, Tensor) else None

    def first(self) -> Axes:
        """The axes of the first argument."""
        return self.axes_of(self.args[0])

    @cached_property
    def given(self) -> list[Tensor]:
        """Every tensor among the arguments, those in lists included."""
        return tensors_among((*self.args, *self.kwargs.values()))

    def sized(self, name: str, position: int | None, axis: Axis) -> None:
        """Declare that an integer argument is the size of ``axis``."""
        self.sizes.append((name, position, axis))

    def reduces(self, axis: Axis) -> None:
        """Declare that statistics are taken over ``axis``."""
        self.statistics.append(axis)

    def chooses(self, output: int, axis: Axis, number: int) -> None:
        """Declare that an output holds the positions along ``axis`` of ``number`` of its values."""
        self.reduces(axis)
        self.positions[output] = axis
        self.least.append((axis, number))

    def chosen_together(self, tensors: Sequence[Tensor], number: int) -> None:
        """Declare that the output holds the positions in all ``tensors``, of which at least ``number`` are other ones:
        the best of an axis, and the best of what that left.
        """
        found = [axis for axis in map(self.positions_of, tensors) if axis is not None]
        if found and len(found) == len(tensors):
            self.positions[0] = self.space.unify_all(found)
            self.followed.update(map(id, tensors))
            self.least.append((found[0], number))

    def looks_up(self, index: Tensor, axis: Axis, reason: str) -> None:
        """``index`` holds positions along ``axis``: those that an operator chose there, or else the axis is frozen."""
        chosen = self.positions_of(index)
        if chosen is None:
            self.freeze(axis, reason)
        else:
            self.followed.add(id(index))
            self.unify(axis, chosen)

    def unify(self, a: Axis, b: Axis) -> None:
        self.space.unify(a, b)

    def fresh(self, size: int, frozen: str | None = None) -> Axis:
        return self.space.fresh(size, frozen)

    def freeze(self, axis: Axis, reason: str) -> None:
        self.space.freeze(axis, reason)

    def frozen_outputs(self, reason: str) -> list[Axes]:
        """Axes for all outputs that can't be cut."""
        return [tuple(self.fresh(n, reason) for n in out.shape) for out in self.outputs]

    @property
    def name(self) -> str:
        return operator_name(self.func)


def tensors_among(value: Any) -> list[Tensor]:
    """The tensors in arguments or results of an operator, those in lists included."""
    if isinstance(value, Tensor):
        return [value]
    found = []
    for item in value if isinstance(value, list | tuple) else ():
        if isinstance(item, Tensor):
            found.append(item)
        elif type(item) in (list, tuple):
            found += tensors_among(item)
    return found


@cache
def _parameters(func: OpOverload) -> dict[str, tuple[int, Any]]:
    """Place and default of each argument in the schema, which torch builds anew whenever it is asked."""
    return {parameter.name: (i, parameter.default_value) for i, parameter in enumerate(func._schema.arguments)}


@cache
def operator_name(func: OpOverload) -> str:
    """The name that an operator has in the table: torch's own without a namespace, ``torchvision::nms`` with it."""
    namespace, name = func._schema.name.split("::")
    return name if namespace in ("aten", "prims") else f"{namespace}::{name}"


def dims(value: Any, ndim: int) -> list[int]:
    """Dimension arguments as a list of non-negative integers; None or an empty list means all."""
    if value is None or value == []:
        return list(range(ndim))
    values = [value] if isinstance(value, int) else list(value)
    return [d % ndim if ndim else 0 for d in values]


def broadcast(call: Call, shapes: Sequence[Axes]) -> Axes:
    """Unify the axes of ``shapes`` as broadcasting aligns them, from the right; size one gives way."""
    ndim = max((len(axes) for axes in shapes), default=0)
    result: list[Axis] = []
    for back in range(ndim, 0, -1):
        meeting = [axes[-back] for axes in shapes if len(axes) >= back and axes[-back].size != 1]
        result.append(call.space.unify_all(meeting) if meeting else UNIT)
    return tuple(result)


def unsupported(call: Call) -> list[Axes]:
    """What to do with an operator that has no row: freeze all that it reads and all that it returns."""
    reason = f"operator {call.func._schema.name} has no row in the operator table"
    for tensor in call.given:
        for axis in call.axes_of(tensor):
            call.freeze(axis, reason)
    return call.frozen_outputs(reason)
