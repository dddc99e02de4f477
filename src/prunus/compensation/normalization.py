"""Batch norm after a cut: its running statistics belong to the activations that the original had."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunus.running import Batches, call


def recalibrate(model: nn.Module, data: Iterable[Any], args: Any, kwargs: Any = None) -> int:
    """Take the running statistics of every batch norm anew, in place, as the plain mean over the batches of ``data``.

    The rest of the model runs in eval mode. Modes are left as they were.

    Args:
        data: batches of inputs; ``args`` and ``kwargs`` show what the model takes of each.

    Returns:
        how many layers were recalibrated.
    """
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not layers:
        return 0
    modes = [(m, m.training) for m in model.modules()]
    momenta = [layer.momentum for layer in layers]
    model.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the cumulative mean
        layer.train()
    try:
        with torch.no_grad():
            for positional, keywords in Batches(data, args, kwargs):
                call(model, positional, keywords)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for module, mode in modes:
            module.training = mode
    return len(layers)
