"""The jobs: a network and its data, how it is trained, and what is known of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.recovery.fashion import load_fashion
from prunus.demo.data import Digits, Part, batches, load_digits
from prunus.demo.lenet import LeNet
from prunus.recipes.models import ResNet8
from prunus.train import Hook, Loss, cross_entropy, fit


@dataclass(frozen=True)
class Job:
    """A network and its figures.

    Attributes:
        name: as the page calls it.
        make, load: the network and the data.
        epochs: to train the dense network.
        sparse_epochs: of a sparse training that goes on from it.
        labelled: how many labelled pictures there are to recover with after the cut; None is all.
        recovery: epochs over these.
        batch, lr: of every training; AdamW, one cycle.
        ratio, sparse_ratio: what goes of each group, in a cut at once and by sparse training.
        taps: modules whose activations FitNets compare.
        norm: whether there is batch norm to slim.
    """

    name: str
    make: Callable[[], nn.Module]
    load: Callable[[], Digits]
    epochs: int
    sparse_epochs: int
    labelled: int | None
    recovery: int
    batch: int
    lr: float
    ratio: float
    sparse_ratio: float
    taps: tuple[str, ...]
    norm: bool

    def few(self, digits: Digits, count: int | None, seed: int) -> Part:
        """Pictures to recover with, drawn by the seed."""
        if count is None:
            return digits.train
        order = torch.randperm(len(digits.train), generator=torch.Generator().manual_seed(seed))[:count]
        return Part(digits.train.images[order], digits.train.labels[order])


FASHION = ("blocks.0", "blocks.1", "blocks.2")
JOBS = {
    "fashion": Job("ResNet-8, clothes", ResNet8, load_fashion, 2, 1, 1000, 40, 128, 4e-3, 0.6, 0.4, FASHION, norm=True),
    "few": Job(
        "LeNet, digits, few labels",
        LeNet,
        load_digits,
        6,
        0,
        500,
        40,
        64,
        4e-3,
        0.65,
        0.0,
        ("conv2", "fc2"),
        norm=False,
    ),
    "lenet": Job("LeNet, digits", LeNet, load_digits, 6, 4, None, 4, 64, 4e-3, 0.65, 0.5, ("conv2", "fc2"), norm=False),
}


def train(
    model: nn.Module,
    part: Part,
    job: Job,
    seed: int,
    epochs: int,
    loss: Loss = cross_entropy,
    hooks: tuple[Hook, ...] = (),
    optimizer: torch.optim.Optimizer | None = None,
    batch: int | None = None,
) -> nn.Module:
    """One run of the loop; the optimizer is AdamW unless one is given."""
    loader = batches(part, batch or job.batch)
    fit(model, loader, epochs=epochs, lr=job.lr, loss=loss, hooks=hooks, seed=seed, optimizer=optimizer)
    return model
