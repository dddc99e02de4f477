"""Batch norm after a cut: its running statistics belong to the activations that the original had."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunus.running import Batches, call, check_finite


def recalibrate(model: nn.Module, data: Iterable[Any], args: Any, kwargs: Any = None) -> int:
    """Take the running statistics of every batch norm anew, in place, as the plain mean over the batches of ``data``.

    The rest of the model runs in eval mode. Modes are left as they were, and so are the statistics if this raises.

    Args:
        data: batches of inputs; ``args`` and ``kwargs`` show what the model takes of each.

    Returns:
        how many layers were recalibrated.

    Raises:
        InputError: no data, data that the model can't take, or statistics that aren't finite.
    """
    named = {n: m for n, m in model.named_modules() if isinstance(m, _BatchNorm) and m.running_mean is not None}
    layers = list(named.values())
    if not layers:
        return 0
    before = [(buffer, buffer.clone()) for layer in layers for buffer in layer.buffers(recurse=False)]
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
        for name, layer in named.items():
            check_finite(f"the input of {name!r}", *layer.buffers(recurse=False))
    except BaseException:
        for buffer, value in before:
            buffer.copy_(value)
        raise
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for module, mode in modes:
            module.training = mode
    return len(layers)
