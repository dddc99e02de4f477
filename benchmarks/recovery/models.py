"""The two networks, how they are trained, and what is known of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunus.demo.data import Digits, batches
from prunus.demo.lenet import LeNet
from prunus.train import Hook, Loss, cross_entropy, fit


class Block(nn.Module):
    """Two 3x3 convolutions and the way around them; a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        same = stride == 1 and inputs == outputs
        around = (nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.around = nn.Sequential(*(() if same else around))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.around(x))


class ResNet20(nn.Module):
    """The CIFAR ResNet-20 (He et al., 2016), with a stem of stride 2: 28x28 digits go through it as 14x14."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)
        widths = [16] * 3 + [32] * 3 + [64] * 3
        before = [16, *widths[:-1]]
        self.blocks = nn.Sequential(*(Block(a, b, 1 if a == b else 2) for a, b in zip(before, widths, strict=True)))
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        out: Tensor = self.head(self.blocks(x).mean((2, 3)))
        return out


@dataclass(frozen=True)
class Job:
    """A network with its figures: epochs to train and to recover, rates, what goes, and the modules to tap."""

    name: str
    make: Any
    epochs: int
    recovery: int
    lr: float
    ratio: float
    taps: tuple[str, ...]
    norm: bool


JOBS = {
    "lenet": Job("LeNet", LeNet, 6, 4, 4e-3, 0.65, ("conv2", "fc2"), norm=False),
    "resnet": Job("ResNet-20", ResNet20, 4, 2, 4e-3, 0.5, ("blocks.5", "blocks.8"), norm=True),
}


def train(
    model: nn.Module,
    digits: Digits,
    job: Job,
    seed: int,
    epochs: int,
    loss: Loss = cross_entropy,
    hooks: tuple[Hook, ...] = (),
    optimizer: torch.optim.Optimizer | None = None,
) -> nn.Module:
    """One run of the loop; the optimizer is AdamW unless one is given."""
    fit(
        model,
        batches(digits.train),
        epochs=epochs,
        lr=job.lr,
        loss=loss,
        hooks=hooks,
        seed=seed,
        optimizer=optimizer,
    )
    return model
