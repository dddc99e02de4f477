"""Ways to a network of a given cost: prunus, and Torch-Pruning with each of its criteria."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

from torch import nn

import prunus
from benchmarks.accuracy.task import Task

Cutter = Callable[[Task, float], nn.Module]
"""From a task and a channel ratio to a small model."""


def with_macs(cut: Cutter, task: Task, part: float) -> nn.Module:
    """The largest model that ``cut`` makes with at most ``part`` of the MACs: bisection over the channel ratio."""
    full = macs(task.model, task)
    low, high, best = 0.0, 1.0, None
    for _ in range(9):
        ratio = (low + high) / 2
        small = cut(task, ratio)
        if macs(small, task) <= part * full:
            best, high = small, ratio
        else:
            low = ratio
    if best is None:
        raise ArithmeticError(f"no ratio brings {part:.0%} of the MACs")
    return best


def macs(model: nn.Module, task: Task) -> int:
    return prunus.profile(model, task.example, latency=False).macs


def ours(importance: str, **options: Any) -> Cutter:
    def cut(task: Task, ratio: float) -> nn.Module:
        return prunus.plan(task.model, task.example, ratio=ratio, importance=importance, **options).apply(task.model)

    return cut


def mended(cut: Cutter, task: Task, part: float) -> nn.Module:
    """Cut to the budget, then solve what remains against the original, on the calibration data."""
    small = with_macs(cut, task, part)
    prunus.compensate(task.model, small, small.prunus_plan, task.data, task.example)
    return small


def peer(make: Callable[[Any], Any], gradients: bool = False) -> Cutter:
    """Torch-Pruning with one of its importances, the output layer kept."""

    def cut(task: Task, ratio: float) -> nn.Module:
        import torch_pruning as tp

        model = copy.deepcopy(task.model)
        importance = make(tp)
        kept, heads = task.outputs(model), dict(task.heads(model))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pruner = tp.pruner.MetaPruner(
                model,
                task.example,
                importance=importance,
                pruning_ratio=ratio,
                ignored_layers=kept,
                **({"num_heads": heads} if heads else {}),
            )
            if gradients:
                _gradients(model, importance, task)
            pruner.step()
        task.after(model)
        model.zero_grad()
        return model

    return cut


def _gradients(model: nn.Module, importance: Any, task: Task) -> None:
    """As Torch-Pruning's examples do: the mean gradient for Taylor, squares of each example's loss for Hessian."""
    import torch_pruning as tp

    if isinstance(importance, tp.importance.HessianImportance):
        importance.zero_grad()
        for batch in task.data[:2]:
            for i in range(0, len(batch[0]), 2):
                model.zero_grad()
                task.loss(model, [t[i : i + 1] for t in batch]).backward(retain_graph=False)
                importance.accumulate_grad(model)
        return
    model.zero_grad()
    for batch in task.data:
        task.loss(model, batch).backward()


PEERS: dict[str, Cutter] = {
    "Torch-Pruning, group L2": peer(lambda tp: tp.importance.MagnitudeImportance(p=2)),
    "Torch-Pruning, BN scale": peer(lambda tp: tp.importance.BNScaleImportance()),
    "Torch-Pruning, LAMP": peer(lambda tp: tp.importance.LAMPImportance(p=2)),
    "Torch-Pruning, FPGM": peer(lambda tp: tp.importance.FPGMImportance(p=2)),
    "Torch-Pruning, Taylor": peer(lambda tp: tp.importance.TaylorImportance(), gradients=True),
    "Torch-Pruning, Hessian": peer(lambda tp: tp.importance.HessianImportance(), gradients=True),
}

OURS: dict[str, Callable[[Task, float], nn.Module]] = {
    "prunus, default with data": lambda task, part: mended(ours("l2"), task, part),
    "prunus, default without data": lambda task, part: with_macs(ours("l2"), task, part),
    "prunus, L1, refit": lambda task, part: mended(ours("l1"), task, part),
    "prunus, random, refit": lambda task, part: mended(ours("random"), task, part),
}


def contenders() -> dict[str, Callable[[Task, float], nn.Module]]:
    return {**OURS, **{name: (lambda task, part, c=cut: with_macs(c, task, part)) for name, cut in PEERS.items()}}
