"""The one solver for all budgets: how many indices of each group stay, so that the least is lost.

A knapsack whose weights interact (a layer's arithmetic is a product of two groups' counts). Steps are taken where a
unit of cost is bought for the least loss, always at the *exact* cost of the candidate at hand, along the lower hull of
each curve, which for separable costs is the Lagrangian optimum up to one step. Then what is left of the budget is given
back, pairs of steps are exchanged, and each group is tried a step wider at the cost of all others, as long as that
loses less.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prunus.axes import Atom
from prunus.budget.costs import Costs
from prunus.budget.curves import Curve

_GRID = 4000
_LEVELS = (12, 64)
_EXCHANGES = 200
_TRIALS = 12


@dataclass(frozen=True)
class Problem:
    """What to solve.

    Attributes:
        costs: the exact cost of any candidate, in every unit.
        limits: unit -> the most it may cost.
        choices: atom -> the counts it may have, ascending, the last its size.
        curves: atom -> its loss for every count.
    """

    costs: Costs
    limits: Mapping[str, float]
    choices: Mapping[Atom, Sequence[int]]
    curves: Mapping[Atom, Curve]


def solve(problem: Problem) -> dict[Atom, int]:
    """The counts that meet every limit with the least total loss found; all choices, the uncut ones too."""
    return _Search(problem).run()


class _Search:
    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.atoms = list(problem.choices)
        self.units = list(problem.limits)
        self.limits = np.array([problem.limits[unit] for unit in self.units], dtype=np.float64)
        self.now = np.array([problem.choices[atom][-1] for atom in self.atoms], dtype=np.int64)
        self.hulls = [self._hull(atom) for atom in self.atoms]

    def run(self) -> dict[Atom, int]:
        self._descend()
        self._give_back()
        self._exchange()
        self._reconsider()
        return dict(zip(self.atoms, self.now.tolist(), strict=True))

    # -- costs and losses ----------------------------------------------------------------------------------------

    def _cost(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """[candidates, units] of [candidates, atoms]."""
        columns = {atom: rows[:, i] for i, atom in enumerate(self.atoms)}
        table = self.problem.costs.table(columns, len(rows), self.units)
        return np.stack([table[unit].astype(np.float64) for unit in self.units], axis=1)

    def _loss(self, i: int, n: int) -> float:
        return float(self.problem.curves[self.atoms[i]][n])

    def _hull(self, atom: Atom) -> list[int]:
        """The counts on the lower convex hull of the curve, descending, thinned to a few dozen."""
        choices, curve = self.problem.choices[atom], self.problem.curves[atom]
        most = min(max(_GRID // max(len(self.problem.choices), 1), _LEVELS[0]), _LEVELS[1])
        picked = np.unique(np.linspace(0, len(choices) - 1, min(most, len(choices))).round().astype(int))
        hull: list[int] = []
        for n in (choices[i] for i in picked[::-1]):
            while len(hull) > 1 and _bends_up(hull[-2], hull[-1], n, curve):
                hull.pop()
            hull.append(n)
        return hull

    # -- the three phases ----------------------------------------------------------------------------------------

    def _descend(self, spared: int | None = None) -> None:
        """Step down where the unmet units are bought at the least loss, until they are met; ``spared`` stays."""
        cost = self._cost(self.now[None])[0]
        while (cost > self.limits).any():
            below = {i: self._next(i) for i in range(len(self.atoms)) if i != spared}
            open_ = [i for i, n in below.items() if n is not None]
            if not open_:
                return
            lower = np.array([below[i] for i in open_])
            rows = np.repeat(self.now[None], len(open_), axis=0)
            rows[np.arange(len(open_)), open_] = lower
            saved = self._worth(cost, cost - self._cost(rows))
            lost = [self._loss(i, n) - self._loss(i, int(self.now[i])) for i, n in zip(open_, lower, strict=True)]
            best = np.argsort(np.array(lost) / np.maximum(saved, 1e-300), kind="stable")
            share = saved[best[0]]
            many = max(1, len(open_) // 16) if share < 0.02 else 1
            self.now[[open_[k] for k in best[:many]]] = lower[best[:many]]
            cost = self._cost(self.now[None])[0]

    def _worth(self, cost: NDArray[np.float64], saved: NDArray[np.float64]) -> NDArray[np.float64]:
        """What each saving is worth, as a share of what has still to go of each unit; met ones don't count."""
        need = cost - self.limits
        weights = np.where(need > 0, 1.0 / np.maximum(need, 1e-300), 0.0)
        result: NDArray[np.float64] = saved @ weights
        return result

    def _give_back(self) -> None:
        """Raise counts by single choices while the budget still holds, the most loss per cost first."""
        while True:
            up = [(i, n) for i, n in enumerate(map(self._above, range(len(self.atoms)))) if n is not None]
            if not up:
                return
            rows = self._moved(up)
            cost, base = self._cost(rows), self._cost(self.now[None])
            fits = (cost <= self.limits).all(axis=1)
            if not fits.any():
                return
            gain = np.array([self._loss(i, int(self.now[i])) - self._loss(i, n) for i, n in up])
            price = ((cost - base) / np.maximum(self.limits, 1e-300)).max(axis=1)
            worth = np.where(fits, gain / np.maximum(price, 1e-12), -np.inf)
            self.now = rows[int(np.argmax(worth))]

    def _exchange(self) -> None:
        """One group a choice up, another one down, as long as the budget holds and less is lost."""
        for _ in range(_EXCHANGES):
            up = [(i, n) for i, n in enumerate(map(self._above, range(len(self.atoms)))) if n is not None]
            down = [(j, n) for j, n in enumerate(map(self._below, range(len(self.atoms)))) if n is not None]
            if not up or not down:
                return
            gain = np.array([self._loss(i, int(self.now[i])) - self._loss(i, n) for i, n in up])
            loss = np.array([self._loss(j, n) - self._loss(j, int(self.now[j])) for j, n in down])
            net = gain[:, None] - loss[None, :]
            order = np.argsort(-net, axis=None)[:256]
            pairs = [(up[k // len(down)], down[k % len(down)]) for k in order if net.flat[k] > 1e-12]
            pairs = [(a, b) for a, b in pairs if a[0] != b[0]]
            if not pairs:
                return
            rows = np.repeat(self.now[None], len(pairs), axis=0)
            for row, ((i, more), (j, less)) in zip(rows, pairs, strict=True):
                row[i], row[j] = more, less
            fits = (self._cost(rows) <= self.limits).all(axis=1)
            if not fits.any():
                return
            self.now = rows[int(np.argmax(fits))]
            self._give_back()

    def _reconsider(self) -> None:
        """A group whose steps are coarse may be better a step wider, with all others cut deeper."""
        for _ in range(_TRIALS):
            up = [(i, n) for i, n in enumerate(map(self._above, range(len(self.atoms)))) if n is not None]
            up.sort(key=lambda move: self._loss(*move) - self._loss(move[0], int(self.now[move[0]])))
            if not any(self._widened(i, n) for i, n in up[:_TRIALS]):
                return

    def _widened(self, i: int, n: int) -> bool:
        """Give group ``i`` the count ``n`` and cut the others to fit; undone unless clearly less is lost."""
        before, loss = self.now.copy(), self._total()
        self.now[i] = n
        self._descend(spared=i)
        self._give_back()
        if self._total() < loss * (1 - 1e-3) and (self._cost(self.now[None]) <= self.limits).all():
            return True
        self.now = before
        return False

    def _total(self) -> float:
        return sum(self._loss(i, int(n)) for i, n in enumerate(self.now))

    # -- moves ---------------------------------------------------------------------------------------------------

    def _moved(self, moves: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
        rows = np.repeat(self.now[None], len(moves), axis=0)
        for row, (i, n) in zip(rows, moves, strict=True):
            row[i] = n
        return rows

    def _next(self, i: int) -> int | None:
        """The next count down on the hull."""
        return next((n for n in self.hulls[i] if n < self.now[i]), None)

    def _above(self, i: int) -> int | None:
        choices = self.problem.choices[self.atoms[i]]
        place = bisect_right(choices, int(self.now[i]))
        return choices[place] if place < len(choices) else None

    def _below(self, i: int) -> int | None:
        choices = self.problem.choices[self.atoms[i]]
        place = bisect_left(choices, int(self.now[i]))
        return choices[place - 1] if place else None


def _bends_up(a: int, b: int, c: int, curve: Curve) -> bool:
    """Whether the point at ``b`` lies above the line from ``a`` down to ``c``."""
    return bool((curve[b] - curve[a]) * (a - c) > (curve[c] - curve[a]) * (a - b) + 1e-12)
