"""Networks with something to lose: trained here or pretrained, with calibration data and a score."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.accuracy.addresses import smollm2
from benchmarks.accuracy.photos import efficientnet
from benchmarks.accuracy.task import Task
from benchmarks.accuracy.words import minilm
from benchmarks.sparsity import pitch
from prunus.demo.data import Digits, accuracy, batches, load_digits
from prunus.demo.lenet import LeNet
from prunus.train import cross_entropy, fit

EPOCHS, FINETUNE = 5, 1
STEPS, TONES = 60, 40


def lenet(seed: int) -> Task:
    """The digit LeNet."""
    return _digits(LeNet, seed)


def resnet20(seed: int) -> Task:
    """A ResNet-20 with a stem of stride 2, on digits."""
    return _digits(ResNet20, seed)


def crepe(seed: int) -> Task:
    """The pretrained CREPE-tiny on noisy tones; the seed draws the tones."""
    frames, truth = pitch.tones(400, 1000 + seed)
    data = list(zip(frames.split(40), truth.split(40), strict=True))

    def score(model: nn.Module) -> float:
        return 100 * float((pitch.errors(model, seed) <= 50).float().mean())

    def after(model: nn.Module) -> None:
        model.in_features = model.classifier.in_features  # CREPE's own integer

    def finetune(small: nn.Module) -> None:
        batches = [pitch.tones(TONES, 10_000 * (seed + 1) + step) for step in range(STEPS)]
        fit(small, batches, epochs=1, lr=5e-4, loss=pitch.bins_loss, seed=seed)

    return Task(pitch.load(), frames[:2], data, pitch.bins_loss, score, finetune, after=after)


TASKS: dict[str, Callable[[int], Task]] = {
    "lenet": lenet,
    "resnet20": resnet20,
    "crepe": crepe,
    "minilm": minilm,
    "efficientnet": efficientnet,
    "smollm2": smollm2,
}
TITLES = {
    "lenet": "LeNet, digits",
    "resnet20": "ResNet-20, digits",
    "crepe": "CREPE-tiny, noisy tones",
    "minilm": "MiniLM-L6, definitions of nouns",
    "efficientnet": "EfficientNet-lite0, agreement on photos",
    "smollm2": "SmolLM2-135M, next tokens of addresses",
}


def _digits(make: Callable[[], nn.Module], seed: int) -> Task:
    digits = load_digits()
    torch.manual_seed(seed)
    model = make()
    fit(model, batches(digits.train), epochs=EPOCHS, lr=4e-3, seed=seed)
    part = digits.train.head(2000)
    data = list(zip(part.images.split(100), part.labels.split(100), strict=True))

    def finetune(small: nn.Module) -> None:
        fit(small, batches(digits.train), epochs=FINETUNE, lr=2e-3, seed=seed)

    return Task(model.eval(), part.images[:2], data, cross_entropy, _scorer(digits), finetune)


def _scorer(digits: Digits) -> Callable[[nn.Module], float]:
    return lambda model: accuracy(model, digits.test)


class Block(nn.Module):
    """Two 3x3 convolutions with batch norm and a shortcut (K. He et al., 2015, option B)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class ResNet20(nn.Module):
    """Three stages of three blocks, 16, 32 and 64 wide; (N, 1, 28, 28) in, (N, 10) out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        blocks, inputs = [], 16
        for width, stride in ((16, 1), (32, 2), (64, 2)):
            for i in range(3):
                blocks.append(Block(inputs, width, stride if i == 0 else 1))
                inputs = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.blocks(self.stem(x)).mean((2, 3)))
        return out
