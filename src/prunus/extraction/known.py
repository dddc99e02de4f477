"""What is known of a tensor's values without knowing the inputs: which elements are constants, and which constants.

Everything here is computed from parameters and buffers alone, by the meaning of the operators; no value that depends on
an input is ever looked at.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Known:
    """The elements of a tensor that every input gives the same value.

    Attributes:
        value: those values, in the tensor's shape; 0 where unknown.
        where: boolean, in the tensor's shape.
        fixed: computed from parameters alone, not from sizes that the inputs have.
    """

    value: Tensor
    where: Tensor
    fixed: bool = False

    @property
    def whole(self) -> bool:
        return bool(self.where.all())

    @property
    def zero(self) -> Tensor:
        return self.where & (self.value == 0)


def known(value: Tensor, where: Tensor, fixed: bool = False) -> Known | None:
    """A :class:`Known` of finite values, or None if nothing is known."""
    where = where.broadcast_to(value.shape) & value.isfinite()
    if bool(where.all()):
        return Known(value, where, fixed)
    return Known(value.masked_fill(~where, 0), where, fixed) if bool(where.any()) else None


def along(found: Known | None, dim: int, size: int) -> tuple[Tensor, Tensor]:
    """Per position of dimension ``dim``: is it one constant over all others (``[size]``, bool), and which."""
    if found is None:
        return torch.zeros(size, dtype=torch.bool, device="cpu"), torch.zeros(size, dtype=torch.float64, device="cpu")
    value = found.value.movedim(dim, 0).reshape(size, -1).double()
    where = found.where.movedim(dim, 0).reshape(size, -1)
    if not value.shape[1]:
        return torch.zeros(size, dtype=torch.bool, device="cpu"), torch.zeros(size, dtype=torch.float64, device="cpu")
    same = where.all(1) & (value.amax(1) == value.amin(1))
    return same, torch.where(same, value[:, 0], 0)


def uniform(found: Known, dims: Iterable[int]) -> Tensor:
    """Where all elements along ``dims`` (kept, of size one) are known and the same."""
    chosen = list(dims)
    if not chosen:
        return found.where
    numbers = found.value.double()
    same = numbers.amax(chosen, keepdim=True) == numbers.amin(chosen, keepdim=True)
    return same & ~((~found.where).amax(chosen, keepdim=True))
