"""Optimal Brain Damage: the second-order cost of a weight at a minimum of the loss (LeCun, Denker, Solla, 1990)."""

from __future__ import annotations

import torch

from prunus.importance.context import Context, Found

PROBES = 8


def obd(context: Context) -> Found:
    """``h w^2 / 2``, eq. 5, h the Hessian's diagonal; negative curvature counts as none.

    The diagonal is Hutchinson's estimate, the mean of z * (H z) over ``PROBES`` vectors of signs for each batch (exact
    where the Hessian is diagonal); always the same signs.
    """
    draw = torch.Generator().manual_seed(0)
    total = {name: torch.zeros_like(context.values(name)) for name in context.weights}
    n = 0
    for batch in context.batches():
        for _ in range(PROBES):
            n += 1
            signs = {
                k: (torch.randint(0, 2, t.shape, generator=draw, device="cpu") * 2 - 1).to(t) for k, t in total.items()
            }
            for name, product in context.hessian_times(batch, signs).items():
                total[name] += signs[name] * product
    return {name: (h / n).clamp(min=0) * context.values(name).square() / 2 for name, h in total.items()}
