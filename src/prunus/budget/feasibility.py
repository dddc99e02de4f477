"""What can be reached in each unit, before anything is decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prunus.budget.limits import Limit, show
from prunus.columns import aligned
from prunus.errors import PlanError


@dataclass(frozen=True)
class Reach:
    """One unit: what the model costs ``now`` (nothing cut) and the ``least`` it can be cut to."""

    unit: str
    now: float
    least: float
    limit: float | None = None

    @property
    def ok(self) -> bool:
        """Whether the limit can be reached, if there is one."""
        return self.limit is None or self.least <= self.limit


@dataclass(frozen=True)
class Feasibility:
    """The least and the most of every unit; ``least`` is with one index, or one step of ``round_to``, of each group."""

    rows: tuple[Reach, ...]

    @property
    def ok(self) -> bool:
        """Whether every limit can be reached."""
        return all(row.ok for row in self.rows)

    def __str__(self) -> str:
        header = ("unit", "now (most)", "least", "least/now", "asked")
        return "\n".join(aligned([header, *map(_cells, self.rows)], 1))

    def check(self) -> None:
        """Raise PlanError with the whole table unless every limit can be reached."""
        if self.ok:
            return
        missed = ", ".join(row.unit for row in self.rows if not row.ok)
        raise PlanError(
            f"the budget can't be met: too little is free to be cut for {missed}.\n{self}\n"
            "Allow more, keep less, or see print(prunus.trace(...)) for what is frozen and why."
        )


def feasible(now: Mapping[str, float], least: Mapping[str, float], limits: Sequence[Limit] = ()) -> Feasibility:
    """The table, in the order of ``now``."""
    asked = {limit.unit: limit.of(now[limit.unit]) for limit in limits}
    return Feasibility(tuple(Reach(unit, now[unit], least[unit], asked.get(unit)) for unit in now))


def _cells(row: Reach) -> tuple[str, ...]:
    asked = "" if row.limit is None else show(row.unit, row.limit) + ("" if row.ok else "  can't be reached")
    return row.unit, show(row.unit, row.now), show(row.unit, row.least), f"{row.least / max(row.now, 1e-12):.1%}", asked
