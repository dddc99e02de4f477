"""Bool tensors, eight to a byte."""

from __future__ import annotations

import torch
from torch import Tensor

from prunus.errors import InputError


def pack_bits(mask: Tensor) -> Tensor:
    """A bool tensor, eight to a byte, the first in the highest bit."""
    bits = mask.detach().flatten().to("cpu", torch.uint8)
    bits = torch.nn.functional.pad(bits, (0, -len(bits) % 8)).view(-1, 8)
    return (bits << torch.arange(7, -1, -1, dtype=torch.uint8)).sum(1).to(torch.uint8)


def unpack_bits(packed: Tensor, shape: torch.Size, name: str) -> Tensor:
    """What ``pack_bits`` packed; raises InputError where the size isn't that of ``shape``."""
    if packed.dtype != torch.uint8 or packed.numel() != -(-shape.numel() // 8):
        raise InputError(f"the packed mask of {name!r} doesn't fit its shape {list(shape)}.")
    bits = packed.flatten()[:, None] >> torch.arange(7, -1, -1, dtype=torch.uint8, device=packed.device)
    return (bits & 1).flatten()[: shape.numel()].view(shape).bool()
