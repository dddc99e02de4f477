"""Policies: what is at work in which epochs of a training stage, as hooks of ``prunus.train.fit``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

import prunus
from prunus.errors import InputError
from prunus.masks import SET, Gradual, RigL, SoftFilter, Sparsifier, erdos_renyi
from prunus.recipes.schema import MASKING, Policy, Regrowing
from prunus.train import Hook, Loss, regularizers


def hooks_of(
    policies: Iterable[Policy],
    model: nn.Module,
    sparse: Sparsifier | None,
    optimizer: torch.optim.Optimizer,
    steps: int,
    calibration: tuple[list[Any], Loss],
    example: Any,
) -> tuple[list[Hook], Sparsifier | None]:
    """The hooks in their order, and the masks they share (those that were there, or new ones).

    Args:
        steps: of the optimizer, in an epoch.
        calibration: batches, and the loss, for criteria that look at data.
        example: inputs to trace the model with.
    """
    hooks: list[Hook] = []
    for policy in policies:
        if policy.kind not in MASKING:
            hooks.append(_regularizer(policy, model, optimizer, steps, example))
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


def _regularizer(policy: Policy, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, example: Any) -> Hook:
    how: Any = getattr(policy, policy.kind)
    if policy.soft_filter is not None:
        return SoftFilter(Sparsifier(model, skip=how.skip), how.sparsity, importance=how.importance)
    if policy.hesso is not None:
        return _hesso(how, model, steps, example)
    if policy.l0 is not None:
        return regularizers.L0(prunus.trace(model, example), how.strength, how.lr, keep=how.keep)
    hook: Hook
    if policy.slimming is not None:
        hook = regularizers.Slimming(model, how.strength)
    elif policy.group_lasso is not None:
        hook = regularizers.GroupLasso(prunus.trace(model, example), how.strength, optimizer, how.keep)
    elif policy.group_norm is not None:
        hook = regularizers.GroupNorm(prunus.trace(model, example), how.strength, how.alpha, how.keep)
    else:
        plan = prunus.plan(model, example, ratio=how.ratio, importance=how.importance, keep=how.keep)
        hook = regularizers.Growing(model, plan, how.delta, how.ceiling, how.every_steps)
    return During(hook, how.from_epoch * steps, None if how.to_epoch is None else how.to_epoch * steps)


def _hesso(how: Any, model: nn.Module, steps: int, example: Any) -> Hook:
    total = (how.to_epoch - how.from_epoch) * steps
    periods = min(how.periods, total)
    if periods < 1:
        raise InputError(f"hesso: to_epoch {how.to_epoch} must come after from_epoch {how.from_epoch}.")
    return regularizers.HESSO(
        prunus.trace(model, example),
        how.ratio,
        begin=how.from_epoch * steps,
        length=total // periods,
        periods=periods,
        importance=how.importance,
        scope=how.scope,
        keep=how.keep,
        round_to=how.round_to,
    )


class During:
    """A hook that is at work in the steps from ``first`` to before ``last`` alone."""

    def __init__(self, hook: Any, first: int, last: int | None) -> None:
        self.hook, self.first, self.last, self.count = hook, first, last, 0

    def before_step(self) -> None:
        """The hook's, if it is its time."""
        if self._now():
            self.hook.before_step()

    def after_step(self) -> None:
        """The hook's, if it is its time."""
        if self._now():
            self.hook.after_step()
        self.count += 1

    def epoch_end(self) -> None:
        """The hook's."""
        self.hook.epoch_end()

    def state_dict(self) -> dict[str, Any]:
        """The steps done, and the hook's."""
        return {"count": self.count, "hook": self.hook.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what ``state_dict`` gave."""
        self.count = state["count"]
        self.hook.load_state_dict(state["hook"])

    def _now(self) -> bool:
        return self.count >= self.first and (self.last is None or self.count < self.last)
