"""Magnitude: small weights matter little (Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017)."""

from __future__ import annotations

from torch import Tensor


def absolute(name: str, weight: Tensor) -> Tensor:
    """Summed over a group its L1 norm; the largest of a group is its L-infinity norm."""
    return weight.detach().abs()


def squared(name: str, weight: Tensor) -> Tensor:
    """Summed over a group its squared L2 norm."""
    return weight.detach().abs().square()  # of complex values too
