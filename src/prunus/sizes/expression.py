"""Where an integer comes from: a traced size, an attribute of a module, a literal, or arithmetic over those."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from prunus.axes import Atom, Axis, Space, atoms, count


@dataclass(frozen=True, slots=True)
class Count:
    """How many positions of an axis there are: ``x.shape[1]``."""

    axis: Axis


@dataclass(frozen=True, slots=True)
class Attribute:
    """An integer that a module holds: ``<module>.<name>[path]``; without a name an unknown that nothing holds."""

    module: str
    name: str
    path: tuple[int | str, ...] = ()

    @property
    def is_unnamed(self) -> bool:
        return not self.name

    def __str__(self) -> str:
        dotted = f"{self.module}.{self.name}" if self.module else self.name
        return dotted + "".join(f"[{key!r}]" for key in self.path)


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """``left <symbol> right`` with one of the symbols of :data:`OPERATIONS`."""

    symbol: str
    left: Expression
    right: Expression


Expression = Count | Attribute | Arithmetic | int

OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
}


def evaluate(expr: Expression, counts: Mapping[Atom, int], attributes: Mapping[Attribute, int]) -> int:
    """The value of a resolved expression, given how many indices of each atom stay (absent: all)."""
    if isinstance(expr, Count):
        return count(expr.axis, counts)
    if isinstance(expr, Attribute):
        return attributes[expr]
    if isinstance(expr, Arithmetic):
        left = evaluate(expr.left, counts, attributes)
        return OPERATIONS[expr.symbol](left, evaluate(expr.right, counts, attributes))
    return expr


def resolved(expr: Expression, space: Space) -> Expression:
    """``expr`` with its axes read in the present state of ``space``."""
    if isinstance(expr, Count):
        axis = space.resolve(expr.axis)
        return expr if axis is expr.axis else Count(axis)
    if isinstance(expr, Arithmetic):
        return Arithmetic(expr.symbol, resolved(expr.left, space), resolved(expr.right, space))
    return expr


def substitute(expr: Expression, known: Mapping[Attribute, Expression]) -> Expression:
    """``expr`` with the attributes that have a definition replaced by it."""
    if isinstance(expr, Attribute):
        return known.get(expr, expr)
    if isinstance(expr, Arithmetic):
        return Arithmetic(expr.symbol, substitute(expr.left, known), substitute(expr.right, known))
    return expr


def leaves(expr: Expression) -> Iterator[Atom | Attribute]:
    """The atoms and attributes that an expression reads."""
    if isinstance(expr, Count):
        yield from atoms(expr.axis)
    elif isinstance(expr, Attribute):
        yield expr
    elif isinstance(expr, Arithmetic):
        yield from leaves(expr.left)
        yield from leaves(expr.right)


def isolate(expr: Expression, target: Attribute, value: Expression) -> Expression | None:
    """Solve ``expr == value`` for ``target``, which must occur once; None where the operations don't invert."""
    if expr == target:
        return value
    if not isinstance(expr, Arithmetic):
        return None
    in_left = target in set(leaves(expr.left))
    if in_left == (target in set(leaves(expr.right))):
        return None
    inside, known = (expr.left, expr.right) if in_left else (expr.right, expr.left)
    if expr.symbol == "*":
        return isolate(inside, target, Arithmetic("//", value, known))
    if expr.symbol == "+":
        return isolate(inside, target, Arithmetic("-", value, known))
    if expr.symbol == "//":  # n // known == value, or known // n == value
        return isolate(
            inside, target, Arithmetic("*" if in_left else "//", *((value, known) if in_left else (known, value)))
        )
    return None
