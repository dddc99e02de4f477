"""From a budget to counts: what may be chosen, whether the budget can be met, and the solver's answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunus.axes import Atom
from prunus.budget.costs import Cost, Costs
from prunus.budget.curves import Curve, importance_curves, sensitivity_curves
from prunus.budget.feasibility import Feasibility, feasible
from prunus.budget.limits import Limit, read
from prunus.budget.solver import Problem, solve
from prunus.errors import InputError
from prunus.importance import score
from prunus.limits import Least, Limits, Multiple
from prunus.selection import Scores, open_groups
from prunus.trace import Graph, Group, trace

_ROUNDINGS = 256

Points = Mapping[str, Sequence[tuple[float, float]]]
"""Group name -> (share removed, metric), the uncut model first."""


@dataclass(frozen=True)
class Request:
    """A budget with all that says how to meet it.

    Attributes:
        limits: at most so much of each unit.
        scope: ``"global"`` lets the solver share out the cut; ``"local"`` takes the same ratio from every group.
        keep: as in :func:`prunus.plan`.
        bounds: what counts may be.
        curves: measured sensitivity, in the place of importance.
        additive: of the scores, as in :class:`prunus.Importance`.
        emphasis: group name -> the logarithm of a factor on its curve; absent: 0.
        more: costs beyond those that the axes tell, by unit.
    """

    limits: tuple[Limit, ...]
    scope: str = "global"
    keep: Sequence[str] = ()
    bounds: Limits = field(default_factory=Limits)
    curves: Points | None = None
    additive: bool = False
    emphasis: Mapping[str, float] = field(default_factory=dict)
    more: Mapping[str, Cost] = field(default_factory=dict)


def counts_within(graph: Graph, scores: Scores, request: Request) -> tuple[dict[Atom, int], dict[str, Any]]:
    """How many indices of each group stay, followers included; each unit's ``costs`` [before, after].

    Raises:
        InputError: an unknown scope, or a unit without a cost.
        PlanError: the budget can't be met; the message has the feasibility table.
    """
    costs = Costs(graph, request.more)
    _check(request, costs)
    groups = _open(graph, scores, request)
    choices = request.bounds.choices(graph, groups)
    reach = _reach(costs, choices, request.limits)
    reach.check()
    limits = {row.unit: row.limit for row in reach.rows if row.limit is not None}
    curves = _curves(graph, groups, scores, request)
    for group in groups:
        curves[group.atom] = curves[group.atom] * math.exp(request.emphasis.get(group.name, 0.0))
    problem = Problem(costs, limits, choices, curves)
    counts = solve(problem) if request.scope == "global" else _same_ratio(problem)
    complete = graph.sizes.complete(counts)
    after = costs(counts)
    kept = {g.name: counts[g.atom] for g in groups if counts[g.atom] < g.size}
    told = {"costs": {row.unit: [row.now, after[row.unit]] for row in reach.rows}, "kept": kept}
    return {atom: n for atom, n in complete.items() if n < atom.size}, told


def shared_out(
    graph: Graph, scores: Scores, ratio: float, request: Request
) -> tuple[dict[Atom, int], dict[str, Any]] | None:
    """At most the MACs that this ratio of every group leaves, or the parameters where no MACs go, with the least loss.

    The ratio is taken as it is: of three heads it may leave one and a half, which is what a layer then costs on the
    average over both ways to round. ``request`` says how, but for its limits and its scope. None where neither goes.
    """
    costs = Costs(graph)
    groups = open_groups(graph, scores, request.keep)
    rows = _rounded(graph, groups, ratio, request.bounds)
    before, table = costs({}), costs.table(rows, _ROUNDINGS, ("macs", "parameters"))
    after = {unit: float(found.mean()) for unit, found in table.items()}
    unit = next((unit for unit in after if after[unit] < before[unit]), None)
    if unit is None:
        return None
    limit = Limit(unit, after[unit], share=False, text=f"{after[unit]:.0f}")
    return counts_within(graph, scores, replace(request, limits=(limit,), scope="global"))


def _rounded(graph: Graph, groups: Sequence[Group], ratio: float, bounds: Limits) -> dict[Atom, NDArray[np.int64]]:
    """The counts that the ratio leaves of each group, rounded up or down as often as makes the mean right."""
    exact = {g.atom: round(g.size * (1 - ratio), 9) for g in groups}
    down, up = (
        bounds.apply(graph, groups, {atom: int(to(n)) for atom, n in exact.items()}) for to in (math.floor, math.ceil)
    )
    draw = np.random.default_rng(0)
    ups = {atom: draw.permutation(_ROUNDINGS) < (n - math.floor(n)) * _ROUNDINGS for atom, n in exact.items()}
    return {atom: np.where(ups[atom], up[atom], down[atom]).astype(np.int64) for atom in exact}


def feasibility(
    graph_or_model: Any,
    args: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    budget: Mapping[str, str | int | float] | None = None,
    keep: Sequence[str] = (),
    min_keep: Least = 1,
    round_to: Multiple | None = None,
    runtime: Any = None,
) -> Feasibility:
    """The least and the most that each unit can be brought to; print it before asking for a budget.

    Args:
        graph_or_model, args, kwargs, keep, min_keep, round_to: as in :func:`prunus.plan`.
        budget: to be shown beside, with whether it can be met.
        runtime: adds latency, as in :func:`prunus.plan`.

    Raises:
        InputError: an argument is wrong.
    """
    graph = graph_or_model if isinstance(graph_or_model, Graph) else trace(graph_or_model, args, kwargs)
    bounds = Limits(min_keep, None, round_to)
    request = Request(read(budget) if budget else (), keep=keep, bounds=bounds, more=latency_cost(graph, runtime))
    costs = Costs(graph, request.more)
    _check(request, costs)
    return _reach(costs, bounds.choices(graph, _open(graph, score(graph, "random"), request)), request.limits)


def latency_cost(graph: Graph, runtime: Any) -> dict[str, Cost]:
    """The cost in milliseconds on ``runtime``, which offers ``cost(graph)``; none where there is no runtime."""
    if runtime is None:
        return {}
    if not callable(getattr(runtime, "cost", None)):
        raise InputError(f"runtime must be a prunus.Runtime or offer cost(graph), not {runtime!r}.")
    return {"latency": runtime.cost(graph)}


def _check(request: Request, costs: Costs) -> None:
    if request.scope not in ("local", "global"):
        raise InputError(f"with a budget, scope must be 'global' or 'local', not {request.scope!r}.")
    for limit in request.limits:
        if limit.unit not in costs.of:
            raise InputError(
                f"a budget of {limit.unit} needs to know where the model runs: give "
                "runtime=prunus.Runtime('onnx') (or 'torch', 'compile', 'cuda')."
            )


def _open(graph: Graph, scores: Scores, request: Request) -> list[Group]:
    known = [g for g in open_groups(graph, scores, request.keep) if g.size > 1]
    if request.curves is None:
        return known
    return [g for g in known if len(request.curves.get(g.name, ())) > 1]


def _reach(costs: Costs, choices: Mapping[Atom, Sequence[int]], limits: Sequence[Limit]) -> Feasibility:
    return feasible(costs({}), costs({atom: counts[0] for atom, counts in choices.items()}), limits)


def _curves(graph: Graph, groups: Sequence[Group], scores: Scores, request: Request) -> dict[Atom, Curve]:
    if request.curves is not None:
        return sensitivity_curves(groups, request.curves)
    followers = [g for g in graph.free if g.atom in graph.sizes.followers and g.atom in scores]
    own = importance_curves([*groups, *followers], scores, request.additive)
    return {g.atom: own[g.atom] + _followed(graph, g.atom, own) for g in groups}


def _followed(graph: Graph, atom: Atom, own: Mapping[Atom, Curve]) -> Curve:
    """What the groups lose that follow ``atom``, for each of its counts."""
    result = np.zeros(atom.size + 1)
    full = {g.atom: np.int64(g.size) for g in graph.groups}
    complete = graph.sizes.complete({**full, atom: np.arange(1, atom.size + 1)})  # type: ignore[dict-item]
    for follower in graph.sizes.followers:
        counts = complete[follower]
        if follower in own and isinstance(counts, np.ndarray):
            result[1:] += own[follower][counts]
    return result


def _same_ratio(problem: Problem) -> dict[Atom, int]:
    """The smallest ratio, the same for every group, that meets the limits."""
    ratios = np.linspace(0.0, 1.0, 2001)
    rows = {atom: _at(np.array(choices), atom.size, ratios) for atom, choices in problem.choices.items()}
    table = problem.costs.table(rows, len(ratios), list(problem.limits))
    meets = np.all([table[unit] <= limit for unit, limit in problem.limits.items()], axis=0)
    first = int(np.argmax(meets))
    return {atom: int(row[first]) for atom, row in rows.items()}


def _at(choices: NDArray[np.int64], size: int, ratios: NDArray[np.float64]) -> NDArray[np.int64]:
    wanted = size - np.floor(ratios * size).astype(np.int64)
    result: NDArray[np.int64] = choices[np.minimum(np.searchsorted(choices, wanted), len(choices) - 1)]
    return result
