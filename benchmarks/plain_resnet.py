"""A ResNet-50 of other widths in plain torch, as one would write it by hand. Imports no prunus: it is timed without."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torchvision
from torch import nn


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
    """Each layer is constructed at its size, once, on the device that is set."""
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
