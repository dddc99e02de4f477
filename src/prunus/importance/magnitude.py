"""Magnitude: small weights matter little (Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017)."""

from __future__ import annotations

from torch import Tensor


def l1(name: str, weight: Tensor) -> Tensor:
    """Absolute values; summed over a group they give its L1 norm."""
    return weight.detach().abs()


def l2(name: str, weight: Tensor) -> Tensor:
    """Squares; summed over a group they give its squared L2 norm."""
    return weight.detach().square()


def linf(name: str, weight: Tensor) -> Tensor:
    """Absolute values, of which the group's largest counts: its L-infinity norm."""
    return weight.detach().abs()
