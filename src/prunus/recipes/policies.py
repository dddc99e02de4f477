"""Policies: what is at work in which epochs of a training stage, as hooks of ``prunus.train.fit``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from prunus.errors import InputError
from prunus.masks import SET, Gradual, RigL, Sparsifier, erdos_renyi
from prunus.recipes.schema import Policy, Regrowing, Slimming
from prunus.train import Hook, Loss

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def hooks_of(
    policies: Iterable[Policy],
    model: nn.Module,
    sparse: Sparsifier | None,
    optimizer: torch.optim.Optimizer,
    steps: int,
    calibration: tuple[list[Any], Loss],
) -> tuple[list[Hook], Sparsifier | None]:
    """The hooks in their order, and the masks they share (those that were there, or new ones).

    Args:
        steps: of the optimizer, in an epoch.
        calibration: batches, and the loss, for criteria that look at data.
    """
    hooks: list[Hook] = []
    for policy in policies:
        if policy.slimming is not None:
            hooks.append(ScaleShrinker(model, policy.slimming, steps))
            continue
        sparse = sparse or Sparsifier(model)
        if policy.gradual is not None:
            how = policy.gradual
            hooks.append(
                Gradual(
                    sparse,
                    how.sparsity,
                    begin=how.from_epoch,
                    end=how.to_epoch,
                    every=how.every,
                    by="epoch",
                    curve=how.curve,
                    importance=how.importance,
                    granularity=how.granularity,
                    scope=how.scope,
                    data=calibration[0],
                    loss=calibration[1],
                )
            )
        else:
            hooks.append(_regrowing(policy, sparse, optimizer, steps))
    return [*hooks, *([sparse] if sparse is not None else [])], sparse


def _regrowing(policy: Policy, sparse: Sparsifier, optimizer: torch.optim.Optimizer, steps: int) -> Hook:
    how = policy.rigl or policy.set
    if not isinstance(how, Regrowing):
        raise InputError(f"{policy} is no policy.")
    if sparse.sparsity < how.sparsity:
        sparse.prune(erdos_renyi(sparse, how.sparsity), "random", strict=False)
    method = RigL if policy.rigl is not None else SET
    return method(sparse, every=how.every_steps, end=how.to_epoch * steps, fraction=how.fraction, optimizer=optimizer)


class ScaleShrinker:
    """``strength * sign(scale)`` added to the gradient of each batch-norm scale: Z. Liu et al. (2017), eq. 1."""

    def __init__(self, model: nn.Module, how: Slimming, steps: int) -> None:
        self.scales = [m.weight for m in model.modules() if isinstance(m, _NORMS) and m.affine]
        if not self.scales:
            raise InputError(f"{type(model).__name__} has no batch norm with scales to slim.")
        self.strength, self.count = how.strength, 0
        self.first, self.last = how.from_epoch * steps, None if how.to_epoch is None else how.to_epoch * steps

    def before_step(self) -> None:
        """Add the slope of the L1 norm."""
        if self.count >= self.first and (self.last is None or self.count < self.last):
            for scale in self.scales:
                if scale.grad is not None:
                    scale.grad.add_(scale.detach().sign(), alpha=self.strength)

    def after_step(self) -> None:
        """Count."""
        self.count += 1

    def epoch_end(self) -> None:
        """Nothing to do between epochs."""

    def state_dict(self) -> dict[str, Any]:
        """The steps done."""
        return {"count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what ``state_dict`` gave."""
        self.count = state["count"]
