"""Batch-norm scale: Liu et al., "Learning Efficient Convolutional Networks through Network Slimming" (ICCV 2017)."""

from __future__ import annotations

from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from prunus.errors import InputError
from prunus.importance.context import Context, Found, Place


def bn_scale(context: Context) -> Found:
    """``|gamma|`` of every batch norm; groups that none scales have no score, and stay as they are.

    Raises:
        InputError: no group that can be cut has a batch norm with a scale.
    """
    found: dict[Place, Tensor] = {}
    for name in context.weights:
        path, _, own = name.rpartition(".")
        if own == "weight" and isinstance(context.model.get_submodule(path), _BatchNorm):
            found[name] = context.values(name).abs()
    if not found:
        raise InputError("importance='bn_scale' needs batch norms with a scale, and no group that can be cut has one.")
    return found
