"""Budgets: costs predicted from the axes, a feasibility table, and one solver for every unit."""

from prunus.budget.confirm import confirmed
from prunus.budget.costs import UNITS, Cost, Costs
from prunus.budget.decide import Points, Request, counts_within, feasibility, latency_cost, shared_out
from prunus.budget.explained import explained
from prunus.budget.feasibility import Feasibility, Reach
from prunus.budget.limits import Asked, Limit, read, show

__all__ = [
    "UNITS",
    "Asked",
    "Cost",
    "Costs",
    "Feasibility",
    "Limit",
    "Points",
    "Reach",
    "Request",
    "confirmed",
    "counts_within",
    "explained",
    "feasibility",
    "latency_cost",
    "read",
    "shared_out",
    "show",
]
