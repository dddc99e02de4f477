"""First-order Taylor: how much the loss changes when a weight goes (Molchanov et al., CVPR 2019, eq. 8)."""

from __future__ import annotations

from torch import Tensor

from prunus.errors import InputError


def taylor(name: str, weight: Tensor) -> Tensor:
    """``(weight * gradient)^2``. The gradients are those that ``loss.backward()`` left in ``weight.grad``.

    Raises:
        InputError: a parameter has no gradient.
    """
    if weight.grad is None:
        raise InputError(
            f"importance='taylor' needs gradients, and {name!r} has none: run loss.backward() on some batches of your "
            "data first, and don't zero the gradients."
        )
    return (weight.detach() * weight.grad).square()
