"""Tensors of a model in the same memory without being one tensor: ``register_buffer("view", weight.data[0])``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from prunus.errors import PlanError


def overlapping(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """The tensors whose memory lies in that of another one, by name, with the name of the other.

    Several names of one tensor aren't meant, nor tensors beside each other in one piece of memory, as the weights of
    recurrent layers are on a GPU.
    """
    pieces: dict[int, dict[int, str]] = defaultdict(dict)
    for name, tensor in tensors.items():
        if tensor.layout is torch.strided and tensor.numel():
            pieces[tensor.untyped_storage()._cdata].setdefault(id(tensor), name)
    found: dict[str, str] = {}
    for piece in (piece for piece in pieces.values() if len(piece) > 1):
        wholes: list[str] = []
        for name in sorted(
            piece.values(), key=lambda n: (-_length(tensors[n]), not isinstance(tensors[n], nn.Parameter))
        ):
            whole = next((other for other in wholes if _meet(tensors[name], tensors[other])), None)
            if whole is None:
                wholes.append(name)
            else:
                found[name] = whole
    return found


def same_place(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors that overlap are the same values in the same memory."""
    return (a.shape, a.stride(), a.storage_offset(), a.dtype) == (b.shape, b.stride(), b.storage_offset(), b.dtype)


def placed(name: str, whole: str, tensors: Mapping[str, Tensor], kept: Mapping[str, object], data: Tensor) -> Tensor:
    """What lies in the memory of ``data``, the new ``whole``, as ``name`` lay in that of the old one.

    Raises:
        PlanError: the two are cut differently, or a copy of the whole has its values in another order.
    """
    tensor, old = tensors[name], tensors[whole]
    if same_place(tensor, old) and kept.get(name, {}) == kept.get(whole, {}):
        return data
    if kept.get(name) or kept.get(whole):
        raise PlanError(f"{name!r} shares memory with {whole!r}, so that they can't be cut differently.")
    if data.stride() != old.stride() or tensor.dtype != old.dtype:
        raise PlanError(
            f"{name!r} shares memory with {whole!r} in a way that a copy can't keep: let the module take what it needs "
            f"of {whole!r} in forward."
        )
    return data.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset() - old.storage_offset())


def _length(tensor: Tensor) -> int:
    """From the first to behind the last value in memory, in values."""
    return 1 + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))


def _meet(a: Tensor, b: Tensor) -> bool:
    """Whether the stretches of memory that they lie in overlap."""
    starts = a.storage_offset() * a.element_size(), b.storage_offset() * b.element_size()
    ends = starts[0] + _length(a) * a.element_size(), starts[1] + _length(b) * b.element_size()
    return bool(starts[0] < ends[1] and starts[1] < ends[0])
