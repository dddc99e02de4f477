"""Models that FSDP2 has spread over processes: whole values for a checkpoint, and the way back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from prunus.errors import InputError


def is_sharded(model: nn.Module) -> bool:
    """Whether ``torch.distributed.fsdp.fully_shard`` was called on the model."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    from torch.distributed.fsdp import FSDPModule

    return isinstance(model, FSDPModule)


def check_alone(hooks: Sequence[Any], ema: float | None, stop: Any) -> None:
    """Raise InputError where something looks at whole weights: in a sharded model each process has a part."""
    names = [type(hook).__name__ for hook in hooks] + ["ema"] * (ema is not None) + ["stop"] * (stop is not None)
    if names:
        raise InputError(
            f"{', '.join(names)} can't be used with a model that FSDP2 has sharded: they look at whole weights. Use "
            "DDP, or prune before and fine-tune sharded."
        )


def whole(value: Any) -> Any:
    """``value`` with every sharded tensor in it gathered; all processes must call it alike."""
    if not torch.distributed.is_available():
        return value
    from torch.distributed.tensor import DTensor

    return pytree.tree_map_only(DTensor, lambda tensor: tensor.full_tensor(), value)


def copy_whole(into: Tensor, value: Tensor) -> None:
    """Copy a whole tensor into one that may be sharded."""
    into.detach().copy_(_like(into, value))


def shard_state(optimizer: torch.optim.Optimizer) -> None:
    """Shard what an optimizer has loaded as its parameters are."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = _like(parameter, value)


def _like(tensor: Tensor, value: Tensor) -> Tensor:
    if not torch.distributed.is_available():
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(tensor, DTensor) or isinstance(value, DTensor):
        return value
    return distribute_tensor(value.to(tensor.device), tensor.device_mesh, tensor.placements)
