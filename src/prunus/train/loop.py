"""The training loop. There is one; methods plug in through ``loss``, ``hooks``, ``validate`` and ``on_progress``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunus.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

Batch = Sequence[Tensor]
Loss = Callable[[nn.Module, Batch], Tensor]
"""``loss(model, batch) -> scalar``: runs the model itself, so that it may use targets, features or a teacher."""


class Hook(Protocol):
    """What a method may do around the optimizer's step; ``prunus.masks`` has some. Hooks count steps by themselves."""

    def before_step(self) -> None:
        """Called after the backward pass: gradients are there, the weights are those that they were taken at."""

    def after_step(self) -> None:
        """Called after the optimizer's step."""

    def epoch_end(self) -> None:
        """Called after an epoch's last step, before ``validate``."""


@dataclass(frozen=True)
class Progress:
    """Where the loop is, after each step: epochs and steps count from 1, ``loss`` is a running mean."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float


@dataclass(frozen=True)
class Epoch:
    """One finished epoch: mean training loss, what ``validate`` returned, and seconds spent training."""

    epoch: int
    loss: float
    metrics: Mapping[str, float]
    seconds: float


@dataclass
class History:
    """What happened: one :class:`Epoch` after another."""

    epochs: list[Epoch] = field(default_factory=list)


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """The default loss, for batches ``(inputs, class indices)``."""
    inputs, targets = batch
    return F.cross_entropy(model(inputs), targets)


def fit(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    epochs: int,
    optimizer: torch.optim.Optimizer | None = None,
    lr: float = 1e-3,
    loss: Loss = cross_entropy,
    validate: Callable[[nn.Module], float | Mapping[str, float]] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    hooks: Sequence[Hook] = (),
    seed: int | None = None,
) -> History:
    """Train ``model`` in place on every batch of ``loader``, ``epochs`` times; it ends in eval mode, on its device.

    The learning rate goes through one cycle that peaks at ``lr`` (or, where an optimizer is given, at its own rates):
    L. Smith, N. Topin, "Super-Convergence", 2018. Accelerate chooses the device and takes care of several processes.

    Args:
        loader: batches; anything with a length, usually a ``DataLoader``.
        optimizer: made for ``model.parameters()``; ``None`` is AdamW. Make a new one after pruning: the state of the
            old one has the old shapes.
        loss: ``loss(model, batch) -> scalar``.
        validate: ``validate(model) -> float or {name: float}``, called after each epoch in eval mode, with the model on
            the device that it trains on.
        on_progress: called after each step.
        hooks: objects with ``before_step``, ``after_step`` and ``epoch_end``, called in their order.
        seed: seeds torch's random numbers for the run alone; the caller's generator is left as it was.

    Raises:
        InputError: no epochs, an empty loader, or an optimizer that trains none of the model's parameters.
    """
    from accelerate import Accelerator
    from accelerate.utils import send_to_device

    _check(model, loader, epochs, optimizer)
    accelerator = Accelerator()
    home = next(model.parameters()).device
    plain = optimizer or torch.optim.AdamW(model.parameters(), lr=lr)
    history = History()
    with _seeded(seed):
        trained, optimizer, shuffled = accelerator.prepare(model, plain, loader)
        steps = len(shuffled)
        peaks = [group["lr"] for group in plain.param_groups]
        schedule = torch.optim.lr_scheduler.OneCycleLR(plain, peaks, total_steps=epochs * steps)
        for epoch in range(1, epochs + 1):
            started, total = time.perf_counter(), torch.zeros((), device=accelerator.device)
            trained.train()
            for step, batch in enumerate(shuffled, start=1):
                value = loss(trained, send_to_device(batch, accelerator.device))
                optimizer.zero_grad()
                accelerator.backward(value)
                for hook in hooks:
                    hook.before_step()
                optimizer.step()
                for hook in hooks:
                    hook.after_step()
                schedule.step()
                total += value.detach()
                if on_progress is not None:
                    on_progress(Progress(epoch, epochs, step, steps, float(total) / step))
            for hook in hooks:
                hook.epoch_end()
            seconds = time.perf_counter() - started
            trained.eval()
            metrics = _as_metrics(validate(model)) if validate is not None else {}
            history.epochs.append(Epoch(epoch, float(total) / steps, metrics, seconds))
    # Accelerate marks a model that it has prepared; a copy of it, once small, would then not be prepared again.
    model.__dict__.pop("_is_accelerate_prepared", None)
    model.to(home)
    return history


def _check(model: nn.Module, loader: Iterable[Any], epochs: int, optimizer: torch.optim.Optimizer | None) -> None:
    if epochs < 1:
        raise InputError(f"epochs is {epochs}; give at least 1.")
    try:
        empty = len(loader) == 0  # type: ignore[arg-type]
    except TypeError as error:
        raise InputError("the loader has no length; wrap the data in a DataLoader or a list of batches.") from error
    if empty:
        raise InputError("the loader is empty; it must give at least one batch.")
    if optimizer is not None:
        mine = {id(parameter) for parameter in model.parameters()}
        if not any(id(p) in mine for group in optimizer.param_groups for p in group["params"]):
            raise InputError(
                "the optimizer holds none of this model's parameters. Was it made for the model before pruning? "
                "Make a new one: torch.optim.AdamW(small.parameters())."
            )


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """Seed torch inside, restore it after."""
    with torch.random.fork_rng(enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        yield


def _as_metrics(value: float | Mapping[str, float]) -> Mapping[str, float]:
    return dict(value) if isinstance(value, Mapping) else {"score": float(value)}
