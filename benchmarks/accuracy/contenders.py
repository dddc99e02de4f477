"""Ways to a network of a given cost: prunus, Torch-Pruning with each of its criteria, and two of NNI's pruners."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

from torch import nn

import prunus
from benchmarks.accuracy.task import Task
from benchmarks.nni_speedup import nni_speedup
from prunus.importance import resolve, score

Cutter = Callable[[Task, float], nn.Module]
"""From a task and a channel ratio to a small model."""

Contender = Callable[[Task, float], nn.Module]
"""From a task and the part of the MACs to a small model."""


STEPS = 7


def with_macs(cut: Callable[[float], nn.Module], task: Task, part: float) -> nn.Module:
    """The largest model that ``cut`` makes with at most ``part`` of the MACs: bisection over the channel ratio."""
    full = macs(task.model, task)
    low, high, best = 0.0, 1.0, None
    for _ in range(STEPS):
        ratio = (low + high) / 2
        small = cut(ratio)
        if macs(small, task) <= part * full:
            best, high = small, ratio
        else:
            low = ratio
    if best is None:
        raise ArithmeticError(f"no ratio brings {part:.0%} of the MACs")
    return best


def macs(model: nn.Module, task: Task) -> int:
    return prunus.profile(model, task.example, latency=False).macs


def ours(importance: str | None, *, refit: bool, solver: bool = False) -> Contender:
    """As `prunus.prune` does it, scored once: the ratio is searched for, or the budget's solver shares it out."""

    def make(task: Task, part: float) -> nn.Module:
        model, known = scored(task, importance, refit)
        plan = partial(_planned, model, task.example, known)
        if solver:
            small = plan(budget={"macs": f"{part:.0%}"}).apply(model)
        else:
            small = with_macs(lambda r: plan(ratio=r).apply(model), task, part)
        if refit:
            prunus.compensate(model, small, small.prunus_plan, task.calls, task.example)
        return small

    return make


def _planned(model: nn.Module, example: Any, known: prunus.Importance, **how: Any) -> prunus.Plan:
    """On a graph of its own: what one plan learned of the model's paths is not to help the next one."""
    return prunus.plan(prunus.trace(model, example), importance=known, **how)


@cache
def scored(task: Task, importance: str | None, refit: bool) -> tuple[nn.Module, prunus.Importance]:
    """The model and its scores: by default it is turned before, where a refit follows."""
    graph, model = prunus.trace(task.model, task.example), task.model
    if refit and importance is None:
        turned = prunus.rotate(graph, task.calls)
        graph, model = turned.graph, turned.model
    name = importance or ("auto" if refit else "l2")
    found = score(graph, name, task.calls, task.loss)
    known = {group.name: found[group.atom] for group in graph.free if group.atom in found}
    return model, prunus.Importance(partial(_by_name, known), additive=resolve(name).additive)


def _by_name(known: Mapping[str, Any], context: Any) -> dict[Any, Any]:
    return {group: known[group.name] for group in context.graph.free if group.name in known}


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


def nni(kind: str) -> Cutter:
    """One of NNI's pruners, then its speedup."""

    def cut(task: Task, ratio: float) -> nn.Module:
        from nni.compression import pruning

        model = copy.deepcopy(task.model)
        kept = [name for name, module in model.named_modules() if module in task.outputs(model)]
        types = ["Conv2d", "Linear"]
        pruner = getattr(pruning, kind)(
            model, [{"op_types": types, "exclude_op_names": kept, "sparse_ratio": max(ratio, 1e-3)}]
        )
        _, masks = pruner.compress()
        pruner.unwrap_model()
        nni_speedup(model, task.example, masks)
        task.after(model)
        return model

    return cut


PEERS: dict[str, Cutter] = {
    "Torch-Pruning, group L2": peer(lambda tp: tp.importance.MagnitudeImportance(p=2)),
    "Torch-Pruning, filter L1": peer(lambda tp: tp.importance.MagnitudeImportance(p=1, group_reduction="first")),
    "Torch-Pruning, BN scale": peer(lambda tp: tp.importance.BNScaleImportance()),
    "Torch-Pruning, LAMP": peer(lambda tp: tp.importance.LAMPImportance(p=2)),
    "Torch-Pruning, FPGM": peer(lambda tp: tp.importance.FPGMImportance(p=2)),
    "Torch-Pruning, Taylor": peer(lambda tp: tp.importance.TaylorImportance(), gradients=True),
    "Torch-Pruning, Hessian": peer(lambda tp: tp.importance.HessianImportance(), gradients=True),
    "NNI, L1": nni("L1NormPruner"),
    "NNI, FPGM": nni("FPGMPruner"),
}

OURS: dict[str, Contender] = {
    "prunus, default with data": ours(None, refit=True),
    "prunus, MACs as the budget, with data": ours(None, refit=True, solver=True),
    "prunus, L2, refit": ours("l2", refit=True),
    "prunus, random, refit": ours("random", refit=True),
    "prunus, default without data": ours(None, refit=False),
}


def contenders() -> dict[str, Contender]:
    """All ways, by name."""
    return {**OURS, **{name: partial(_searched, cut) for name, cut in PEERS.items()}}


def _searched(cut: Cutter, task: Task, part: float) -> nn.Module:
    return with_macs(partial(cut, task), task, part)
