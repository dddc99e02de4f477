"""What a recipe's data is, and the data of the ready recipes: real digits, and sequences that are generated."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from prunus.demo.data import batches, load_digits


@torch.no_grad()
def accuracy(model: nn.Module, data: Iterable[Any]) -> float:
    """The share of the examples whose class is found, in percent."""
    right = total = 0
    device = next(model.parameters()).device
    for inputs, targets in data:
        right += int((model(inputs.to(device)).argmax(-1).cpu() == targets).sum())
        total += targets.numel()
    return 100.0 * right / total


@dataclass(frozen=True)
class Data:
    """What ``data:`` must return when it is called with ``data_args``.

    Attributes:
        train: batches to learn from, with a length: a DataLoader. Shuffling draws from torch's random numbers.
        validation: batches to decide with: a list, or a DataLoader that doesn't shuffle.
        test: batches that ``bench`` reports on, and nothing else sees.
        example: example inputs of the model, as :func:`prunus.trace` takes them.
        task: ``task(output, targets) -> scalar``, the loss of a batch ``(inputs, targets)``.
        score: ``score(model, batches) -> number``, higher is better; the model is in eval mode.
        metric: what the score is called.
    """

    train: Iterable[Any]
    validation: Iterable[Any]
    test: Iterable[Any]
    example: Any
    task: Callable[[Any, Any], Tensor] = F.cross_entropy
    score: Callable[[nn.Module, Iterable[Any]], float] = accuracy
    metric: str = "accuracy (%)"

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The loss as ``prunus.train.fit`` takes it."""
        inputs, targets = batch
        return self.task(model(inputs), targets)


def digits(examples: int | None = None, batch: int = 64) -> Data:
    """10,000 real handwritten digits (``prunus.demo``), ``examples`` of the 7,000 to learn from."""
    found = load_digits()
    train = found.train if examples is None else found.train.head(examples)
    parts = [list(zip(p.images.split(500), p.labels.split(500), strict=True)) for p in (found.validation, found.test)]
    return Data(batches(train, batch), parts[0], parts[1], train.images[:2])


def sequences(examples: int = 4000, length: int = 16, tokens: int = 32, classes: int = 4, batch: int = 64) -> Data:
    """Token sequences (batch, length) of several random Markov chains; the class is which chain made it. Generated."""
    draw = torch.Generator().manual_seed(0)
    chains = torch.softmax(3 * torch.randn(classes, tokens, tokens, generator=draw, device="cpu"), -1)
    sets = []
    for count in (examples, 500, 1000):
        labels = torch.randint(0, classes, (count,), generator=draw, device="cpu")
        sets.append((_walk(chains[labels], length, draw), labels))
    return _data(sets, batch, Data)


def next_tokens(examples: int = 2000, length: int = 24, tokens: int = 48, batch: int = 32) -> Data:
    """Sequences of one random Markov chain: each token is to be told from those before it. Generated."""
    draw = torch.Generator().manual_seed(0)
    chain = torch.softmax(3 * torch.randn(tokens, tokens, generator=draw, device="cpu"), -1)
    sets = []
    for count in (examples, 200, 400):
        ids = _walk(chain.expand(count, -1, -1), length + 1, draw)
        sets.append((ids[:, :-1], ids[:, 1:]))

    def task(output: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(output.flatten(0, 1), targets.flatten())

    def data(train: Any, validation: Any, test: Any, example: Any) -> Data:
        return Data(train, validation, test, example, task=task, metric="next token (%)")

    return _data(sets, batch, data)


def _data(sets: list[tuple[Tensor, Tensor]], batch: int, make: Callable[..., Data]) -> Data:
    train, *others = sets
    loader: Any = DataLoader(TensorDataset(*train), batch_size=batch, shuffle=True)
    parts = [list(zip(x.split(250), y.split(250), strict=True)) for x, y in others]
    return make(loader, parts[0], parts[1], train[0][:2])


def _walk(chains: Tensor, length: int, draw: torch.Generator) -> Tensor:
    """(count, length) tokens, a walk on the chain (count, tokens, tokens) of each."""
    at = torch.randint(0, chains.shape[-1], (len(chains), 1), generator=draw, device="cpu")
    steps = [at]
    for _ in range(length - 1):
        rows = chains[torch.arange(len(chains), device="cpu"), steps[-1][:, 0]]
        steps.append(torch.multinomial(rows, 1, generator=draw))
    return torch.cat(steps, 1)
