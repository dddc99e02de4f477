"""Sizes that are products: ``heads * depth``, ``3 * width``; what they share, and what they can follow."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from prunus.axes import Atom, Axis, Product, Sum
from prunus.sizes.expression import Arithmetic, Count, Expression


@dataclass(frozen=True)
class Monomial:
    """A constant times the counts of atoms."""

    constant: int
    atoms: tuple[Atom, ...] = ()

    def __mul__(self, other: Monomial) -> Monomial:
        return Monomial(self.constant * other.constant, self.atoms + other.atoms)

    def expression(self) -> Expression:
        result: Expression = self.constant
        for atom in self.atoms:
            result = Count(atom) if result == 1 else Arithmetic("*", result, Count(atom))
        return result


class Monomials:
    """Reads expressions as products, in the present state of the solution.

    Args:
        followers: atoms that are replaced by what they follow.
        is_frozen: whether an atom is a constant.
    """

    def __init__(self, followers: Mapping[Atom, Expression], is_frozen: Callable[[Atom], bool]) -> None:
        self.followers = followers
        self.is_frozen = is_frozen

    def read(self, expr: Expression) -> Monomial | None:
        """``expr`` as a product; None if it is none."""
        if isinstance(expr, int):
            return Monomial(expr)
        if isinstance(expr, Arithmetic) and expr.symbol == "*":
            return _product([self.read(expr.left), self.read(expr.right)])
        if isinstance(expr, Arithmetic) and expr.symbol == "//":
            return _quotient(self.read(expr.left), self.read(expr.right))
        return self._axis(expr.axis) if isinstance(expr, Count) else None

    def _axis(self, axis: Axis) -> Monomial | None:
        if isinstance(axis, Atom):
            if axis in self.followers:
                return self.read(self.followers[axis])
            return Monomial(axis.size) if self.is_frozen(axis) else Monomial(1, (axis,))
        parts = [self._axis(part) for part in axis.parts]
        return _product(parts) if isinstance(axis, Product) else _sum(axis, parts)

    def divided(self, expr: Expression) -> Expression:
        """``a // b`` without what both share, where nothing of ``b`` is left; any other expression as it is."""
        if not isinstance(expr, Arithmetic) or expr.symbol != "//":
            return expr
        quotient = self.read(expr)
        return expr if quotient is None else quotient.expression()

    def cancelled(self, left: Expression, right: Expression) -> tuple[Expression, Expression]:
        """Both sides without what they share, where both are products; as they are otherwise."""
        one, other = self.read(left), self.read(right)
        if one is None or other is None:
            return left, right
        a, b = list(one.atoms), list(other.atoms)
        for atom in one.atoms:
            if atom in b:
                a.remove(atom)
                b.remove(atom)
        common = math.gcd(one.constant, other.constant) or 1
        return (
            Monomial(one.constant // common, tuple(a)).expression(),
            Monomial(other.constant // common, tuple(b)).expression(),
        )


def _product(parts: Sequence[Monomial | None]) -> Monomial | None:
    result = Monomial(1)
    for part in parts:
        if part is None:
            return None
        result = result * part
    return result


def _quotient(above: Monomial | None, below: Monomial | None) -> Monomial | None:
    """The quotient if it is exact for all counts."""
    if above is None or below is None or not below.constant or above.constant % below.constant:
        return None
    rest = list(above.atoms)
    for atom in below.atoms:
        if atom not in rest:
            return None
        rest.remove(atom)
    return Monomial(above.constant // below.constant, tuple(rest))


def _sum(axis: Sum, parts: Sequence[Monomial | None]) -> Monomial | None:
    """Equal terms are a multiple of one; a sum of constants is a constant."""
    found = [part for part in parts if part is not None]
    if len(found) < len(parts) or not found or any(part.atoms != found[0].atoms for part in found):
        return None
    return Monomial(sum(part.constant for part in found), found[0].atoms)


@dataclass(frozen=True)
class Balance:
    """How two products stay equal: atoms to freeze, and atoms that then follow others."""

    freeze: tuple[Atom, ...]
    follow: tuple[tuple[Atom, Expression], ...]


def balance(left: Monomial, right: Monomial) -> Balance:
    """Keep ``left == right``, which holds at full sizes: each factor follows its like in the other product. Of the rest
    a single factor follows several where that comes out even, or one follows one; otherwise the rest is frozen.
    """
    pairs, mine, theirs = _likes(left.atoms, right.atoms)
    follow = [(a, Count(b)) for a, b in pairs if a is not b]
    for several, single in ((mine, theirs), (theirs, mine)):
        if several and len(single) == 1:
            frozen = _made_even(several, single[0].size)
            if frozen is not None:
                rest = tuple(a for a in several if a not in frozen)
                constant = single[0].size // math.prod(a.size for a in rest)
                return Balance(frozen, (*follow, (single[0], Monomial(constant, rest).expression())))
    pair = _largest_pair(mine, theirs)
    if pair is not None:
        follower, source = pair
        frozen = tuple(atom for atom in (*mine, *theirs) if atom not in pair)
        return Balance(frozen, (*follow, (follower, Monomial(follower.size // source.size, (source,)).expression())))
    return Balance((*mine, *theirs), tuple(follow))


def _largest_pair(mine: Sequence[Atom], theirs: Sequence[Atom]) -> tuple[Atom, Atom] | None:
    """Of two factors, one on each side, one of which divides the other: the larger, which can follow the smaller."""
    pairs = [(max(a, b, key=_size), min(a, b, key=_size)) for a in mine for b in theirs]
    once = [(a, b) for a, b in pairs if (*mine, *theirs).count(a) == (*mine, *theirs).count(b) == 1]
    return max((p for p in once if p[0].size % p[1].size == 0), key=lambda p: p[0].size * p[1].size, default=None)


def _size(atom: Atom) -> int:
    return atom.size


def _likes(left: Sequence[Atom], right: Sequence[Atom]) -> tuple[list[tuple[Atom, Atom]], list[Atom], list[Atom]]:
    """Pairs of the same atom, then of atoms of the same size; and what is left of each side."""
    pairs: list[tuple[Atom, Atom]] = []
    mine, theirs = list(left), list(right)
    for alike in (lambda a, b: a is b, lambda a, b: a.size == b.size):
        for a in list(mine):
            like = next((b for b in theirs if alike(a, b)), None)
            if like is not None:
                mine.remove(a)
                theirs.remove(like)
                pairs.append((a, like))
    return pairs, mine, theirs


def _made_even(atoms: Sequence[Atom], size: int) -> tuple[Atom, ...] | None:
    """The fewest and smallest of ``atoms`` that must be constant for the others to divide ``size``; not all of them."""
    if len(set(atoms)) < len(atoms) or len(atoms) > _MOST:
        return None
    subsets = [s for n in range(len(atoms)) for s in itertools.combinations(atoms, n)]
    for frozen in sorted(subsets, key=lambda s: (len(s), math.prod(a.size for a in s))):
        if size % math.prod(a.size for a in atoms if a not in frozen) == 0:
            return frozen
    return None


_MOST = 8  # factors of which all subsets are tried
