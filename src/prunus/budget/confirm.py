"""A plan for latency is believed when its small model was timed: the estimate is corrected by what that shows."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from prunus.budget.limits import Limit
from prunus.errors import NothingToPrune, PlanError
from prunus.plan import Plan
from prunus.trace import Graph

_ROUNDS = 6
_LOW, _AIM, _HIGH = 0.95, 0.985, 1.02


def confirmed(make: Callable[[float], Plan], graph: Graph, limit: Limit, runtime: Any) -> Plan:
    """The plan that ``make(factor)`` gives, with the factor on the limit that the whole model's time asks for.

    The first correction takes the estimate's error to be a factor; from then on the whole times of two plans are known,
    between which a straight line in logarithms says what to ask for (the secant method). Dense and small are run in
    turn, so that a share is meant of the same minutes. Of several plans the one whose time is nearest below the limit
    is taken; ``how["latency"]`` tells the estimate, the times, the estimate's error and how many plans were timed.

    Warns:
        UserWarning: no plan held within 5 %: the runtime's time isn't what its layers add up to, or it is too noisy.
    """
    factor = 1.0
    found: list[tuple[float, Plan, dict[str, float]]] = []
    tried: list[tuple[float, float]] = []
    for _ in range(_ROUNDS):
        try:
            plan = make(factor)
        except (PlanError, NothingToPrune):
            if not found:
                raise
            break  # what was tried before is all there is
        dense, small = runtime.compare(graph.model, plan.apply(graph.model), graph.args, graph.kwargs)
        before, after = plan.how["costs"]["latency"]
        estimate = after * (dense / before if limit.share else 1.0)
        goal = limit.value * dense if limit.share else limit.value
        told = {"estimate_ms": estimate, "measured_ms": small, "dense_ms": dense, "limit_ms": goal}
        told["error"] = estimate / small - 1
        found.append((small / goal, plan, told))
        tried.append((estimate / goal, small / goal))
        if _LOW <= small / goal <= _HIGH:
            break
        factor = _next(tried)
    ratio, plan, told = min(found, key=lambda each: (each[0] > _HIGH, abs(1 - each[0])))
    if not _LOW <= ratio <= 1.05:
        warnings.warn(
            f"the plan takes {told['measured_ms']:.3f} ms where {told['limit_ms']:.3f} were asked for, the nearest of "
            f"{len(found)} tried: is the machine quiet? Ask for less, or measure with more repeats.",
            stacklevel=3,
        )
    how = {**plan.how, "latency": {**{name: round(value, 6) for name, value in told.items()}, "timed": len(found)}}
    return replace(plan, how=how)


def _next(tried: Sequence[tuple[float, float]]) -> float:
    """The estimate, over the limit, at which the time is a little below the limit.

    ``tried`` has pairs (estimate, time), both over the limit. The two whose times are nearest to it, one on each side
    where there are such, give the line; where they don't (a noisy machine), the last pair's factor is all there is.
    """
    estimate, time = tried[-1]
    near = sorted(tried, key=lambda pair: abs(math.log(pair[1] / _AIM)))
    below, above = ([pair for pair in near if (pair[1] < _AIM) == side] for side in (True, False))
    pair = (below[0], above[0]) if below and above else tuple(near[:2])
    if len(pair) == 2:
        (e0, t0), (e1, t1) = ((math.log(e), math.log(t)) for e, t in pair)
        slope = (e1 - e0) / (t1 - t0) if t1 != t0 else 0.0
        if 0.2 < slope < 5:
            return math.exp(e0 + slope * (math.log(_AIM) - t0))
    return _AIM * estimate / time
