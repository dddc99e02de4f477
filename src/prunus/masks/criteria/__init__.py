"""How much each weight matters. A criterion is a function from a :class:`Task` to a score for each weight.

What scores lowest goes first. A new one takes a few lines, and is passed as it is or given a name in ``CRITERIA``::

    def drift(task):
        "Weights that training moved least go first (Zhou et al., Deconstructing Lottery Tickets, 2019)."
        return {name: (weight - start[name]).detach().abs() for name, weight in task.weights.items()}

    start = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    ...  # training
    sparse = prunus.Sparsifier(model).prune(0.8, drift)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from prunus.errors import InputError, suggest
from prunus.masks.criteria.calibrated import obs, wanda
from prunus.masks.criteria.gradients import gradient, grasp, movement, snip, synflow
from prunus.masks.criteria.simple import lamp, magnitude, random, sensitivity
from prunus.masks.criteria.task import Loss, Task, cross_entropy
from prunus.masks.units import SUM

Criterion = Callable[[Task], Mapping[str, Tensor]]

CRITERIA: Mapping[str, Criterion] = {
    "random": random,
    "l1": magnitude,
    "l2": magnitude,
    "linf": magnitude,
    "sensitivity": sensitivity,
    "lamp": lamp,
    "gradient": gradient,
    "snip": snip,
    "movement": movement,
    "grasp": grasp,
    "synflow": synflow,
    "wanda": wanda,
    "obs": obs,
}

REDUCTIONS: Mapping[str, float | str] = {"l1": 1.0, "l2": 2.0, "linf": float("inf")}
"""How a unit's scores become one; of every other criterion they are summed."""

SCOPES: Mapping[str, str] = {
    **dict.fromkeys(("sensitivity", "lamp", "snip", "grasp", "synflow"), "global"),
    "wanda": "row",
}
"""Over what the criterion's paper compares; the others compare within each tensor, "local"."""


def criterion(which: str | Criterion) -> tuple[Criterion, float | str]:
    """The criterion of a name, or the function itself, and how its scores are reduced to one a unit.

    Raises:
        InputError: there is no criterion of that name.
    """
    if callable(which):
        return which, SUM
    if which not in CRITERIA:
        raise InputError(
            f"there is no criterion {which!r}.{suggest(str(which), CRITERIA)} Known: {', '.join(CRITERIA)}."
        )
    return CRITERIA[which], REDUCTIONS.get(which, SUM)


__all__ = ["CRITERIA", "REDUCTIONS", "SCOPES", "Criterion", "Loss", "Task", "criterion", "cross_entropy"]
