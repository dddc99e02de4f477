"""Cut one model, and judge the result."""

from __future__ import annotations

import time
from dataclasses import dataclass

import prunus
from benchmarks.zoo.case import Case

TOLERANCE = 1e-9


@dataclass(frozen=True)
class Outcome:
    """What came of one model: ``left`` is the part of the parameters that stays, ``error`` relative in fp64."""

    zoo: str
    name: str
    seconds: float = 0.0
    left: float = 1.0
    error: float = float("inf")
    why: str = ""

    @property
    def ok(self) -> bool:
        return self.error <= TOLERANCE

    def __str__(self) -> str:
        figures = f"left {self.left:.3f}  error {self.error:.1e}  {self.seconds:.2f} s"
        return f"{self.zoo:<12} {self.name:<32} {figures}  {self.why}"


def check(case: Case) -> Outcome:
    """Halve everything that is free in one model, and prove the result."""
    example = case.make()
    model, args, kwargs = example.model, example.args, example.kwargs
    start = time.perf_counter()
    try:
        graph = prunus.trace(model, args, kwargs)
        plan = prunus.plan(graph, ratio=0.5, importance="random")
        small = plan.apply(model)
        seconds = time.perf_counter() - start
        proof = prunus.prove(model, small, plan, args, kwargs)
    except (prunus.PrunusError, RuntimeError) as error:
        return Outcome(case.zoo, case.name, why=f"{type(error).__name__}: {error}")
    before, after = (sum(p.numel() for p in m.parameters()) for m in (model, small))
    left = after / before
    error = float("inf") if proof.leaks or proof.vacuous else proof.max_rel_error
    return Outcome(case.zoo, case.name, seconds, left, error, _why(graph, left))


def _why(graph: prunus.Graph, left: float) -> str:
    """Where less than half goes: what holds most of the parameters that could not be cut."""
    if left <= 0.5:
        return ""
    reasons: dict[str, int] = {}
    for group in graph.groups:
        if group.frozen and not group.frozen.startswith(("a model", "a convolution's")):
            reasons[group.frozen] = reasons.get(group.frozen, 0) + group.size * len(group.members)
    return max(reasons, key=lambda r: reasons[r]) if reasons else ""
