"""The weights that a Plan would remove, to be pushed to zero while the model still trains."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from prunus.plan import Plan


class Removal:
    """For each parameter that a Plan cuts, which of its weights go.

    A weight goes if its position along any of the dimensions that are cut does.
    """

    def __init__(self, model: nn.Module, plan: Plan) -> None:
        plan.check_fits(model)
        self.model, self.plan = model, plan
        self.masks: dict[str, Tensor] = {}
        for name, parameter in model.named_parameters():
            if name in plan.kept:
                gone = _gone(parameter, plan.kept[name])
                if gone.any():
                    self.masks[name] = gone

    @torch.no_grad()
    def decay(self, strength: float) -> None:
        """Add ``strength * weight`` to the gradients of what goes."""
        for weight, gone in self._found():
            if weight.grad is not None:
                weight.grad.add_(weight * gone, alpha=strength)

    @torch.no_grad()
    def shrink(self, factor: float) -> None:
        """Multiply what goes by ``factor``."""
        for weight, gone in self._found():
            if factor == 0:
                weight.masked_fill_(gone, 0)
            else:
                weight.mul_(torch.where(gone, factor, 1.0))

    def _found(self) -> list[tuple[nn.Parameter, Tensor]]:
        found = []
        for name, gone in self.masks.items():
            weight = self.model.get_parameter(name)
            if gone.device != weight.device:
                gone = self.masks[name] = gone.to(weight.device)
            found.append((weight, gone))
        return found


def _gone(parameter: Tensor, kept: Mapping[int, tuple[int, ...]]) -> Tensor:
    """True for the weights that go; its size is that of the parameter only where several dimensions are cut."""
    result = torch.zeros([1] * parameter.dim(), dtype=torch.bool, device=parameter.device)
    for dim, indices in kept.items():
        line = torch.ones(parameter.shape[dim], dtype=torch.bool, device=parameter.device)
        line[list(indices)] = False
        shape = [1] * parameter.dim()
        shape[dim] = -1
        result = result | line.view(shape)
    return result
