"""Scores from the weights alone: chance, magnitude, LAMP, and magnitude beside a layer's spread."""

from __future__ import annotations

import torch
from torch import Tensor

from prunus.masks.criteria.task import Task
from prunus.masks.units import SUM, Pattern


def random(task: Task) -> dict[str, Tensor]:
    """Chance, from torch's global generator: the baseline that any criterion must beat.

    One number is drawn for each unit that is still there, in the order in which torch.nn.utils.prune draws, so that
    the same seed gives the same masks.
    """
    result = {}
    for name, mask in task.masks.items():
        weight = task.weights[name].detach()
        if isinstance(task.units, Pattern) or task.units.text == "weight":
            drawn = torch.zeros_like(weight)
            drawn[mask] = -torch.rand_like(weight[mask])
        else:
            alive = task.units.grid(mask, name).reduce(mask.float(), SUM) > 0
            drawn = weight.new_zeros(len(alive))
            drawn[alive] = torch.rand(int(alive.sum()), device="cpu").to(drawn)
        result[name] = drawn
    return result


def magnitude(task: Task) -> dict[str, Tensor]:
    """Absolute values: small weights matter little (Han et al., Learning both Weights and Connections, 2015)."""
    return {name: weight.detach().abs() for name, weight in task.weights.items()}


def sensitivity(task: Task) -> dict[str, Tensor]:
    """``|w| / std(w)`` of each layer: what is below ``s`` is what Han et al. (2015) prune, "s times the deviation".

    Use it with ``below=s``; or with a sparsity and ``scope="global"``, which finds the ``s`` that reaches it.
    """
    return {name: weight.detach().abs() / weight.detach().std() for name, weight in task.weights.items()}


def lamp(task: Task) -> dict[str, Tensor]:
    """``w_u^2 / sum of w_v^2 over all v not smaller``: Lee et al., Layer-adaptive Sparsity (ICLR 2021), eq. 3.

    Meant for ``scope="global"``: the largest weight of every layer scores 1, so no layer dies first.
    """
    result = {}
    for name, weight in task.weights.items():
        squares = weight.detach().double().flatten().square()
        order = squares.argsort(stable=True)
        rising = squares[order]
        rest = rising.flip(0).cumsum(0).flip(0)
        scores = torch.empty_like(squares)
        scores[order] = rising / rest.clamp_min(torch.finfo(torch.float64).tiny)
        result[name] = scores.view_as(weight)
    return result
