"""Costs as polynomials over counts: products of axes, expanded once and evaluated for many candidates at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from prunus.axes import Atom, Axis, Product, Sum

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
    """The product of the axes as a sum of products of free atoms."""
    size, free, sums = 1, [], []
    waiting = list(axes)
    while waiting:
        axis = waiting.pop()
        if isinstance(axis, Product):
            waiting += axis.parts
        elif isinstance(axis, Sum):
            sums.append(axis)
        elif is_free(axis):
            free.append(axis)
        else:
            size *= axis.size
    result: Terms = Counter({tuple(sorted(free, key=id)): size})
    for axis in sums:
        product: Terms = Counter()
        for mine, a in result.items():
            for part in axis.parts:
                for theirs, b in _expanded([part], is_free).items():
                    product[tuple(sorted((*mine, *theirs), key=id))] += a * b
        result = product
    return result
