"""Scores from what the consumers of a group are given: how large, how often zero, how much it varies."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from prunus.errors import InputError
from prunus.importance.context import Context, Found, Place
from prunus.trace import Member


def means(context: Context, *statistics: Callable[[Tensor], Tensor]) -> dict[Member, list[Tensor]]:
    """The means of functions of the inputs of every linear map, fp64, one for each of its input positions."""
    sums: dict[Member, list[Tensor]] = {}
    count: dict[Member, int] = {}
    for member, found, _ in context.flows():
        x = found.channels_of_input().double()
        others = [d for d in range(x.dim()) if d != 1]
        new = [statistic(x).sum(others) if others else statistic(x) for statistic in statistics]
        sums[member] = [a + b for a, b in zip(sums[member], new, strict=True)] if member in sums else new
        count[member] = count.get(member, 0) + x.numel() // max(x.shape[1], 1)
    return {member: [total / max(count[member], 1) for total in totals] for member, totals in sums.items()}


def apoz(context: Context) -> Found:
    """One minus the Average Percentage of Zeros (Hu, Peng, Tai, Tang, "Network Trimming", 2016, eq. 1).

    Raises:
        InputError: no activation is ever zero, so that this says nothing about the model.
    """
    zeros = {member: found[0] for member, found in means(context, lambda x: (x == 0).double()).items()}
    if all(not bool(found.any()) for found in zeros.values()):
        raise InputError("importance='apoz' counts zeros, and no activation of this model is ever zero: no ReLU?")
    return {member: 1 - found for member, found in zeros.items()}


def mean_activation(context: Context) -> Found:
    """The mean of ``|x|`` (Molchanov et al., "Pruning CNNs for Resource Efficient Inference", ICLR 2017, sec. 2.2)."""
    return {member: found[0] for member, found in means(context, torch.Tensor.abs).items()}


def flap(context: Context) -> Found:
    """Variance of an input times the squared norm of the weights that read it.

    An et al., "Fluctuation-based Adaptive Structured Pruning for Large Language Models" (AAAI 2024), eq. 5; groups are
    standardized where they are compared, eq. 6.
    """
    found: dict[Place, Tensor] = {}
    for member, (mean, square) in means(context, lambda x: x, torch.Tensor.square).items():
        found[member] = (square - mean.square()).clamp(min=0) * _columns(context, member).square().sum(1).to(mean)
    return found


def wanda(context: Context) -> Found:
    """``|w|`` times the norm of its input, summed over all that read the index.

    Sun et al., "A Simple and Effective Pruning Approach for Large Language Models" (ICLR 2024), eq. 1; norms are taken
    over the mean, not the sum, of squares, so that the number of positions doesn't count.
    """
    found: dict[Place, Tensor] = {}
    for member, (square,) in means(context, torch.Tensor.square).items():
        found[member] = square.sqrt() * _columns(context, member).abs().sum(1).to(square)
    return found


def _columns(context: Context, member: Member) -> Tensor:
    """``[inputs, n]``: the weights that read each input position."""
    return context.values(member.name).double().movedim(member.dim, 0).flatten(1)
