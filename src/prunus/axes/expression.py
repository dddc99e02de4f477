"""Axis expressions: what the positions along one dimension of a tensor are made of.

    Axis  :=  Atom(size)              an indivisible index range: the thing that can be cut
           |  Product(axis, ...)      row-major, outer first: heads * head_dim
           |  Sum(axis, ...)          laid end to end: branch_a + branch_b

Build products and sums with :func:`product` and :func:`total`, which keep them in normal form: no product directly in a
product, no sum directly in a sum, no factor of size one, no term of size zero, never a single part.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, eq=False, slots=True)
class Atom:
    """An indivisible range of ``size`` indices. Two atoms are the same only if they are the same object."""

    size: int
    parts: tuple[Axis, ...] = ()

    def __repr__(self) -> str:
        return f"<{self.size}>"


@dataclass(frozen=True, slots=True)
class Product:
    """Row-major factors, outer first. The empty product has size one."""

    parts: tuple[Axis, ...]
    size: int

    def __repr__(self) -> str:
        return "*".join(map(repr, self.parts)) or "1"


@dataclass(frozen=True, slots=True)
class Sum:
    """Terms laid end to end. The empty sum has size zero."""

    parts: tuple[Axis, ...]
    size: int

    def __repr__(self) -> str:
        return f"({' + '.join(map(repr, self.parts))})"


Axis = Atom | Product | Sum
Axes = tuple[Axis, ...]

UNIT = Product((), 1)
EMPTY = Sum((), 0)


def product(factors: Iterable[Axis]) -> Axis:
    """The row-major product of ``factors``, outer first, in normal form."""
    parts: list[Axis] = []
    for factor in factors:
        if isinstance(factor, Product):
            parts.extend(factor.parts)
        else:
            parts.append(factor)
    if len(parts) == 1:
        return parts[0]
    return Product(tuple(parts), math.prod(p.size for p in parts)) if parts else UNIT


def total(terms: Iterable[Axis]) -> Axis:
    """``terms`` laid end to end, in normal form."""
    parts: list[Axis] = []
    for term in terms:
        if isinstance(term, Sum):
            parts.extend(term.parts)
        elif term.size:
            parts.append(term)
    if len(parts) == 1:
        return parts[0]
    return Sum(tuple(parts), sum(p.size for p in parts)) if parts else EMPTY


def atoms(axis: Axis) -> Iterator[Atom]:
    """The atoms of ``axis`` from left to right; one that occurs twice is given twice."""
    if isinstance(axis, Atom):
        yield axis
    else:
        for part in axis.parts:
            yield from atoms(part)
