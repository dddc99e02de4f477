"""The methods. Each gets the trained network and returns the small one; all train as many epochs after it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

import prunus
from benchmarks.recovery.models import Job, train
from prunus import masks
from prunus.demo.data import Digits, batches
from prunus.demo.lenet import LeNet
from prunus.plan import Plan
from prunus.train import Loss, cross_entropy
from prunus.train.distill import Distill, Features, Logits
from prunus.train.regularizers import HESSO, L0, GroupLasso, GroupNorm, Growing, Slimming

RECOVERY_BATCH = 64

Method = Callable[[nn.Module, Digits, Job, int], nn.Module]


def planned(model: nn.Module, digits: Digits, ratio: float, importance: str = "l2") -> Plan:
    """A share of each group."""
    return prunus.plan(model, digits.train.images[:1], ratio=ratio, importance=importance)


def cut(dense: nn.Module, digits: Digits, job: Job, seed: int) -> nn.Module:
    """Cut by L2 norms, and nothing else."""
    return planned(dense, digits, job.ratio).apply(dense)


def tuned(make: Callable[[nn.Module, nn.Module, Digits, Job], Loss]) -> Method:
    """Cut by L2 norms, then train with a loss on the labelled pictures there are."""

    def method(dense: nn.Module, digits: Digits, job: Job, seed: int) -> nn.Module:
        small = cut(dense, digits, job, seed)
        part = job.few(digits, job.labelled, seed)
        return train(small, part, job, seed, job.recovery, make(dense, small, digits, job), batch=RECOVERY_BATCH)

    return method


def unlabelled(dense: nn.Module, digits: Digits, job: Job, seed: int) -> nn.Module:
    """The teacher's outputs alone, on ten times as many pictures without labels, in as many steps."""
    small = cut(dense, digits, job, seed)
    part = job.few(digits, 10 * (job.labelled or 0), seed)
    loss = Distill(dense, Logits("hinton", 1.0, {"temperature": 4.0}), task_weight=0)
    return train(small, part, job, seed, job.recovery // 10, loss, batch=RECOVERY_BATCH)


def scratch(dense: nn.Module, digits: Digits, job: Job, seed: int) -> nn.Module:
    """The small architecture with new weights, trained on what there is to recover with, three times as long."""
    torch.manual_seed(seed + 100)
    small = planned(dense, digits, job.ratio).apply(job.make())
    part = job.few(digits, job.labelled, seed)
    return train(small, part, job, seed, 3 * job.recovery, batch=RECOVERY_BATCH)


def sparse(make: Callable[[Any, Digits, Job], Any], importance: str = "l2") -> Method:
    """Train the dense network on with a hook, then cut as much; no training afterwards."""

    def method(dense: nn.Module, digits: Digits, job: Job, seed: int) -> nn.Module:
        model = copy.deepcopy(dense)
        hook, optimizer = make(model, digits, job)
        train(model, digits.train, job, seed, job.sparse_epochs, hooks=(hook,), optimizer=optimizer)
        plan = hook.plan if isinstance(hook, HESSO | Growing) else planned(model, digits, job.sparse_ratio, importance)
        return plan.apply(model)

    return method


def once(dense: nn.Module, digits: Digits, job: Job, seed: int) -> nn.Module:
    """From new weights to the small network in one training."""
    torch.manual_seed(seed)
    model = job.make()
    epochs = job.epochs + job.sparse_epochs
    total = epochs * _steps(digits, job)
    hook = HESSO(_graph(model, digits), job.sparse_ratio, begin=total // 10, length=total // 10, periods=5)
    train(model, digits.train, job, seed, epochs, hooks=(hook,))
    return hook.plan.apply(model)


def gates(dense: nn.Module, digits: Digits, job: Job, seed: int) -> nn.Module:
    """L0 chooses by itself how many indices go."""
    model = copy.deepcopy(dense)
    hook = L0(_graph(model, digits), strength=3e-3, lr=0.05)
    train(model, digits.train, job, seed, job.sparse_epochs, hooks=(hook,))
    return hook.plan().apply(model)


def soft_filters(dense: nn.Module, digits: Digits, job: Job, seed: int) -> nn.Module:
    """Soft filter pruning; what is zero at the end is cut, whatever else is in its group."""
    model = copy.deepcopy(dense)
    hook = masks.SoftFilter(
        prunus.Sparsifier(model, skip=["fc3" if isinstance(model, LeNet) else "head"]), job.sparse_ratio
    )
    train(model, digits.train, job, seed, job.sparse_epochs, hooks=(hook,))
    return planned(model, digits, job.sparse_ratio).apply(model)


def _steps(digits: Digits, job: Job) -> int:
    """Of an epoch."""
    return len(batches(digits.train, job.batch))


def _graph(model: nn.Module, digits: Digits) -> Any:
    return prunus.trace(model, digits.train.images[:1])


def _lasso(model: nn.Module, digits: Digits, job: Job) -> Any:
    optimizer = torch.optim.AdamW(model.parameters(), lr=job.lr)
    return GroupLasso(_graph(model, digits), 0.2, optimizer), optimizer


def _hesso(model: nn.Module, digits: Digits, job: Job) -> Any:
    total = job.sparse_epochs * _steps(digits, job)
    return HESSO(_graph(model, digits), job.sparse_ratio, begin=0, length=total // 10, periods=5), None


def _growing(model: nn.Module, digits: Digits, job: Job) -> Any:
    steps = job.sparse_epochs * _steps(digits, job)
    return Growing(
        model, planned(model, digits, job.sparse_ratio), delta=10 / (0.8 * steps / 5), ceiling=10.0, every=5
    ), None


def _loss(*terms: Any, task_weight: float) -> Callable[[nn.Module, nn.Module, Digits, Job], Loss]:
    def make(dense: nn.Module, small: nn.Module, digits: Digits, job: Job) -> Loss:
        found = [term for each in terms for term in (each(job) if each is _taps else [each])]
        example = digits.train.images[:2]
        return Distill(dense, found, task_weight=task_weight, student=small, example=example)

    return make


def _taps(job: Job) -> list[Features]:
    return [Features(path, weight=1.0) for path in job.taps]


_HINTON = Logits("hinton", 0.9, {"temperature": 4.0})
METHODS: Mapping[str, Method] = {
    "cut by L2": cut,
    "small from new weights": scratch,
    "cut, fine-tune": tuned(lambda *_: cross_entropy),
    "cut, distil (Hinton)": tuned(_loss(_HINTON, task_weight=0.1)),
    "cut, distil (DKD)": tuned(_loss(Logits("dkd", 0.5, {"temperature": 4.0, "beta": 2.0}), task_weight=1.0)),
    "cut, distil (DIST)": tuned(_loss(Logits("dist", 2.0), task_weight=1.0)),
    "cut, distil (Hinton + FitNets)": tuned(_loss(_HINTON, _taps, task_weight=0.1)),
    "cut, distil without labels": unlabelled,
    "slimming, cut": sparse(lambda model, *_: (Slimming(model, 1e-2), None), "bn_scale"),
    "GReg, cut": sparse(_growing),
    "soft filters, cut": soft_filters,
    "group norm, cut": sparse(lambda model, digits, job: (GroupNorm(_graph(model, digits), 3e-2), None)),
    "group lasso, cut": sparse(_lasso),
    "L0, cut what closed": gates,
    "HESSO, cut": sparse(_hesso),
    "HESSO from new weights, cut": once,
}
"""From slimming on they aren't trained after the cut."""
_LONG = (
    "slimming, cut",
    "GReg, cut",
    "soft filters, cut",
    "group norm, cut",
    "group lasso, cut",
    "L0, cut what closed",
    "HESSO from new weights, cut",
)
LEFT_OUT = {
    "few": (*_LONG, "HESSO, cut"),
    "fashion": ("small from new weights", "cut, distil (DIST)", *_LONG),
    "lenet": ("slimming, cut", "cut, distil without labels"),
}
"""Without batch norm, without pictures that have no labels; what would take long on 55,000 pictures, or needs them."""
