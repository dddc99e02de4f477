"""What a plan saves, as tables of text: by unit, by group, and what is frozen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prunus.columns import aligned
from prunus.errors import PlanError

_TITLES = {
    "parameters": "parameters",
    "macs": "MACs",
    "bytes": "bytes",
    "activation_memory": "activation memory (bytes)",
}


def told(explained: Mapping[str, Any]) -> list[str]:
    """The lines of ``how["explained"]``, as :func:`prunus.budget.explained` made it.

    Raises:
        PlanError: a file has something else there.
    """
    try:
        costs = explained["costs"]
        groups = [_group(name, row, costs) for name, row in explained["groups"].items()]
        frozen = [_reason(reason, row, costs) for reason, row in explained["frozen"].items()]
        units = [_unit(unit, *pair) for unit, pair in costs.items()]
        fixed = " and ".join(
            f"{_share(n, costs[unit][0])} of the {_TITLES[unit]}"
            for unit, n in zip(("parameters", "macs"), explained["fixed"], strict=True)
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PlanError(f"what the plan tells of its savings is malformed: {error!r}") from error
    lines = [*aligned([("cost", "before", "after", "left"), *units], 1), ""]
    lines += aligned([("group", "size", "kept", *(f"{_TITLES[u].split(' (')[0]} saved" for u in costs)), *groups], 1)
    lines += ["(each by its cut alone, in shares of the whole)"] if groups else []
    if frozen:
        lines += ["", *aligned([("frozen because", "groups", "parameters", "MACs through them"), *frozen], 1)]
        lines.append(f"{fixed} can't be made smaller at all.")
    return lines


def _unit(unit: str, before: int, after: int) -> tuple[str, ...]:
    return _TITLES[unit], f"{before:,}", f"{after:,}", _share(after, before)


def _group(name: str, row: Sequence[Any], costs: Mapping[str, Any]) -> tuple[str, ...]:
    size, kept, saved = row
    return name, f"{size:,}", f"{kept:,}", *(_share(saved[unit], costs[unit][0]) for unit in costs)


def _reason(reason: str, row: Sequence[Any], costs: Mapping[str, Any]) -> tuple[str, ...]:
    groups, parameters, macs = row
    shares = (_share(n, costs[unit][0]) for unit, n in (("parameters", parameters), ("macs", macs)))
    return reason, f"{groups:,}", *shares


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"
