"""Random scores: the baseline that any criterion must beat."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor


def random(name: str, weight: Tensor) -> Tensor:
    """Uniform noise, the same at every call for a parameter of that name and shape; the global RNG isn't touched."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{name}{tuple(weight.shape)}".encode()))
    return torch.rand(weight.shape, generator=generator)
