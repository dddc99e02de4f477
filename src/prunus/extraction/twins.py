"""Units that are multiples of each other: one of them is read in place of all, and nothing reads the others."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from prunus.extraction.alike import Alike, alike_alike, alike_rows
from prunus.extraction.interpret import Interpretation, interpret
from prunus.extraction.sinks import Sink, as_kernel
from prunus.running import Inputs
from prunus.surgery import named_tensors


def merged(model: nn.Module, inputs: list[Inputs]) -> dict[str, Tensor]:
    """What to add to which parameters of a model in fp64, so that of units that are alike one is read."""
    if not any(_any_alike(p) for p in named_tensors(model).values() if isinstance(p, nn.Parameter)):
        return {}  # all that is alike starts there
    found = interpret(model, inputs, twins=True)
    by: dict[str, list[Sink]] = {}
    for sink in found.sinks:
        if sink.weight is not None:
            by.setdefault(sink.weight, []).append(sink)
    deltas = {weight: _delta(found, sinks) for weight, sinks in by.items() if found.uses[weight] == len(sinks)}
    return {weight: delta for weight, delta in deltas.items() if delta is not None}


def _any_alike(parameter: Tensor) -> bool:
    if parameter.dim() < 2 or not parameter.is_floating_point() or not parameter.numel():
        return False
    weight = parameter.detach().double()
    return any(_repeats(alike_rows(w.flatten(1))[0]) for w in (weight, weight.transpose(0, 1)))


def _repeats(group: Tensor) -> bool:
    return len(group.unique()) < len(group)


def _delta(found: Interpretation, sinks: list[Sink]) -> Tensor | None:
    """Columns of a weight moved to that of the largest unit among those that are alike, in every call of the layer."""
    alike = _agreed(sinks)
    kernel = sinks[0].kernel
    if alike is None or kernel is None:
        return None
    groups, _, inner, _ = kernel.shape
    weight = found.graph.skeleton.get_parameter(sinks[0].weight or "").detach()
    after = weight.clone()
    view = as_kernel(after, sinks[0].layout, groups)
    for g in range(groups):
        own = slice(g * inner, (g + 1) * inner)
        for members in _together(alike.group[own]):
            scale = alike.scale[own][members]
            first = int(scale.abs().argmax())
            ratio = (scale / scale[first]).view(1, -1, 1).to(weight.dtype)
            total = (view[g][:, members] * ratio).sum(1)
            view[g][:, members] = 0
            view[g][:, members[first]] = total
    return None if torch.equal(after, weight) else after - weight


def _agreed(sinks: list[Sink]) -> Alike | None:
    """What is alike at every call; where all inputs are zero (the first step of a recurrent layer), everything is."""
    moving = [s.alike for s in sinks if not s.silent]
    first = moving[0] if moving else None
    if first is None or len({(s.layout, s.weight) for s in sinks}) > 1:
        return None
    return first if all(a is not None and alike_alike(first, a) for a in moving) else None


def _together(group: Tensor) -> Iterable[Tensor]:
    ids, counts = group.unique(return_counts=True)
    return [torch.nonzero(group == i).flatten() for i in ids[counts > 1]]
