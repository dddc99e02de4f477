"""Gradient sensitivity of a unit: what the loss does when the unit is turned down a little.

M. C. Mozer and P. Smolensky, "Skeletonization" (NIPS 1988): the relevance of a unit is ``-dE/da``, a its attention
strength, a factor of its output that is one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from prunus.importance.context import Context, Found, Place


def gradient(context: Context) -> Found:
    """``|sum of w g|`` over the weights that make an index: what a factor at its output would have as its gradient.

    The weights that make it are those of the tensors that have it as dimension 0: a layer's rows with their biases.
    """
    found: dict[Place, Tensor] = {}
    for group in context.graph.free:
        total = torch.zeros(group.size, dtype=torch.float64, device="cpu")
        rows = [member for member in context.members(group) if member.dim == 0]
        for member in rows:
            product = (context.values(member.name) * context.gradients[member.name]).double().cpu()
            at = context.places(member, group.atom)
            total += product[at.flatten()].reshape(group.size, -1).sum(1)
        if rows:
            found[group] = total.abs()
    return found
