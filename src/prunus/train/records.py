"""What the loop is given and what it tells: hooks, losses, progress, epochs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch.nn.functional as F
from torch import Tensor, nn

Batch = Sequence[Tensor]
Loss = Callable[[nn.Module, Batch], Tensor]
"""``loss(model, batch) -> scalar``: runs the model itself, so that it may use targets, features or a teacher."""


class Hook(Protocol):
    """What a method may do around the optimizer's step; ``prunus.masks`` and ``prunus.train.regularizers`` have some.

    Hooks count steps by themselves. One that is to be resumed from a checkpoint has ``state_dict()`` too, which gives
    nested dicts, lists, numbers, strings and tensors, and ``load_state_dict(state)``.
    """

    def before_step(self) -> None:
        """Called after the backward pass: gradients are there, the weights are those that they were taken at."""

    def after_step(self) -> None:
        """Called after the optimizer's step."""

    def epoch_end(self) -> None:
        """Called after an epoch's last step, before ``validate``."""


@dataclass(frozen=True)
class Progress:
    """Where the loop is, after each step of the optimizer.

    Attributes:
        epoch, epochs, step, steps: count from 1; ``steps`` are those of an epoch.
        loss: mean over the epoch so far.
        lr: the rate of the optimizer's first group for the next step.
        seconds: spent in this call of ``fit``.
        eta: seconds left, as fast as so far.
        metrics: what ``validate`` said last.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    lr: float = 0.0
    seconds: float = 0.0
    eta: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        told = "".join(f"  {name} {value:.4g}" for name, value in self.metrics.items())
        minutes, seconds = divmod(round(self.eta), 60)
        return (
            f"epoch {self.epoch}/{self.epochs}  step {self.step}/{self.steps}  loss {self.loss:.4f}{told}  "
            f"lr {self.lr:.2e}  {minutes}:{seconds:02d} left"
        )


@dataclass(frozen=True)
class Epoch:
    """One finished epoch: mean training loss, what ``validate`` returned, and seconds spent training."""

    epoch: int
    loss: float
    metrics: Mapping[str, float]
    seconds: float


@dataclass
class History:
    """What happened: one :class:`Epoch` after another, and the best one if early stopping chose it, else the last."""

    epochs: list[Epoch] = field(default_factory=list)
    best: int | None = None

    def state_dict(self) -> dict[str, Any]:
        """The history in plain values."""
        return {"epochs": [asdict(epoch) for epoch in self.epochs], "best": self.best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what ``state_dict`` gave."""
        self.epochs, self.best = [Epoch(**epoch) for epoch in state["epochs"]], state["best"]


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """The default loss, for batches ``(inputs, class indices)``."""
    inputs, targets = batch
    return F.cross_entropy(model(inputs), targets)


def as_metrics(value: float | Mapping[str, float]) -> dict[str, float]:
    """What ``validate`` returned, by name; one number is the ``"score"``."""
    if isinstance(value, Mapping):
        return {name: float(each) for name, each in value.items()}
    return {"score": float(value)}
