"""A plan for latency is believed when its small model was timed: the estimate is corrected by what that shows."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from prunus.budget.limits import Limit
from prunus.plan import Plan
from prunus.trace import Graph

_ROUNDS = 4
_LOW, _HIGH = 0.95, 1.02


def confirmed(make: Callable[[float], Plan], graph: Graph, limit: Limit, runtime: Any) -> Plan:
    """The plan that ``make(factor)`` gives, with the factor on the limit that the whole model's time asks for.

    Dense and small are run in turn, so that a share is meant of the same minutes. Of several plans the one whose time
    is nearest below the limit is taken; ``how["latency"]`` tells the estimate, the times and the estimate's error.

    Warns:
        UserWarning: no plan held within 5 %: the runtime's time isn't what its layers add up to, or it is too noisy.
    """
    factor, found = 1.0, []
    for _ in range(_ROUNDS):
        plan = make(factor)
        dense, small = runtime.compare(graph.model, plan.apply(graph.model), graph.args, graph.kwargs)
        before, after = plan.how["costs"]["latency"]
        estimate = after * (dense / before if limit.share else 1.0)
        goal = limit.value * dense if limit.share else limit.value
        told = {"estimate_ms": estimate, "measured_ms": small, "dense_ms": dense, "limit_ms": goal}
        told["error"] = estimate / small - 1
        found.append((small / goal, plan, told))
        if _LOW <= small / goal <= _HIGH:
            break
        factor = estimate / small
    ratio, plan, told = min(found, key=lambda each: (each[0] > _HIGH, abs(1 - each[0])))
    if ratio > 1.05:
        warnings.warn(
            f"the plan takes {told['measured_ms']:.3f} ms where {told['limit_ms']:.3f} were asked for, the nearest of "
            f"{len(found)} tried: is the machine quiet? Ask for less, or measure with more repeats.",
            stacklevel=3,
        )
    how = {**plan.how, "latency": {name: round(value, 6) for name, value in told.items()}}
    return replace(plan, how=how)
