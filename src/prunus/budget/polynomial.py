"""Costs as polynomials over counts: products of axes, expanded once and evaluated for many candidates at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from prunus.axes import Atom, Axis, Product

Counts = Mapping[Atom, NDArray[np.int64]]
"""How many indices of each atom stay, one value per candidate, all arrays of one length. Absent: all stay."""

Terms = Counter[tuple[Atom, ...]]


class Polynomial:
    """``sum(coefficient * product of counts)``, exact in 64-bit integers.

    Args:
        products: (coefficient, axes): the coefficient times the size of every axis.
        is_free: whether an atom's count may change; the others are their sizes.
    """

    def __init__(self, products: Iterable[tuple[int, Iterable[Axis]]], is_free: Callable[[Atom], bool]) -> None:
        terms: Terms = Counter()
        for coefficient, axes in products:
            for atoms, n in _expanded(axes, is_free).items():
                terms[atoms] += coefficient * n
        self.atoms = tuple(dict.fromkeys(atom for atoms in terms for atom in atoms))
        column = {atom: i for i, atom in enumerate(self.atoms)}
        width = max((len(atoms) for atoms in terms), default=0)
        one = len(self.atoms)
        rows = [[column[a] for a in atoms] + [one] * (width - len(atoms)) for atoms in terms]
        self._factors = np.array(rows, dtype=np.intp).reshape(len(terms), width)
        self._coefficients = np.array(list(terms.values()), dtype=np.int64)

    def __call__(self, counts: Counts, candidates: int) -> NDArray[np.int64]:
        """Its value for each candidate."""
        table = np.ones((len(self.atoms) + 1, candidates), dtype=np.int64)
        for i, atom in enumerate(self.atoms):
            table[i] = counts.get(atom, atom.size)
        value = np.ones((len(self._factors), candidates), dtype=np.int64)
        for place in range(self._factors.shape[1]):
            value *= table[self._factors[:, place]]
        result: NDArray[np.int64] = self._coefficients @ value
        return result


def _expanded(axes: Iterable[Axis], is_free: Callable[[Atom], bool]) -> Terms:
    result: Terms = Counter({(): 1})
    for axis in axes:
        factor = _terms(axis, is_free)
        product: Terms = Counter()
        for mine, a in result.items():
            for theirs, b in factor.items():
                product[tuple(sorted((*mine, *theirs), key=id))] += a * b
        result = product
    return result


def _terms(axis: Axis, is_free: Callable[[Atom], bool]) -> Terms:
    if isinstance(axis, Atom):
        return Counter({(axis,): 1}) if is_free(axis) else Counter({(): axis.size})
    if isinstance(axis, Product):
        return _expanded(axis.parts, is_free)
    result: Terms = Counter()
    for part in axis.parts:
        result.update(_terms(part, is_free))
    return result
