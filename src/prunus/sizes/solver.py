"""Turn the equations of a run into attribute definitions, counts that follow others, and frozen atoms.

After a cut, every integer that the model computes or holds must again fit the tensors. Three things can be done about
an equation: *define* an attribute by it (``num_heads := count(heads)``), let the count of one atom *follow* others
(``width := count(heads) * 64``), or *freeze* the atoms in it. Whether an equation already holds is decided by
evaluating both sides for random counts (as in Schwartz and Zippel's test of polynomial identity).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field

from prunus.axes import Atom, Axis, Product, Space, atoms, product
from prunus.sizes.expression import (
    Arithmetic,
    Attribute,
    Count,
    Expression,
    evaluate,
    isolate,
    leaves,
    resolved,
    substitute,
)
from prunus.sizes.monomial import Monomials, balance
from prunus.sizes.traced import Equation

_SAMPLES = 4
_LARGE = 1 << 20  # counts are sampled far above any size, so that no equation holds by chance


@dataclass(frozen=True)
class Sizes:
    """The solution: how attributes and dependent counts follow from the counts that can be chosen.

    Attributes:
        values: every attribute's present value.
        definitions: attributes that follow sizes, as expressions over counts.
        followers: atoms whose count is given by an expression over the counts of others, in order of evaluation.
    """

    values: Mapping[Attribute, int]
    definitions: Mapping[Attribute, Expression] = field(default_factory=dict)
    followers: Mapping[Atom, Expression] = field(default_factory=dict)

    def complete(self, counts: Mapping[Atom, int]) -> dict[Atom, int]:
        """``counts`` of the atoms that were chosen, with those of the followers added."""
        result = {atom: n for atom, n in counts.items() if atom not in self.followers}
        for atom, expr in self.followers.items():
            result[atom] = evaluate(expr, result, self.values)
        return result

    def attributes(self, counts: Mapping[Atom, int]) -> dict[Attribute, int]:
        """The new value of every attribute that changes under complete ``counts``."""
        new = {a: evaluate(expr, counts, self.values) for a, expr in self.definitions.items() if not a.is_unnamed}
        return {attribute: value for attribute, value in new.items() if value != self.values[attribute]}


def solve(
    space: Space, equations: Iterable[Equation], values: Mapping[Attribute, int], held: Iterable[Axis] | None = None
) -> Sizes:
    """Solve ``equations``, freezing atoms in ``space`` where nothing else helps.

    Args:
        held: the axes of the model's tensors, whose counts can be chosen: others follow them. All can, if not given.
    """
    solver = _Solver(space, values)
    if held is not None:
        solver.held = {atom for axis in held for atom in atoms(space.resolve(axis))}
    return solver.solve(list(equations))


def define(
    space: Space, equations: Iterable[Equation], values: Mapping[Attribute, int]
) -> Mapping[Attribute, Expression]:
    """The attributes that ``equations`` define, in their order, without tying or freezing anything."""
    solver = _Solver(space, values)
    live = solver.live(list(equations))
    solver.define(live)
    return solver.definitions


class _Solver:
    def __init__(self, space: Space, values: Mapping[Attribute, int]) -> None:
        self.space = space
        self.values = values
        self.held: Container[Atom] | None = None
        self.definitions: dict[Attribute, Expression] = {}
        self._sources: dict[Attribute, Equation] = {}
        self.followers: dict[Atom, Expression] = {}
        self.samples: list[dict[Atom, int]] = []

    def solve(self, equations: list[Equation]) -> Sizes:
        live = self.live(equations)
        self.define(live)
        pending = self._pending(live)
        self._settle_constants([e for e in pending if not (_divides(e.left) or _divides(e.right))])
        self._tie(pending)
        if self._keep_ratios():
            pending = self._pending(live)
            self._tie(pending)
        for step in (self._settle_constant, self._balance, self._freeze):
            self._take(step, pending)
            self._settle_constants(pending)
        return Sizes(self.values, self.definitions, self.followers)

    def _pending(self, live: list[Equation]) -> list[Equation]:
        """What the definitions leave to be done, with counts to try it out."""
        pending = [self._multiplied(self._substitute(e)) for e in live if not e.soft]
        pending = [e for e in pending if self._free(e.left) or self._free(e.right)]
        self._sample(pending)
        return pending

    def _tie(self, pending: list[Equation]) -> None:
        for step in (self._follow, self._pair, self._follow, self._merge):
            self._take(step, pending)

    def _take(self, step: Callable[[Equation], object], pending: list[Equation]) -> None:
        for equation in pending:
            if not self._holds(equation):
                step(equation)

    def live(self, equations: list[Equation]) -> list[Equation]:
        """The equations that a cut could break, as the space reads them now."""
        return [e for e in map(self._resolve, equations) if e.left != e.right and self._is_live(e)]

    def define(self, live: list[Equation]) -> None:
        """Define attributes, by comparisons only where nothing else does."""
        for soft in (False, True):
            chosen = [e for e in live if e.soft is soft]
            self._define(chosen, exact=True)
            self._define(chosen, exact=False)

    # -- reading -------------------------------------------------------------------------------------------------

    def _resolve(self, e: Equation) -> Equation:
        return Equation(resolved(e.left, self.space), resolved(e.right, self.space), e.reason, e.soft)

    def _substitute(self, e: Equation) -> Equation:
        left, right = substitute(e.left, self.definitions), substitute(e.right, self.definitions)
        return Equation(*self._cancelled(left, right), e.reason)

    def _multiplied(self, e: Equation) -> Equation:
        """``a // b == c`` with nothing left over asks no less than ``a == b * c``, which counts can follow."""
        for this, other in ((e.left, e.right), (e.right, e.left)):
            if isinstance(this, Arithmetic) and this.symbol == "//" and self._free(this) and self._free(other):
                whole = Arithmetic("*", this.right, other)
                if evaluate(whole, {}, self.values) == evaluate(this.left, {}, self.values):
                    return Equation(*self._cancelled(this.left, whole), e.reason)
        return e

    def _cancelled(self, left: Expression, right: Expression) -> tuple[Expression, Expression]:
        """Both sides without what they share as products, or else a constant factor."""
        left, right = self._monomials().cancelled(left, right)
        if not (isinstance(left, Count) and isinstance(right, Count)):
            return left, right
        (a, m), (b, n) = self._factored(left.axis), self._factored(right.axis)
        return (Count(a), Count(b)) if m == n else (left, right)

    def _factored(self, axis: Axis) -> tuple[Axis, int]:
        """``axis`` as its factors with free atoms, and the size of the others."""
        parts = axis.parts if isinstance(axis, Product) else (axis,)
        free = [part for part in parts if self._free(Count(part))]
        return product(free), axis.size // math.prod(part.size for part in free)

    def _is_live(self, e: Equation) -> bool:
        """Whether a cut could break the equation: something in it can change."""
        free = any(self._free(side) for side in (e.left, e.right))
        return free or any(isinstance(x, Attribute) for side in (e.left, e.right) for x in leaves(side))

    def _free(self, expr: Expression) -> list[Atom]:
        return [x for x in leaves(expr) if isinstance(x, Atom) and self.space.reason(x) is None]

    # -- defining attributes -------------------------------------------------------------------------------------

    def _define(self, equations: list[Equation], exact: bool) -> None:
        """Take the first equation with one unknown attribute as its definition, as long as any is found.

        An *exact* definition holds whatever the counts are; one that divides may leave a remainder.
        """
        waiting = equations
        while True:
            later = [e for e in waiting if not self._define_by(e, exact)]
            if len(later) == len(waiting):
                return
            waiting = later

    def _define_by(self, e: Equation, exact: bool) -> bool:
        left, right = substitute(e.left, self.definitions), substitute(e.right, self.definitions)
        for expr, other in ((left, right), (right, left)):
            if isinstance(other, int) or any(isinstance(x, Attribute) for x in leaves(other)):
                continue
            unknown = {x for x in leaves(expr) if isinstance(x, Attribute)}
            if len(unknown) == 1:
                (target,) = unknown
                found = self._isolated(expr, target, other, exact)
                if found is not None:
                    self.definitions[target], self._sources[target] = found, e
                    return True
        return False

    def _isolated(self, expr: Expression, target: Attribute, value: Expression, exact: bool) -> Expression | None:
        """What ``target`` must be for ``expr`` to be ``value``, if that is what it is now."""
        found = isolate(expr, target, value)
        if found is None or evaluate(found, {}, self.values) != self.values[target]:
            return None
        if _divides(found):
            simple = self._monomials().read(found)
            found = simple.expression() if simple is not None else None if exact else found
        return found

    def _keep_ratios(self) -> bool:
        """Leave attributes alone that would be quotients of counts that don't divide: of ``hidden == ratio * width``
        the ratio stays, and one count can follow the other. Tells whether there are any.
        """
        named = {a: self._sources[a] for a, expr in self.definitions.items() if _divides(expr) and not a.is_unnamed}
        ratios = [a for a, source in named.items() if not source.soft and not self._holds(self._substitute(source))]
        for attribute in ratios:
            del self.definitions[attribute]
        return bool(ratios)

    # -- deciding whether an equation holds ----------------------------------------------------------------------

    def _sample(self, equations: list[Equation]) -> None:
        rng = random.Random(0)
        sides = [side for e in equations for side in (e.left, e.right)]
        found = dict.fromkeys(a for expr in (*sides, *self.followers.values()) for a in self._free(expr))
        self.samples = [{atom: rng.randint(1, _LARGE) for atom in found} for _ in range(_SAMPLES)]
        self._refresh()

    def _holds(self, e: Equation) -> bool:
        try:
            return all(
                evaluate(e.left, counts, self.values) == evaluate(e.right, counts, self.values)
                for counts in self.samples
            )
        except ZeroDivisionError:
            return False

    def _refresh(self) -> None:
        for counts in self.samples:
            for atom, expr in self.followers.items():
                counts[atom] = evaluate(expr, counts, self.values)

    # -- the three remedies --------------------------------------------------------------------------------------

    def _settle_constants(self, equations: list[Equation]) -> None:
        """Freeze what must equal a constant, until no side becomes constant any more."""
        changed = True
        while changed:
            changed = False
            for e in equations:
                changed = self._settle_constant(e) or changed

    def _settle_constant(self, e: Equation) -> bool:
        left, right = self._free(e.left), self._free(e.right)
        if bool(left) == bool(right) or self._holds(e):
            return False
        self._freeze_atoms(self._sensitive(e.left if left else e.right), e.reason)
        return True

    def _sensitive(self, expr: Expression) -> list[Atom]:
        """The atoms that the value of ``expr`` really depends on: of ``width // heads``, where width is
        ``heads * depth``, the depth alone.
        """
        roots = list(dict.fromkeys(self._roots(expr)))
        found = [atom for atom in roots if self._depends(expr, atom)]
        return found or self._free(expr)

    def _depends(self, expr: Expression, atom: Atom) -> bool:
        for sample in self.samples:
            values = set()
            for n in {1, atom.size // 2 or 1, atom.size}:
                counts = {**sample, atom: n}
                for follower, follows in self.followers.items():
                    counts[follower] = evaluate(follows, counts, self.values)
                try:
                    values.add(evaluate(expr, counts, self.values))
                except ZeroDivisionError:
                    return True
            if len(values) > 1:
                return True
        return False

    def _freeze(self, e: Equation) -> None:
        self._freeze_atoms([*self._free(e.left), *self._free(e.right)], e.reason)

    def _balance(self, e: Equation) -> None:
        """Two products that nothing ties: freeze no more of their factors than it takes."""
        left, right = self._monomials().read(e.left), self._monomials().read(e.right)
        if left is None or right is None:
            return
        found = balance(left, right)
        if {*found.freeze} < {*left.atoms, *right.atoms}:
            self._freeze_atoms(list(found.freeze), e.reason)
            for atom, source in found.follow:
                if self._may_follow(atom, source):
                    self._let_follow(atom, source)

    def _monomials(self) -> Monomials:
        return Monomials(self.followers, lambda atom: self.space.reason(atom) is not None)

    def _freeze_atoms(self, found: list[Atom], reason: str) -> None:
        for atom in found:
            self.space.freeze(atom, reason)
            for counts in self.samples:
                counts[atom] = atom.size
            expr = self.followers.pop(atom, None)
            if expr is not None:
                self._freeze_atoms(self._free(expr), reason)
        self._refresh()

    def _follow(self, e: Equation) -> None:
        for this, other in ((e.left, e.right), (e.right, e.left)):
            atom = this.axis if isinstance(this, Count) else None
            source = self._monomials().divided(other)
            if isinstance(atom, Atom) and self._may_follow(atom, source):
                self._let_follow(atom, source)
                return

    def _may_follow(self, atom: Atom, expr: Expression) -> bool:
        if atom in self.followers or self.space.reason(atom) is not None or not _is_monotone(expr):
            return False
        seen, stack = set(), self._free(expr)
        while stack:
            x = stack.pop()
            if x not in seen:
                seen.add(x)
                stack += self._free(self.followers[x]) if x in self.followers else []
        return atom not in seen

    def _let_follow(self, atom: Atom, expr: Expression) -> None:
        source = expr.axis if isinstance(expr, Count) else None
        if isinstance(source, Atom) and self._is_rather_led(source, atom):
            atom, expr = source, Count(atom)
        pending = {**self.followers, atom: expr}
        self.followers = {}
        for follower in pending:
            self._place(follower, pending)
        self._refresh()

    def _is_rather_led(self, atom: Atom, by: Atom) -> bool:
        """Whether ``atom``, which no tensor holds, can follow one that a tensor does."""
        return self._is_held(by) and not self._is_held(atom) and self._may_follow(atom, Count(by))

    def _is_held(self, atom: Atom) -> bool:
        return self.held is None or atom in self.held

    def _place(self, atom: Atom, pending: Mapping[Atom, Expression]) -> None:
        """Append a follower after those that it reads itself."""
        if atom in pending and atom not in self.followers:
            for x in self._free(pending[atom]):
                self._place(x, pending)
            self.followers[atom] = pending[atom]

    def _pair(self, e: Equation) -> None:
        """Two products with factors of the same sizes: let each factor of one follow its like in the other."""
        left, right = (sorted(self._roots(side), key=lambda atom: atom.size) for side in (e.left, e.right))
        if [a.size for a in left] != [a.size for a in right]:
            return
        for a, b in zip(left, right, strict=True):
            if a is not b and self._may_follow(a, Count(b)):
                self._let_follow(a, Count(b))

    def _merge(self, e: Equation) -> None:
        """Pairs that don't do, because like sizes have unlike weights: let all atoms of one size have one count."""
        roots = list(dict.fromkeys([*self._roots(e.left), *self._roots(e.right)]))
        if sorted(a.size for a in self._roots(e.left)) != sorted(a.size for a in self._roots(e.right)):
            return
        first: dict[int, Atom] = {}
        for atom in roots:
            if first.setdefault(atom.size, atom) is not atom:
                self._let_follow(atom, Count(first[atom.size]))

    def _roots(self, expr: Expression) -> list[Atom]:
        return [r for a in self._free(expr) for r in (self._roots(self.followers[a]) if a in self.followers else [a])]


def _divides(expr: Expression) -> bool:
    if not isinstance(expr, Arithmetic):
        return False
    return expr.symbol in ("//", "%") or _divides(expr.left) or _divides(expr.right)


def _is_monotone(expr: Expression) -> bool:
    """Whether ``expr`` is at least one for all counts of at least one, and no larger than at full size."""
    if isinstance(expr, Arithmetic):
        return expr.symbol in "+*" and _is_monotone(expr.left) and _is_monotone(expr.right)
    return not isinstance(expr, int) or expr > 0
