"""From the sensitivity curves to a plan within a budget."""

from __future__ import annotations

import prunus
from prunus.demo.outcome import Choice
from prunus.errors import PlanError
from prunus.profile import Profile
from prunus.sensitivity import Sensitivity
from prunus.trace import Graph


def choose(graph: Graph, curves: Sensitivity, dense: Profile, max_parameters: float, max_macs: float) -> Choice:
    """The gentlest pruning table that meets both budgets: the one that tolerates the smallest drop of any group.

    Args:
        graph: of the dense model, as traced.
        curves: measured on it.
        dense: its profile, on the graph's example inputs.
        max_parameters, max_macs: parts of the dense model's that may be left.

    Raises:
        PlanError: even the deepest cuts measured don't meet the budget.
    """
    metric = next(iter(curves.baseline))
    for drop in sorted({max(0.0, curves.baseline[metric] - row.metrics[metric]) for row in curves.rows}):
        ratios = curves.table(drop)
        if not ratios:
            continue
        plan = prunus.plan(graph, ratio=ratios)
        small = prunus.profile(plan.apply(graph.model), graph.args, graph.kwargs, latency=False)
        if small.parameters <= max_parameters * dense.parameters and small.macs <= max_macs * dense.macs:
            return Choice(drop, ratios, plan)
    raise PlanError(
        f"no measured cut leaves at most {max_parameters:.0%} of the parameters and {max_macs:.0%} of the MACs: "
        "measure larger ratios, or allow more."
    )
