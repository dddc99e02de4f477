"""The LeNet on real digits: one shot with and without fine-tuning, granularities, and pruning in training."""

from __future__ import annotations

import copy
import statistics
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from benchmarks.sparsity.methods import ONE_SHOT
from benchmarks.sparsity.words import Told, percent, say
from prunus import masks
from prunus.demo.data import Digits, accuracy, batches, load_digits
from prunus.demo.lenet import LeNet
from prunus.masks import Sparsifier
from prunus.report.tables import Table
from prunus.train import cross_entropy, fit

SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.98)
TUNED = (0.9, 0.98)
EPOCHS, FINETUNE, STEPS = 4, 1, 110
GRANULARITIES = ("weight", "vector:4", "block:4x4", "kernel", "column", "channel", "filter", "2:4", "4:8", "1:4")


def tables(seeds: Sequence[int]) -> Iterator[Table]:
    """All tables of the LeNet; every figure is test accuracy, which no decision was made with."""
    digits = load_digits()
    dense = {seed: trained(digits, seed) for seed in seeds}
    base = [accuracy(model, digits.test) for model in dense.values()]
    one_shot, tuned = _criteria(digits, dense)
    yield _table("LeNet, one shot, no training", SPARSITIES, one_shot, base)
    yield _table(f"LeNet, one shot, then {FINETUNE} epoch", TUNED, tuned, base)
    yield _granularities(digits, dense, base)
    yield _training(digits, dense, base)


def trained(digits: Digits, seed: int) -> nn.Module:
    """A LeNet, as all others here start from."""
    torch.manual_seed(seed)
    model = LeNet()
    fit(model, batches(digits.train), epochs=EPOCHS, lr=4e-3, seed=seed)
    return model


def _calibration(digits: Digits) -> list[Any]:
    """512 training digits, in eight batches."""
    part = digits.train.head(512)
    return list(zip(part.images.split(64), part.labels.split(64), strict=True))


def _tune(model: nn.Module, digits: Digits, seed: int, hooks: Sequence[Any], epochs: int = FINETUNE) -> None:
    fit(model, batches(digits.train), epochs=epochs, lr=2e-3, seed=seed, hooks=hooks)


def _criteria(digits: Digits, dense: Mapping[int, nn.Module]) -> tuple[Told, Told]:
    data, one_shot, tuned = _calibration(digits), Told(), Told()
    for name, prune in ONE_SHOT.items():
        for sparsity in SPARSITIES:
            for seed, model in dense.items():
                torch.manual_seed(seed)
                sparse = Sparsifier(copy.deepcopy(model))
                with warnings.catch_warnings():  # a layer that dies shows in the accuracy
                    warnings.simplefilter("ignore", UserWarning)
                    prune(sparse, sparsity, data, cross_entropy)
                one_shot.add(name, sparsity, accuracy(sparse.model, digits.test))
                if sparsity in TUNED:
                    _tune(sparse.model, digits, seed, [sparse])
                    tuned.add(name, sparsity, accuracy(sparse.model, digits.test))
        say(f"LeNet: {name}")
    return one_shot, tuned


def _granularities(digits: Digits, dense: Mapping[int, nn.Module], base: Sequence[float]) -> Table:
    """L2 magnitude in units of several kinds; conv1 and fc3 stay dense, and conv2 where 6 channels don't fit N:M."""
    told, levels = Told(), (0.5, 0.75)
    for granularity in GRANULARITIES:
        pattern = ":" in granularity and granularity[0].isdigit()
        for level in levels:
            if pattern and level != 1 - int(granularity[0]) / int(granularity[2]):
                continue
            for seed, model in dense.items():
                sparse = Sparsifier(copy.deepcopy(model), only=["fc1", "fc2"] if pattern else ["conv2", "fc1", "fc2"])
                sparse.prune(None if pattern else level, "l2", granularity=granularity)
                _tune(sparse.model, digits, seed, [sparse])
                told.add(granularity, level, accuracy(sparse.model, digits.test))
    say("LeNet: granularities")
    title = f"LeNet, L2 magnitude by granularity (of conv2, fc1, fc2; N:M of fc1, fc2), then {FINETUNE} epoch"
    return _table(title, levels, told, base)


