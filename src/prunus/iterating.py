"""Pruning in steps with recovery between: what a single cut loses, several small ones may keep."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from prunus.budget import Asked, Costs, read
from prunus.deploy.folder import replacing
from prunus.deploy.saving import load, save
from prunus.errors import InputError
from prunus.prune import prune
from prunus.trace import trace

Recover = Callable[[nn.Module], Any]


@dataclass(frozen=True)
class Step:
    """One step: the parts of the first model's costs that it was to leave, and the score after recovery, if any."""

    number: int
    shares: Mapping[str, float]
    score: float | None


@dataclass(frozen=True)
class Iteration:
    """The steps in order, and the last small model, which carries the whole Plan as ``prunus_plan``."""

    model: nn.Module
    steps: tuple[Step, ...]


def iterate(
    model: nn.Module,
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    *,
    budget: Asked,
    steps: int,
    recover: Recover,
    evaluate: Callable[[nn.Module], float] | None = None,
    folder: str | os.PathLike[str] | None = None,
    on_step: Callable[[Step], None] | None = None,
    **rest: Any,
) -> Iteration:
    """Cut ``model`` to a budget in ``steps`` cuts, each leaving the same part of what the one before it left.

    After step *i* of *n* a unit stands at ``share ** (i / n)`` of the first model's cost (S. Han et al., "Learning both
    Weights and Connections", 2015, for the way; the geometric schedule is ours). The given model stays as it is.

    Args:
        budget: parameters, macs, bytes or activation memory, as in :func:`prunus.plan`.
        recover: trains the small network it is given, in place, or returns another of the same shapes; called after
            each cut. Make a new optimizer there.
        evaluate: a score to keep with each step.
        folder: where each finished step is saved, whole or not at all. The same call goes on after the last one that
            is there; a step that a kill interrupted is done again from its start.
        on_step: called after each step.
        rest: other arguments of :func:`prunus.prune`.

    Raises:
        InputError: fewer than one step, a budget of latency, or a folder of another model or budget.
        PlanError: the budget can't be met.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InputError(f"steps must be a whole number from 1, not {steps!r}.")
    limits = read(budget)
    if any(limit.unit == "latency" for limit in limits):
        raise InputError("iterate takes no budget of latency: cut to the MACs that a plan for latency comes to.")
    dense = Costs(trace(model, args, kwargs))({})
    shares = {limit.unit: min(limit.of(dense[limit.unit]) / dense[limit.unit], 1.0) for limit in limits}
    place = None if folder is None else _Folder(Path(folder), {"shares": shares, "steps": steps, "dense": dense})
    small, done = place.newest(model) if place is not None else (model, [])
    for number in range(len(done) + 1, steps + 1):
        goal = {unit: share ** (number / steps) for unit, share in shares.items()}
        amounts: Asked = {unit: math.floor(part * dense[unit]) for unit, part in goal.items()}
        small = prune(small, args, kwargs, budget=amounts, **rest)
        plan = small.__dict__["prunus_plan"]
        found = recover(small)
        if isinstance(found, nn.Module):
            small = found
            small.__dict__.setdefault("prunus_plan", plan)
        step = Step(number, goal, None if evaluate is None else float(evaluate(small)))
        done.append(step)
        if place is not None:
            place.save(small, done)
        if on_step is not None:
            on_step(step)
    return Iteration(small, tuple(done))


class _Folder:
    """``step-3/`` for each finished step, with the model as :func:`prunus.save` writes it and the steps so far."""

    def __init__(self, folder: Path, what: Mapping[str, Any]) -> None:
        self.folder, self.what = folder, json.loads(json.dumps(what))

    def newest(self, model: nn.Module) -> tuple[nn.Module, list[Step]]:
        """The last finished step's model and all steps; ``model`` itself where there is none."""
        found = sorted(self.folder.glob("step-*/steps.json"), key=lambda path: int(path.parent.name[5:]))
        if not found:
            return model, []
        document = json.loads(found[-1].read_text(encoding="utf-8"))
        if document["what"] != self.what:
            raise InputError(f"{self.folder} holds steps of another model, budget or number: give another folder.")
        small = load(found[-1].parent / "model", lambda: model)
        return small, [Step(**step) for step in document["steps"]]

    def save(self, small: nn.Module, steps: list[Step]) -> None:
        """Put the step in place by one rename."""
        document = {"what": self.what, "steps": [asdict(step) for step in steps]}
        with replacing(self.folder / f"step-{len(steps)}", overwrite=False) as new:
            save(small, new / "model")
            (new / "steps.json").write_text(json.dumps(document), encoding="utf-8")
