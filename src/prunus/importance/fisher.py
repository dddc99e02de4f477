"""Fisher information: squared gradients of single examples stand for the Hessian's diagonal.

Theis et al., "Faster gaze prediction with dense networks and Fisher pruning" (2018).
"""

from __future__ import annotations

import torch

from prunus.importance.context import Context, Found

EXAMPLES = 256


def fisher(context: Context) -> Found:
    """``w^2 / 2`` times the mean of g^2 over single examples, eq. 5; the first ``EXAMPLES`` of the data are used."""
    total = {name: torch.zeros_like(context.values(name)) for name in context.weights}
    n = 0
    for example in context.examples(EXAMPLES):
        n += 1
        for name, slope in context.derivatives(example).items():
            total[name] += slope.square()
    return {name: context.values(name).square() * squares / max(n, 1) / 2 for name, squares in total.items()}
