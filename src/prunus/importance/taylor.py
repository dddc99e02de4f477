"""How much the loss changes when a weight goes, by the first terms of its Taylor series.

Molchanov et al., "Importance Estimation for Neural Network Pruning" (CVPR 2019).
"""

from __future__ import annotations

from torch import Tensor

from prunus.errors import InputError
from prunus.importance.context import Context, Found


def taylor(context: Context) -> Found:
    """``(g w)^2``, eq. 8. Without data, the gradients are those that ``loss.backward()`` left in ``weight.grad``.

    Raises:
        InputError: there is no data, and a parameter has no gradient.
    """
    gradients = _left(context) if context.data is None else context.gradients
    return {name: (context.values(name) * gradients[name]).square() for name in context.weights}


def _left(context: Context) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, weight in context.weights.items():
        if weight.grad is None:
            raise InputError(
                f"importance='taylor' needs gradients, and {name!r} has none: run loss.backward() on some batches of "
                "your data first, and don't zero the gradients; or pass data=loader, and loss= if it isn't "
                "cross-entropy."
            )
        found[name] = weight.grad
    return found


def taylor2(context: Context) -> Found:
    """``(g w - w (H w) / 2)^2``, eq. 7: the loss without the weight, to the second order, less the loss with it.

    H w is the whole Hessian times the whole of the weights, averaged over the batches.
    """
    weights = {name: context.values(name) for name in context.weights}
    total = {name: weight.new_zeros(weight.shape) for name, weight in weights.items()}
    n = 0
    for batch in context.batches():
        n += 1
        for name, product in context.hessian_times(batch, weights).items():
            total[name] += product
    return {name: (context.gradients[name] * w - w * total[name] / n / 2).square() for name, w in weights.items()}
