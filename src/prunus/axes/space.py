"""A space of axis expressions under unification: which index ranges are the same, and which can't be cut."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TypeVar

from prunus.axes.expression import EMPTY, UNIT, Atom, Axes, Axis, Product, Sum, atoms, product, total

_T = TypeVar("_T")


class Space:
    """Learns equalities between axes and refines atoms as far as the equalities need.

    An atom is either free or *bound* to the expression it was found to be. Reading through :meth:`resolve` always
    gives the present knowledge; everything else here only adds to it. Nothing is guessed: two axes become the same
    only by :meth:`unify`, and what can't be expressed is frozen with a reason.
    """

    def __init__(self) -> None:
        self._bound: dict[Atom, Axis] = {}
        self._reasons: dict[Atom, str] = {}

    def copy(self) -> Space:
        """A space that knows what this one knows now, and learns by itself from here on."""
        result = Space()
        result._bound, result._reasons = dict(self._bound), dict(self._reasons)
        return result

    def become(self, other: Space) -> None:
        """Know what ``other`` knows, and no more."""
        self._bound, self._reasons = dict(other._bound), dict(other._reasons)

    # -- making and reading --------------------------------------------------------------------------------------

    def fresh(self, size: int, frozen: str | None = None) -> Axis:
        """A new axis of ``size``, frozen for the given reason if there is one."""
        if size == 1:
            return UNIT
        if size == 0:
            return EMPTY
        atom = Atom(size)
        if frozen is not None:
            self._reasons[atom] = frozen
        return atom

    def resolve(self, axis: Axis) -> Axis:
        """``axis`` with every bound atom replaced by what it is known to be."""
        if isinstance(axis, Atom):
            bound = self._bound.get(axis)
            if bound is None:
                return axis
            result = self.resolve(bound)
            if result is not bound:
                self._bound[axis] = result  # path compression
            return result
        parts = self.resolve_all(axis.parts)
        if parts is axis.parts:
            return axis
        return product(parts) if isinstance(axis, Product) else total(parts)

    def resolve_all(self, axes: Axes) -> Axes:
        """:meth:`resolve` of each; ``axes`` themselves where nothing in them is bound."""
        for axis in axes:
            if axis in self._bound if isinstance(axis, Atom) else self.resolve(axis) is not axis:
                return tuple(map(self.resolve, axes))
        return axes

    def reason(self, atom: Atom) -> str | None:
        """Why ``atom`` can't be cut, or None if it can."""
        return self._reasons.get(atom)

    def is_frozen(self, axis: Axis) -> bool:
        """Whether no atom of ``axis`` can be cut."""
        return all(atom in self._reasons for atom in atoms(self.resolve(axis)))

    def freeze(self, axis: Axis, reason: str) -> None:
        """Mark every atom of ``axis`` as not to be cut. The first reason given stays."""
        for atom in atoms(self.resolve(axis)):
            self._reasons.setdefault(atom, reason)

    # -- unification ---------------------------------------------------------------------------------------------

    def unify(self, a: Axis, b: Axis) -> None:
        """Make ``a`` and ``b`` the same axis, refining atoms where their structures differ.

        Structures that can't be aligned, and axes of different sizes, are frozen on both sides.
        """
        a, b = self.resolve(a), self.resolve(b)
        if a is b or a == b:
            return
        if a.size != b.size:
            self._give_up([a, b], f"axes of sizes {a.size} and {b.size} meet")
        elif isinstance(a, Atom):
            self._bind(a, b)
        elif isinstance(b, Atom):
            self._bind(b, a)
        elif isinstance(a, Product) and isinstance(b, Product):
            self._unify_products(a, b)
        elif isinstance(a, Sum) and isinstance(b, Sum):
            self._unify_sums(a, b)
        else:
            whole, parts = (a, b) if isinstance(a, Sum) else (b, a)
            split = self.split(whole, parts.parts[0].size)
            if split is None:
                self._give_up([a, b], f"{a!r} and {b!r} don't align")
            else:
                self.unify(product(split), parts)

    def unify_all(self, axes: Iterable[Axis]) -> Axis:
        """Make all ``axes`` the same; returns it."""
        first, *rest = axes
        for other in rest:
            self.unify(first, other)
        return self.resolve(first)

    def _bind(self, atom: Atom, axis: Axis) -> None:
        # No occurs-check is needed: an expression in normal form is larger than any atom in it.
        self._bound[atom] = axis
        reason = self._reasons.get(atom)
        if reason is not None:
            self.freeze(axis, reason)

    def _unify_products(self, a: Product, b: Product) -> None:
        left, right = list(a.parts), list(b.parts)
        while left and right:
            small = min(self._head(left).size, self._head(right).size)
            x, y = self._take(left, small), self._take(right, small)
            if x is None or y is None:
                self._give_up([a, b], f"the factors of {a!r} and {b!r} don't divide each other")
                return
            self.unify(x, y)

    def _head(self, factors: list[Axis]) -> Axis:
        head = self.resolve(factors[0])
        if isinstance(head, Product):
            factors[0:1] = head.parts
            return self._head(factors)
        return head

    def _unify_sums(self, a: Sum, b: Sum) -> None:
        left, right = list(a.parts), list(b.parts)
        while left and right:
            x, y = left.pop(0), right.pop(0)
            if x.size < y.size:
                y, rest = self.cut(y, [x.size, y.size - x.size])
                right.insert(0, rest)
            elif y.size < x.size:
                x, rest = self.cut(x, [y.size, x.size - y.size])
                left.insert(0, rest)
            self.unify(x, y)

    def _give_up(self, axes: Iterable[Axis], reason: str) -> None:
        for axis in axes:
            self.freeze(axis, reason)

    # -- regrouping (view, reshape, flatten) ---------------------------------------------------------------------

    def split(self, axis: Axis, outer: int) -> tuple[Axis, Axis] | None:
        """Write ``axis`` as ``outer * inner``, refining atoms as needed; None where that can't be."""
        axis = self.resolve(axis)
        if axis.size % outer:
            return None
        if outer in (1, axis.size):
            return (UNIT, axis) if outer == 1 else (axis, UNIT)
        if isinstance(axis, Atom):
            parts = (self.fresh(outer), self.fresh(axis.size // outer))
            self._bind(axis, product(parts))
            return parts
        if isinstance(axis, Sum):
            return self._split_sum(axis, outer)
        factors = list(axis.parts)
        head = self._take(factors, outer)
        return None if head is None else (head, product(factors))

    def _split_sum(self, axis: Sum, outer: int) -> tuple[Axis, Axis] | None:
        inner = axis.size // outer
        if all(term.size % inner == 0 for term in axis.parts):
            splits = [self.split(term, term.size // inner) for term in axis.parts]
            found = [s for s in splits if s is not None]
            if len(found) == len(splits):
                return total(s[0] for s in found), self.unify_all(s[1] for s in found)
        pieces = self.cut(axis, [inner] * outer)
        return total([UNIT] * outer), self.unify_all(pieces)

    def _take(self, factors: list[Axis], size: int) -> Axis | None:
        """Remove leading ``factors`` of exactly ``size`` positions from the list; None where no boundary fits."""
        taken: list[Axis] = []
        while size > 1:
            if not factors:
                return None
            head = self.resolve(factors[0])
            if size % head.size == 0:
                taken.append(head)
                size //= head.size
                factors.pop(0)
            elif isinstance(head, Product):
                factors[0:1] = head.parts
            else:
                parts = self.split(head, size) if head.size % size == 0 else None
                if parts is None:
                    return None
                taken.append(parts[0])
                factors[0] = parts[1]
                size = 1
        return product(taken)

    def regroup(self, axes: Sequence[Axis], sizes: Sequence[int]) -> list[Axis]:
        """The same row-major run of positions as ``axes``, in dimensions of the given ``sizes``."""
        if 0 in sizes:
            return self._regroup_around_empty(list(axes), list(sizes))
        result: list[Axis] = []
        for run, wanted in _runs([axis.size for axis in axes], sizes):
            result += self._regroup_run([axes[i] for i in run], [sizes[j] for j in wanted])
        return result

    def _regroup_around_empty(self, axes: Sequence[Axis], sizes: Sequence[int]) -> list[Axis]:
        """Without any position: what lies between the empty dimensions is regrouped by itself, if that can be."""
        spans, wanted = _between_empty(axes, [axis.size for axis in axes]), _between_empty(sizes, sizes)
        result: list[Axis] = []
        for span, new in zip(spans, wanted, strict=False):
            if len(spans) != len(wanted) or math.prod(axis.size for axis in span) != math.prod(new):
                reason = f"regrouped from {[axis.size for axis in axes]} to {list(sizes)}, without any position"
                self._give_up(axes, reason)
                return [self.fresh(size, reason) for size in sizes]
            result += [EMPTY, *self.regroup(span, new)]
        return result[1:]

    def _regroup_run(self, axes: list[Axis], sizes: list[int]) -> list[Axis]:
        if len(axes) == len(sizes) == 1:
            return axes
        factors = list(axes)
        taken = [self._take(factors, size) for size in sizes]
        found = [axis for axis in taken if axis is not None]
        if len(found) == len(taken):
            return found
        reason = f"regrouped from {[a.size for a in axes]} to {sizes}, where no factor boundary falls"
        self._give_up(axes, reason)
        return [self.fresh(size, reason) for size in sizes]

    # -- cutting (split, chunk, slice, select) -------------------------------------------------------------------

    def cut(self, axis: Axis, sizes: Sequence[int]) -> list[Axis]:
        """Take ``axis`` apart into consecutive pieces of the given ``sizes``, refining atoms where a cut falls."""
        rest = self.resolve(axis)
        pieces = []
        for size in sizes:
            head, rest = self._cut_at(rest, size)
            pieces.append(head)
        return pieces

    def _cut_at(self, axis: Axis, at: int) -> tuple[Axis, Axis]:
        axis = self.resolve(axis)
        if at <= 0:
            return EMPTY, axis
        if at >= axis.size:
            return axis, EMPTY
        if isinstance(axis, Atom):
            parts = (self.fresh(at), self.fresh(axis.size - at))
            self._bind(axis, total(parts))
            return parts
        if isinstance(axis, Sum):
            return self._cut_sum(axis, at)
        outer, *inner = axis.parts
        width = axis.size // outer.size
        if at % width and not any(True for part in inner for _ in atoms(part)):
            return self._cut_row(outer, product(inner), at)
        if at % width:
            reason = f"cut at {at}, inside a factor of {axis!r}"
            self.freeze(axis, reason)
            return self.fresh(at, reason), self.fresh(axis.size - at, reason)
        head, tail = self._cut_at(outer, at // width)
        return product([head, *inner]), product([tail, *inner])

    def _cut_row(self, outer: Axis, inner: Axis, at: int) -> tuple[Axis, Axis]:
        """Cut ``outer * inner`` inside one row of ``inner``, which has no atoms: that row's ``outer`` index stays."""
        row, rest = divmod(at, inner.size)
        before, _, after = self.cut(outer, [row, 1, outer.size - row - 1])
        head, tail = self._cut_at(inner, rest)
        return total([product([before, inner]), head]), total([tail, product([after, inner])])

    def _cut_sum(self, axis: Sum, at: int) -> tuple[Axis, Axis]:
        for i, term in enumerate(axis.parts):
            if at < term.size:
                head, tail = self._cut_at(term, at)
                return total([*axis.parts[:i], head]), total([tail, *axis.parts[i + 1 :]])
            at -= term.size
        raise AssertionError("a cut inside a sum falls in one of its terms")


def _between_empty(items: Sequence[_T], sizes: Sequence[int]) -> list[list[_T]]:
    """``items`` in the runs that the dimensions of size zero leave between them."""
    runs: list[list[_T]] = [[]]
    for item, size in zip(items, sizes, strict=True):
        if size:
            runs[-1].append(item)
        else:
            runs.append([])
    return runs


def _runs(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Pair the shortest runs of dimensions of ``before`` and ``after`` that hold the same number of positions."""
    runs: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        run, wanted, m, n = [], [], 1, 1
        if i < len(before):
            run, m, i = [i], before[i], i + 1
        if j < len(after):
            wanted, n, j = [j], after[j], j + 1
        while m != n:
            if m < n:
                run.append(i)
                m, i = m * before[i], i + 1
            else:
                wanted.append(j)
                n, j = n * after[j], j + 1
        runs.append((run, wanted))
    return runs
