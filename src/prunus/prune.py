"""Trace, plan, apply and prove in one call."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from prunus.budget import Asked, Points
from prunus.compensation import compensate, rotate
from prunus.errors import InputError, PlanError
from prunus.importance import Criterion, Importance, Loss, cross_entropy
from prunus.limits import Least, Multiple
from prunus.planning import plan
from prunus.prove import prove
from prunus.trace import trace


def prune(
    model: nn.Module,
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    *,
    ratio: float | Mapping[str, float] | None = None,
    budget: Asked | None = None,
    curves: Points | None = None,
    runtime: Any = None,
    importance: str | Criterion | Importance | None = None,
    scope: str | None = None,
    keep: Sequence[str] = (),
    min_keep: Least = 1,
    max_keep: Least | None = None,
    round_to: Multiple | None = None,
    uniform: bool = False,
    data: Iterable[Any] | None = None,
    loss: Loss = cross_entropy,
    compensation: str | None = "refit",
) -> nn.Module:
    """Return a really smaller copy of ``model``, proven to compute what the masked original computes.

    Takes the arguments of :func:`prunus.plan`. Model inputs and outputs keep their sizes; at least one index of every
    group stays. The result carries its :class:`Plan` as ``prunus_plan``. A model on the meta device has no values to
    compare and isn't proven.

    Args:
        data: batches of the model's inputs, a ``DataLoader`` or a list; 1,000 to 2,000 examples are plenty. With them
            what goes is chosen by what the rest can't make up for, and the small model is mended after its proof,
            without training: see :func:`prunus.compensate`. Where linear maps alone meet, as in attention, what goes is
            first made to matter least: see :func:`prunus.rotate`; the plan's indices then count the turned axes.
        compensation: how it is mended: ``"refit"``, ``"scale"``, ``"bias"``, or None.

    Raises:
        InputError, TraceError, NothingToPrune: as :func:`prunus.trace` and :func:`prunus.plan` do.
        PlanError: the proof failed: please report it, with the model.

    Warns:
        UserWarning: the model's output is zero everywhere, so that there was nothing to prove.
    """
    if data is not None and any(p.is_meta for p in model.parameters()):
        raise InputError("a model on the meta device has no values to mend: load its weights first, or give no data.")
    graph = trace(model, args, kwargs)
    if data is not None and compensation == "refit" and importance in (None, "auto"):
        found = rotate(graph, data)
        model, graph = found.model, found.graph
    made = plan(
        graph,
        ratio=ratio,
        budget=budget,
        curves=curves,
        runtime=runtime,
        importance=importance,
        scope=scope,
        keep=keep,
        min_keep=min_keep,
        max_keep=max_keep,
        round_to=round_to,
        uniform=uniform,
        data=data,
        loss=loss,
    )
    small = made.apply(model)
    if not any(p.is_meta for p in model.parameters()):
        proof = prove(model, small, made, args, kwargs)
        if proof.vacuous:
            warnings.warn(f"{type(model).__name__} could not be checked: {proof}", stacklevel=2)
        elif not proof.ok:
            raise PlanError(
                f"the small {type(model).__name__} failed its proof ({proof}). This is a bug of prunus: nothing is "
                "returned; please report the model."
            )
    if data is not None and compensation is not None:
        compensate(model, small, made, data, args, kwargs, method=compensation)
    return small
