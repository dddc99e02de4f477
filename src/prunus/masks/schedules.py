"""How sparsity grows while a model trains: curves over time, and the hook that follows one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from prunus.errors import InputError, suggest
from prunus.masks.remembering import Remembering
from prunus.masks.sparsifier import Sparsifier

Curve = Callable[[float, float, float], float]
"""``curve(t, first, last) -> sparsity`` at time t, 0 at the first pruning and 1 at the last."""


def one_shot(t: float, first: float, last: float) -> float:
    """Everything at once, at the start."""
    return last


def linear(t: float, first: float, last: float) -> float:
    """The same amount each time."""
    return first + (last - first) * t


def cubic(t: float, first: float, last: float) -> float:
    """Fast first, slow at last: AGP (Zhu, Gupta, To prune, or not to prune, 2017, eq. 1)."""
    return last + (first - last) * (1 - t) ** 3


def exponential(t: float, first: float, last: float) -> float:
    """What is left shrinks by the same factor each time."""
    left: float = (1 - first) ** (1 - t) * (1 - last) ** t
    return 1 - left


def one_cycle(t: float, first: float, last: float) -> float:
    """Slow, fast, slow: Hubens et al., One-Cycle Pruning (2021), eq. 2, with its alpha 14 and beta 5."""
    return first + (last - first) * (1 + math.exp(-14 + 5)) / (1 + math.exp(-14 * t + 5))


def iterative(rounds: int) -> Curve:
    """The exponential curve in ``rounds`` stairs, the first at once, the last at the end (Frankle, Carbin, 2019).

    Raises:
        InputError: fewer than one round.
    """
    if rounds < 1:
        raise InputError(f"iterative pruning takes at least 1 round, got {rounds}.")

    def stairs(t: float, first: float, last: float) -> float:
        done = rounds if t >= 1 else 1 + math.floor(t * max(rounds - 1, 1) + 1e-9)
        return exponential(min(done, rounds) / rounds, first, last)

    return stairs


CURVES: Mapping[str, Curve] = {
    "one_shot": one_shot,
    "linear": linear,
    "cubic": cubic,
    "exponential": exponential,
    "one_cycle": one_cycle,
}


@dataclass(frozen=True)
class Timeline:
    """When to prune, in finished steps or epochs, and to what sparsity.

    Raises:
        InputError: counts out of order, a sparsity out of range, or an unknown curve.
    """

    first: float
    last: float
    begin: int
    end: int
    every: int = 1
    curve: str | Curve = "cubic"

    def __post_init__(self) -> None:
        if not 0 <= self.begin <= self.end or self.every < 1:
            raise InputError(
                f"begin={self.begin}, end={self.end}, every={self.every}: needed are 0 <= begin <= end and every >= 1."
            )
        if not 0 <= self.last < 1:
            raise InputError(f"a sparsity must be at least 0 and less than 1, got {self.last}.")
        if not callable(self.curve) and self.curve not in CURVES:
            raise InputError(
                f"there is no curve {self.curve!r}.{suggest(self.curve, CURVES)} Known: {', '.join(CURVES)}."
            )

    def due(self, count: int) -> bool:
        """Whether to prune after so many steps."""
        return self.begin <= count <= self.end and ((count - self.begin) % self.every == 0 or count == self.end)

    def sparsity(self, count: int) -> float:
        """The sparsity planned after so many steps."""
        if count < self.begin:
            return self.first
        if count >= self.end:
            return self.last
        curve = self.curve if callable(self.curve) else CURVES[self.curve]
        return curve((count - self.begin) / (self.end - self.begin), self.first, self.last)


class Gradual(Remembering):
    """Prunes while the model trains: a hook for ``train.fit``; or call its methods in a loop of one's own.

    Args:
        sparse: whose masks grow. Masked weights are held at zero after every step.
        sparsity: the share to reach.
        end: the count of finished steps (or epochs) after which the last pruning is done, reaching ``sparsity``.
        begin: that of the first; 0 prunes when the schedule is made.
        every: prune each so many steps (or epochs) between the two.
        by: "step" or "epoch".
        curve: "one_shot", "linear", "cubic", "exponential", "one_cycle", ``iterative(rounds)``, or a function
            ``curve(t, first, last) -> sparsity``.
        initial: the sparsity at the curve's start; by default what is masked already.
        how: everything else that ``Sparsifier.prune`` takes: importance, granularity, scope, data, loss.

    Raises:
        InputError: an unknown curve or unit of time, or counts out of order.
    """

    REMEMBERS = ("count",)

    def __init__(
        self,
        sparse: Sparsifier,
        sparsity: float,
        *,
        end: int,
        begin: int = 0,
        every: int = 1,
        by: str = "step",
        curve: str | Curve = "cubic",
        initial: float | None = None,
        **how: Any,
    ) -> None:
        self.sparse, self.how, self.by, self.count = sparse, how, check_unit(by), 0
        first = sparse.sparsity if initial is None else initial
        self.timeline = Timeline(first, sparsity, begin, end, every, curve)
        self._prune()

    def before_step(self) -> None:
        """Nothing to do before the optimizer's step."""

    def after_step(self) -> None:
        """Hold the zeros; prune on, if it goes by steps."""
        self.sparse.enforce()
        if self.by == "step":
            self._advance()

    def epoch_end(self) -> None:
        """Prune on, if it goes by epochs."""
        if self.by == "epoch":
            self._advance()

    def _advance(self) -> None:
        self.count += 1
        self._prune()

    def _prune(self) -> None:
        if self.timeline.due(self.count):
            self.sparse.prune(self.timeline.sparsity(self.count), strict=False, **self.how)


def check_unit(by: str) -> str:
    """``by``, if it is "step" or "epoch"; else an InputError."""
    if by not in ("step", "epoch"):
        raise InputError(f"a schedule goes by 'step' or by 'epoch', not {by!r}.")
    return by
