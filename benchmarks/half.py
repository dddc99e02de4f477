"""A model cut to half of its multiply-accumulates: what several benchmarks begin with."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torchvision
from torch import nn

import prunus

X = torch.zeros(1, 3, 224, 224)


def half_of(model: nn.Module, x: torch.Tensor = X, *, target: float = 0.5, round_to: int = 16) -> nn.Module:
    """``model`` with one ratio for every group, in steps of 1 %, that leaves ``target`` of the MACs or less."""
    graph, dense = prunus.trace(model, x), macs(model, x)
    low, high = 0, 99
    while high - low > 1:
        middle = (low + high) // 2
        small = prunus.plan(graph, ratio=middle / 100, round_to=round_to).apply(model)
        low, high = (low, middle) if macs(small, x) <= target * dense else (middle, high)
    plan = prunus.plan(graph, ratio=high / 100, round_to=round_to)
    small = plan.apply(model)
    print(f"ratio {high} % in multiples of {round_to}: {macs(small, x) / dense:.1%} of the MACs", flush=True)
    return small


def macs(model: nn.Module, x: torch.Tensor) -> int:
    return prunus.profile(model, x, latency=False).macs


def write_widths(small: nn.Module, path: Path) -> None:
    """The sizes of a small ResNet's layers, for :func:`rebuilt`."""
    widths = {}
    for name, layer in small.named_modules():
        if isinstance(layer, nn.Conv2d):
            widths[name] = [layer.in_channels, layer.out_channels]
        elif isinstance(layer, nn.BatchNorm2d):
            widths[name] = [layer.num_features]
        elif isinstance(layer, nn.Linear):
            widths[name] = [layer.in_features, layer.out_features]
    path.write_text(json.dumps(widths))


def rebuilt(path: Path) -> nn.Module:
    """A ResNet-50 of other widths as plain torch code would build it: each layer constructed at its size, once."""
    with torch.device("meta"):
        model = torchvision.models.resnet50()
    for name, sizes in json.loads(path.read_text()).items():
        old = model.get_submodule(name)
        if isinstance(old, nn.Conv2d):
            new: nn.Module = nn.Conv2d(*sizes, old.kernel_size, old.stride, old.padding, bias=False)
        else:
            new = type(old)(*sizes)
        model.set_submodule(name, new)
    return model
