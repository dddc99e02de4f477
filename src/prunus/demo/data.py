"""10,000 real digits, embedded in the package, in three parts that never meet."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

MEAN, DEVIATION = 0.1307, 0.3081
"""Mean and standard deviation of MNIST's pixels, scaled to [0, 1]."""


@dataclass(frozen=True)
class Part:
    """Images (N, 1, 28, 28), normalised float32, and their labels (N,), int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def head(self, count: int) -> Part:
        """The first ``count`` examples."""
        return Part(self.images[:count], self.labels[:count])


@dataclass(frozen=True)
class Digits:
    """``train`` to learn from, ``validation`` to decide with, ``test`` to report and for nothing else."""

    train: Part
    validation: Part
    test: Part


def load_digits(validation: int = 1000, seed: int = 0) -> Digits:
    """Load the digits that come with the package (see the README beside them for their origin).

    The validation part is drawn from the 8,000 training digits with ``seed``; the 2,000 test digits stay as they are.
    """
    path = resources.files("prunus.demo").joinpath("mnist10k.npz")
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        learn = _part(arrays["x_train"], arrays["y_train"])
        test = _part(arrays["x_test"], arrays["y_test"])
    order = torch.randperm(len(learn), generator=torch.Generator().manual_seed(seed), device="cpu")
    kept_out, rest = order[:validation], order[validation:]
    return Digits(
        train=Part(learn.images[rest], learn.labels[rest]),
        validation=Part(learn.images[kept_out], learn.labels[kept_out]),
        test=test,
    )


class _Sliced(Dataset[tuple[Tensor, Tensor]]):
    """Gives a whole batch as one slice: much faster than collating digit by digit."""

    def __init__(self, part: Part) -> None:
        self.part = part

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.part.images[index], self.part.labels[index]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        return self.part.images[indices], self.part.labels[indices]


def batches(part: Part, size: int = 64) -> DataLoader[tuple[Tensor, Tensor]]:
    """A loader of shuffled batches ``(images, labels)``, each batch shifted by up to one pixel."""
    return DataLoader(_Sliced(part), batch_size=size, shuffle=True, collate_fn=_shifted)


def _shifted(batch: Any) -> tuple[Tensor, Tensor]:
    images, labels = batch  # already one slice: see _Sliced
    down, right = torch.randint(0, 3, (2,), device="cpu").tolist()
    framed = F.pad(images, (1, 1, 1, 1), value=-MEAN / DEVIATION)
    return framed[:, :, down : down + 28, right : right + 28], labels


@torch.no_grad()
def accuracy(model: nn.Module, part: Part) -> float:
    """Share of the digits recognised, in percent. The model is left in the mode it was in."""
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    right = 0
    for start in range(0, len(part), 500):
        images, labels = part.images[start : start + 500], part.labels[start : start + 500]
        right += int((model(images.to(device)).argmax(1).cpu() == labels).sum())
    model.train(training)
    return 100.0 * right / len(part)


def _part(images: np.ndarray, labels: np.ndarray) -> Part:
    pixels = torch.from_numpy(images).unsqueeze(1).float().div_(255)
    return Part(pixels.sub_(MEAN).div_(DEVIATION), torch.from_numpy(labels).long())