def _training(digits: Digits, dense: Mapping[int, nn.Module], base: Sequence[float]) -> Table:
    told, levels = Told(), (0.95,)
    for name, train in _TRAINING.items():
        for level in levels:
            for seed, model in dense.items():
                torch.manual_seed(seed)
                told.add(name, level, accuracy(train(copy.deepcopy(model), digits, seed, level), digits.test))
        say(f"LeNet: {name}")
    return _table(f"LeNet, pruned while it trains ({EPOCHS} epochs)", levels, told, base)


def _gradual(curve: Any) -> Callable[[nn.Module, Digits, int, float], nn.Module]:
    """From the trained network; pruned during half of the training."""

    def train(model: nn.Module, digits: Digits, seed: int, level: float) -> nn.Module:
        schedule = masks.Gradual(
            Sparsifier(model), level, end=2 * STEPS, every=10, curve=curve, importance="l1", scope="global"
        )
        _tune(model, digits, seed, [schedule], EPOCHS)
        return model

    return train


def _movement(model: nn.Module, digits: Digits, seed: int, level: float) -> nn.Module:
    sparse = Sparsifier(model)
    hook = masks.Movement(sparse, level, begin=20, end=2 * STEPS, every=10, scope="global")
    _tune(model, digits, seed, [hook], EPOCHS)
    return model


def _ticket(rewind_to: int) -> Callable[[nn.Module, Digits, int, float], nn.Module]:
    """From scratch: train, prune, go back to a step, train what is left."""

    def train(model: nn.Module, digits: Digits, seed: int, level: float) -> nn.Module:
        torch.manual_seed(seed)
        fresh = LeNet()
        ticket = masks.Ticket(fresh, at_step=rewind_to)
        fit(fresh, batches(digits.train), epochs=EPOCHS, lr=4e-3, seed=seed, hooks=[ticket])
        sparse = Sparsifier(fresh).prune(level, "l1", scope="global")
        ticket.rewind(sparse)
        fit(fresh, batches(digits.train), epochs=EPOCHS, lr=4e-3, seed=seed, hooks=[sparse])
        return fresh

    return train


def _dynamic(kind: str) -> Callable[[nn.Module, Digits, int, float], nn.Module]:
    """From scratch and sparse all the time, ERK densities."""

    def train(model: nn.Module, digits: Digits, seed: int, level: float) -> nn.Module:
        torch.manual_seed(seed)
        fresh = LeNet()
        sparse = Sparsifier(fresh)
        sparse.prune(masks.erdos_renyi(sparse, level), "random")
        hook: Any = sparse
        if kind == "SET":
            hook = masks.SET(sparse, every=50)
        elif kind == "RigL":
            hook = masks.RigL(sparse, every=50, end=int(0.75 * EPOCHS * STEPS))
        fit(fresh, batches(digits.train), epochs=EPOCHS, lr=4e-3, seed=seed, hooks=[hook])
        return fresh

    return train


_TRAINING: Mapping[str, Callable[[nn.Module, Digits, int, float], nn.Module]] = {
    "gradual, cubic (AGP)": _gradual("cubic"),
    "gradual, one cycle": _gradual("one_cycle"),
    "gradual, exponential": _gradual("exponential"),
    "iterative, 5 rounds": _gradual(masks.iterative(5)),
    "movement, hard": _movement,
    "lottery ticket, to the start": _ticket(0),
    "lottery ticket, to step 50": _ticket(50),
    "static random, from scratch": _dynamic("static"),
    "SET, from scratch": _dynamic("SET"),
    "RigL, from scratch": _dynamic("RigL"),
}


def _table(title: str, levels: Sequence[float], told: Told, base: Sequence[float]) -> Table:
    dense = f"{statistics.mean(base):.2f} ± {statistics.stdev(base) if len(base) > 1 else 0:.2f} %"
    note = f"Test accuracy, mean ± standard deviation over {len(base)} seeds; the dense network has {dense}."
    return told.table(title, levels, percent, note)
