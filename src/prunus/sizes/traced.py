"""An ``int`` that remembers where it comes from, and the ledger of what was asked of such integers during a run."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prunus.axes import Space
from prunus.sizes.expression import Arithmetic, Count, Expression

_HIDDEN = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))


def call_site() -> str:
    """``file.py:line`` of the innermost frame outside torch and prunus; the innermost torch frame if there is none."""
    frame = sys._getframe(1)
    fallback = ""
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith(_HIDDEN[1]):
            place = f"{os.path.basename(name)}:{frame.f_lineno}"
            if not name.startswith(_HIDDEN[0]) and not name.startswith("<"):
                return place
            if not fallback and "/nn/" in name and "/modules/module.py" not in name:
                fallback = place
        frame = frame.f_back  # type: ignore[assignment]
    return fallback or "an unknown place"


@dataclass(frozen=True, slots=True)
class Equation:
    """Two integers that must stay equal after the cut. A *soft* one was a comparison that came out true."""

    left: Expression
    right: Expression
    reason: str
    soft: bool = False


class Ledger:
    """What the run asks of sizes: equations between traced sizes, attributes and literals.

    Once it is closed, the sizes that know it (a cache of the user's code may have kept some) are plain integers.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        self.equations: dict[tuple[Expression, Expression, bool], Equation] = {}
        self.closed = False

    def close(self) -> None:
        """End the run: nothing more is noted, nor kept."""
        self.closed, self.space, self.equations = True, Space(), {}

    def require(self, left: Expression, right: Expression, what: str = "is sized", soft: bool = False) -> None:
        """Note that ``left`` must equal ``right``; ``what`` begins the reason that a frozen axis will carry."""
        if isinstance(right, int):
            left, right = right, left
        if self.closed or self._is_trivial(left, right) or (left, right, soft) in self.equations:
            return
        by = f"the literal {left}" if isinstance(left, int) else _describe(left)
        self.equations[left, right, soft] = Equation(left, right, f"{what} by {by} at {call_site()}", soft)

    def number(self, expr: Expression, value: int) -> None:
        """Note that ``expr`` was used as a plain number, so that its value must not change."""
        if self.closed or (isinstance(expr, Count) and self.space.is_frozen(expr.axis)):
            return
        if (value, expr, False) not in self.equations:
            reason = f"its size {value} is used as a number at {call_site()}"
            self.equations[value, expr, False] = Equation(value, expr, reason)

    def quotient(self, top: int, bottom: int) -> int:
        """``top // bottom``, one of which is a :class:`Size`, with its provenance."""
        value = int.__floordiv__(int(top), int(bottom))
        return Size.of(value, Arithmetic("//", expression(top), expression(bottom)), self)

    def ratio(self, top: int, bottom: int) -> float:
        """``top / bottom``, one of which is a :class:`Size`: a float, which keeps no provenance."""
        for size in (top, bottom):
            if isinstance(size, Size):
                self.number(size.expr, int.__int__(size))
        return int.__truediv__(int(top), int(bottom))

    def scaled(self, size: Size, factor: float) -> float:
        """``size * factor``: a float, which keeps no provenance."""
        self.number(size.expr, int.__int__(size))
        return int.__int__(size) * factor

    def _is_trivial(self, left: Expression, right: Expression) -> bool:
        if not isinstance(right, Count):
            return isinstance(right, int)
        if isinstance(left, int):
            return self.space.is_frozen(right.axis)
        return isinstance(left, Count) and self.space.resolve(left.axis) == self.space.resolve(right.axis)


def _describe(expr: Expression) -> str:
    return str(expr) if not isinstance(expr, Count | Arithmetic) else "another size"


class Size(int):
    """An integer with provenance. It computes as ``int`` does; integer arithmetic keeps track, other uses are noted."""

    expr: Expression
    ledger: Ledger

    @classmethod
    def of(cls, value: int, expr: Expression, ledger: Ledger) -> Size:
        size = int.__new__(cls, value)
        size.expr = expr
        size.ledger = ledger
        return size

    def _arithmetic(self, symbol: str, other: Any, result: Any, swapped: bool = False) -> Any:
        if result is NotImplemented or not isinstance(other, int):
            return self._unknown(result)
        ledger = self._open_ledger(other)
        if ledger.closed:
            return result
        mine, theirs = expression(self), expression(other)
        left, right = (theirs, mine) if swapped else (mine, theirs)
        return Size.of(result, Arithmetic(symbol, left, right), ledger)

    def _open_ledger(self, other: int) -> Ledger:
        return other.ledger if self.ledger.closed and isinstance(other, Size) else self.ledger

    def _unknown(self, result: Any) -> Any:
        self._note_number()
        return result

    def __add__(self, other: Any) -> Any:
        return self._arithmetic("+", other, int.__add__(self, other))

    def __radd__(self, other: Any) -> Any:
        return self._arithmetic("+", other, int.__radd__(self, other), swapped=True)

    def __sub__(self, other: Any) -> Any:
        return self._arithmetic("-", other, int.__sub__(self, other))

    def __rsub__(self, other: Any) -> Any:
        return self._arithmetic("-", other, int.__rsub__(self, other), swapped=True)

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, float) and not self.ledger.closed:
            return self.ledger.scaled(self, other)
        return self._arithmetic("*", other, int.__mul__(self, other))

    def __rmul__(self, other: Any) -> Any:
        if isinstance(other, float):
            return self * other
        return self._arithmetic("*", other, int.__rmul__(self, other), swapped=True)

    def __floordiv__(self, other: Any) -> Any:
        return self._divided(other, int.__floordiv__(self, other), swapped=False)

    def __rfloordiv__(self, other: Any) -> Any:
        return self._divided(other, int.__rfloordiv__(self, other), swapped=True)

    def _divided(self, other: Any, result: Any, swapped: bool) -> Any:
        if result is NotImplemented or not isinstance(other, int):
            return self._unknown(result)
        ledger = self._open_ledger(other)
        if ledger.closed:
            return result
        return ledger.quotient(other, self) if swapped else ledger.quotient(self, other)

    def __mod__(self, other: Any) -> Any:
        return self._arithmetic("%", other, int.__mod__(self, other))

    def __rmod__(self, other: Any) -> Any:
        return self._arithmetic("%", other, int.__rmod__(self, other), swapped=True)

    def __neg__(self) -> Any:
        value = -int.__int__(self)
        return value if self.ledger.closed else Size.of(value, Arithmetic("-", 0, self.expr), self.ledger)

    def __eq__(self, other: object) -> bool:
        equal = int.__eq__(self, other)
        if equal is True:
            self._note_equal(other)
        return equal

    def __ne__(self, other: object) -> bool:
        differs = int.__ne__(self, other)
        if differs is False:
            self._note_equal(other)
        return differs

    def __hash__(self) -> int:
        """As of the integer. Not in einops, whose cache by shape would take one axis for another of its size: it goes
        without the cache for sizes that can't be hashed.
        """
        if not self.ledger.closed and sys._getframe(1).f_globals.get("__name__", "").startswith("einops."):
            raise TypeError("a traced size in a cache of shapes")
        return int.__hash__(self)

    def _note_equal(self, other: object) -> None:
        if isinstance(other, Size) and not other.ledger.closed:
            self.ledger.require(self.expr, other.expr, "is compared", soft=True)

    def _note_number(self) -> None:
        self.ledger.number(self.expr, int.__int__(self))

    def _unseen(name: str) -> Any:  # type: ignore[misc]
        """An operation whose result keeps no provenance: the size is used as a number."""
        plain = getattr(int, name)

        def operation(self: Size, *others: Any) -> Any:
            self._note_number()
            return plain(self, *others)

        return operation

    __abs__, __lshift__, __rlshift__ = _unseen("__abs__"), _unseen("__lshift__"), _unseen("__rlshift__")
    __rshift__, __rrshift__, __and__ = _unseen("__rshift__"), _unseen("__rrshift__"), _unseen("__and__")
    __rand__, __divmod__, __rdivmod__ = _unseen("__rand__"), _unseen("__divmod__"), _unseen("__rdivmod__")
    __or__, __ror__, __xor__, __rxor__ = _unseen("__or__"), _unseen("__ror__"), _unseen("__xor__"), _unseen("__rxor__")

    def __truediv__(self, other: Any) -> Any:
        if isinstance(other, int):
            return self._open_ledger(other).ratio(self, other)
        self._note_number()
        return int.__truediv__(self, other)

    def __rtruediv__(self, other: Any) -> Any:
        if isinstance(other, int):
            return self._open_ledger(other).ratio(other, self)
        self._note_number()
        return int.__rtruediv__(self, other)

    def __pow__(self, other: Any, modulo: Any = None) -> Any:
        self._note_number()
        return int.__pow__(self, other, modulo)

    def __rpow__(self, other: Any, modulo: Any = None) -> Any:
        self._note_number()
        return int.__rpow__(self, other, modulo)

    def __float__(self) -> float:
        self._note_number()
        return int.__float__(self)

    def __deepcopy__(self, memo: Any) -> Size:
        return self  # a part of the model may copy its config

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return int, (int.__int__(self),)


def expression(value: int) -> Expression:
    """The provenance of an integer; a plain one is its own literal."""
    return value.expr if isinstance(value, Size) and not value.ledger.closed else int(value)
