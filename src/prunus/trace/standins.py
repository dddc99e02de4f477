"""Stand-ins without values: the model and its inputs on the meta device, with *shadows* where values count.

Integer and boolean tensors that come only from inputs, buffers and constants carry a real shadow, so that Python code
that reads a value (``.item()``, ``if mask.all()``) runs on the meta device as it would for real.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from prunus.running import mapped
from prunus.surgery import copy_model, named_tensors

AXES = "_prunus_axes"
SHADOW = "_prunus_shadow"
NAME = "_prunus_name"
POSITIONS = "_prunus_positions"  # the axis along which a tensor's integers are positions
SEEN = "_prunus_seen"  # of the model, an input, or an operator's output
SHADOW_LIMIT = 1 << 22


def set_mark(tensor: Tensor, mark: str, value: Any) -> None:
    """Hang a value of ours on a tensor of ours."""
    tensor.__dict__[mark] = value


def shadow_of(tensor: Tensor) -> Tensor | None:
    """The real values of a meta tensor, if they are known."""
    found: Tensor | None = tensor.__dict__.get(SHADOW)
    return found


def has_values(tensor: Tensor) -> bool:
    """Whether a tensor is of the kind whose values Python code may read."""
    return not tensor.is_meta and not tensor.is_floating_point() and not tensor.is_complex()


def meta_like(tensor: Tensor, shadow: bool) -> Tensor:
    """A meta tensor of the same shape, strides and dtype; with ``shadow``, the real values hang on it."""
    data = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    if shadow and tensor.numel() <= SHADOW_LIMIT:
        set_mark(data, SHADOW, tensor.detach().cpu().clone())
    return data


def meta_copy(model: nn.Module, own: Iterable[Tensor] | None = None) -> nn.Module:
    """A copy of ``model`` with its tensors (its ``own``, where they are known) on the meta device; integer and boolean
    buffers have shadows.
    """
    replace: dict[int, Tensor] = {}
    for tensor in named_tensors(model).values() if own is None else own:
        if id(tensor) not in replace:
            data = meta_like(tensor, has_values(tensor))
            is_parameter = isinstance(tensor, nn.Parameter)
            replace[id(tensor)] = nn.Parameter(data, requires_grad=False) if is_parameter else data
    return copy_model(model, replace)


def meta_inputs(values: Any) -> Any:
    """The example inputs on the meta device; those with values that Python may read have shadows."""
    return mapped(lambda t: meta_like(t, has_values(t)), values)


def mark_names(model: nn.Module) -> dict[str, Tensor]:
    """Write every tensor's first name onto it, so that the run can tell which were read."""
    tensors = named_tensors(model)
    for name, tensor in reversed(tensors.items()):
        set_mark(tensor, NAME, name)
    return tensors


def carry_shadows(
    source: nn.Module, small: nn.Module, kept: Mapping[str, Mapping[int, tuple[int, ...]]]
) -> dict[str, Tensor]:
    """Give the small meta model the shadows of the meta model it was cut from; returns its tensors by name."""
    theirs, own = named_tensors(source), named_tensors(small)
    for name, tensor in own.items():
        shadow = shadow_of(theirs[name])
        if shadow is not None:
            for dim, indices in kept.get(name, {}).items():
                shadow = shadow.index_select(dim, torch.tensor(indices, device="cpu"))
            set_mark(tensor, SHADOW, shadow)
    return own
