"""Train once, end small: redundant structures are forgotten during training, and cut at its end without a loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prunus.errors import InputError, NothingToPrune
from prunus.importance import Criterion
from prunus.plan import Plan
from prunus.planning import plan
from prunus.selection import check_ratio
from prunus.trace import Graph
from prunus.train.regularizers.removal import Removal


class HESSO:
    """Progressive forgetting to an exact structural sparsity: after T. Chen et al., HESSO (2024), and OTO (2021-2023).

    Training starts as usual. In each of ``periods`` periods the lowest scores join what is redundant, up to the share
    that is due, and in the ``length`` steps of the period the newly redundant shrink linearly to exactly zero (by
    ``(T - t) / (T - t + 1)`` in step *t* of *T*); what is zero is held there while the rest trains on. At the end
    ``hook.plan.apply(model)`` is the small model: it computes what the trained one does. Scores are those of
    :func:`prunus.plan` (the paper mixes five), over whole axis groups.

    Args:
        graph: what :func:`prunus.trace` returned for the model that trains.
        ratio: the share of each group's indices that goes in the end (``scope="global"``: of all together).
        begin: steps before the first period.
        length: steps of a period.
        periods: how many.
        importance, scope, keep, round_to: as for :func:`prunus.plan`.

    Raises:
        InputError: a number is out of range.
        NothingToPrune: the ratio removes nothing.
    """

    def __init__(
        self,
        graph: Graph,
        ratio: float,
        *,
        begin: int,
        length: int,
        periods: int = 5,
        importance: str | Criterion = "l2",
        scope: str = "local",
        keep: Sequence[str] = (),
        round_to: int | None = None,
    ) -> None:
        if begin < 0 or length < 1 or periods < 1:
            raise InputError(
                f"needed are begin >= 0, length >= 1, periods >= 1; got begin={begin}, length={length}, "
                f"periods={periods}."
            )
        self.graph, self.ratio, self.begin, self.length, self.periods = (
            graph,
            check_ratio(ratio),
            begin,
            length,
            periods,
        )
        self.how = {"importance": importance, "scope": scope, "keep": keep, "round_to": round_to}
        self.count = 0
        self._plan(ratio)  # says at once if nothing can go
        self.going: Removal | None = None
        self.held: Removal | None = None

    @property
    def done(self) -> bool:
        """Whether all that is to go is zero."""
        return self.count >= self.begin + self.periods * self.length

    @property
    def plan(self) -> Plan:
        """What is zero now, to be cut.

        Raises:
            InputError: a period is still to come, or under way.
        """
        if not self.done or self.held is None:
            end = self.begin + self.periods * self.length
            raise InputError(f"only {self.count} steps were made, but forgetting takes {end}: train longer.")
        return self.held.plan

    def before_step(self) -> None:
        """Choose, where a period begins."""
        period, at = divmod(self.count - self.begin, self.length)
        if 0 <= period < self.periods and at == 0:
            self.going = self._removal(
                self.ratio if period + 1 == self.periods else self.ratio * (period + 1) / self.periods
            )

    def after_step(self) -> None:
        """Shrink what goes; hold what is gone."""
        if self.going is not None:
            left = self.length - 1 - (self.count - self.begin) % self.length
            self.going.shrink(left / (left + 1))
            if left == 0:
                self.held, self.going = self.going, None
        if self.held is not None:
            self.held.shrink(0)
        self.count += 1

    def epoch_end(self) -> None:
        """Nothing to do between epochs."""

    def state_dict(self) -> dict[str, Any]:
        """The steps made, and what goes and what is gone."""
        plans = {"going": self.going, "held": self.held}
        return {"count": self.count, **{name: r.plan.to_json() if r is not None else None for name, r in plans.items()}}

    def load_state_dict(self, state: Any) -> None:
        """Take what ``state_dict`` gave."""
        self.count = state["count"]
        self.going, self.held = (
            Removal(self.graph.model, Plan.from_json(state[name])) if state[name] is not None else None
            for name in ("going", "held")
        )

    def _plan(self, ratio: float) -> Plan:
        return plan(self.graph, ratio=ratio, **self.how)  # type: ignore[arg-type]

    def _removal(self, ratio: float) -> Removal | None:
        """What goes at that share; nothing, where it is too small to take an index of any group."""
        try:
            return Removal(self.graph.model, self._plan(ratio))
        except NothingToPrune:
            return None
