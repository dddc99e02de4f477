"""Network slimming: L1 on the scales of batch norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunus.errors import InputError
from prunus.train.regularizers.groups import check_positive


class Slimming:
    """``loss + strength * sum |gamma|`` over all batch-norm scales: Liu et al., Network Slimming (ICCV 2017), eq. 1.

    The subgradient ``strength * sign(gamma)`` is added before each step. Afterwards prune by the scales:
    ``prunus.prune(model, args, importance="bn_scale", scope="global")``.

    Args:
        model: has batch norm with scales.
        strength: lambda; 1e-4 to 1e-5 in the paper, 1e-3 and more for short trainings.
        skip: names of modules that are left alone.

    Raises:
        InputError: there is no batch norm with a scale, or the strength isn't positive.
    """

    def __init__(self, model: nn.Module, strength: float = 1e-4, skip: Sequence[str] = ()) -> None:
        check_positive(strength=strength)
        self.model, self.strength = model, strength
        self.names = [
            f"{name}.weight" if name else "weight"
            for name, module in model.named_modules()
            if isinstance(module, _BatchNorm) and module.weight is not None and name not in skip
        ]
        if not self.names:
            raise InputError(f"{type(model).__name__} has no batch norm with a scale: use GroupLasso instead.")

    @torch.no_grad()
    def before_step(self) -> None:
        """Add the subgradient."""
        for name in self.names:
            gamma = self.model.get_parameter(name)
            if gamma.grad is not None:
                gamma.grad.add_(gamma.sign(), alpha=self.strength)

    def after_step(self) -> None:
        """Nothing to do after the optimizer's step."""

    def epoch_end(self) -> None:
        """Nothing to do between epochs."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing is remembered."""
        return {}

    def load_state_dict(self, state: Any) -> None:
        """Nothing is remembered."""
