"""What stands around a run: checks before it, Accelerate's marks and settings after it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from prunus.errors import InputError
from prunus.train.records import Hook
from prunus.train.sharding import is_sharded


@contextmanager
def accelerating(precision: str | None) -> Iterator[Any]:
    """An Accelerator; its settings, which are those of the whole process, don't outlive the run if it made them."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    mine = not AcceleratorState._shared_state
    try:
        yield Accelerator(mixed_precision=precision)
    except ValueError as error:
        if "cannot be changed" not in str(error):
            raise
        raise InputError(f"precision={precision!r} isn't what this process's Accelerator has: {error}") from error
    finally:
        if mine:
            AcceleratorState._reset_state()


@contextmanager
def unmarked(model: nn.Module) -> Iterator[None]:
    """Take off what Accelerate hangs on a model: a copy of it, once small, would else not be prepared again."""
    home, before = next(model.parameters()).device, set(vars(model))
    try:
        yield
    finally:
        if not is_sharded(model):
            for name in set(vars(model)) - before:
                del model.__dict__[name]
            model.to(home)


def prepare(
    accelerator: Any, model: nn.Module, optimizer: torch.optim.Optimizer, loader: Iterable[Any]
) -> tuple[nn.Module, Any, Any]:
    """What Accelerate makes of the three. A model that is sharded already stays as it is.

    Raises:
        InputError: several processes, and a loader that nobody can share out between them, or parameters that aren't
            the model's; a setting of Accelerate's that this loop doesn't know.
    """
    kind = str(getattr(accelerator.distributed_type, "value", accelerator.distributed_type))
    if kind in ("DEEPSPEED", "MEGATRON_LM") or (kind == "FSDP" and not getattr(accelerator, "is_fsdp2", False)):
        raise InputError(
            f"Accelerate is set up for {kind}{' 1' if kind == 'FSDP' else ''}, which keeps the weights in a form that "
            "checkpoints and hooks here don't know: use DDP, or FSDP with fsdp_version 2."
        )
    if accelerator.num_processes > 1 and not isinstance(loader, torch.utils.data.DataLoader):
        raise InputError(
            f"there are {accelerator.num_processes} processes, and a {type(loader).__name__} can't be shared out: each "
            "would learn from every batch. Give a DataLoader."
        )
    mine = {id(parameter) for parameter in model.parameters()}
    others = sum(id(p) not in mine for group in optimizer.param_groups for p in group["params"])
    if accelerator.num_processes > 1 and others:
        raise InputError(
            f"the optimizer has {others} parameters that aren't the model's (an adapter's?), and there are "
            f"{accelerator.num_processes} processes: DDP averages the model's gradients alone. Make them part of it."
        )
    if is_sharded(model):
        return model, *accelerator.prepare(optimizer, loader)
    return accelerator.prepare(model, optimizer, loader)  # type: ignore[no-any-return]


def check(
    model: nn.Module, loader: Iterable[Any], epochs: int, optimizer: torch.optim.Optimizer | None, accumulate: int
) -> None:
    """Raise InputError where an argument of ``fit`` can't be right."""
    if epochs < 1:
        raise InputError(f"epochs is {epochs}; give at least 1.")
    if accumulate < 1:
        raise InputError(f"accumulate is {accumulate}; give at least 1 batch.")
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
                "prunus.train.follow(optimizer, model, small) takes it along."
            )


@torch.no_grad()
def check_together(accelerator: Any, model: nn.Module) -> None:
    """Raise InputError where the processes' weights have come apart: DDP averages gradients and nothing else."""
    if accelerator.num_processes == 1 or is_sharded(model):
        return
    from accelerate.utils import broadcast

    gap, size = torch.zeros(2, dtype=torch.float64, device=accelerator.device)
    for parameter in model.parameters():
        first = broadcast(parameter.detach().clone()).double()
        gap, size = gap + (parameter.double() - first).square().sum(), size + first.square().sum()
    if not accelerator.reduce(gap) <= 1e-6 * accelerator.reduce(size):
        raise InputError(
            "the processes no longer have the same weights: something that each does for itself, such as a hook that "
            "draws random numbers or masks made before without a seed, differs between them. Seed it alike in all."
        )


def described(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's kind and the numbers it was made with (which schedules leave alone): lr, betas, weight_decay."""
    numbers: dict[str, Any] = {"optimizer": type(optimizer).__name__}
    for name, value in optimizer.defaults.items():
        plain = value.item() if isinstance(value, torch.Tensor) and value.numel() == 1 else value
        if all(type(each) in (int, float) for each in (plain if isinstance(plain, tuple) else (plain,))):
            numbers[name] = plain
    return numbers


def check_resumable(hooks: Sequence[Hook]) -> None:
    """Raise InputError if a checkpoint couldn't bring one of the hooks back."""
    for hook in hooks:
        if not (hasattr(hook, "state_dict") and hasattr(hook, "load_state_dict")):
            raise InputError(
                f"{type(hook).__name__} has no state_dict() and load_state_dict(state), so a checkpoint can't bring it "
                "back. Give it both (an empty dict, if it remembers nothing), or leave checkpoints out."
            )
