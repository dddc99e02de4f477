"""Fashion-MNIST, from Debian's package dataset-fashion-mnist; ``make recovery`` unpacks it."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import torch

from prunus.demo.data import DEVIATION, MEAN, Digits, Part

DATA = Path(".bench-data/fashion-mnist")


def load_fashion(validation: int = 5000) -> Digits:
    """60,000 pictures of clothes, 28x28 and grey, in ten classes: all but the last ``validation`` to learn from."""
    learn, test = _part("train"), _part("t10k")
    split = len(learn) - validation
    return Digits(learn.head(split), Part(learn.images[split:], learn.labels[split:]), test)


def _part(name: str) -> Part:
    pixels = _read(DATA / f"{name}-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28)
    labels = _read(DATA / f"{name}-labels-idx1-ubyte.gz", 8)
    images = torch.from_numpy(pixels).float().div_(255).sub_(MEAN).div_(DEVIATION)
    return Part(images, torch.from_numpy(labels).long())


def _read(path: Path, header: int) -> np.ndarray:
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), np.uint8, offset=header).copy()
