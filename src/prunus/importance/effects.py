"""How far the model's outputs really move when a part of a group goes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.func import functional_call

from prunus.importance.context import Context
from prunus.importance.slopes import on_few
from prunus.running import Inputs, call, outputs_in

EXAMPLES = 16
_TINY = 1e-12

Change = Callable[[Tensor], Mapping[str, Tensor]]
"""From the indices that go to the parameters that are other then, by name."""


class Effects:
    """The model's outputs for a few examples, to compare with those of the model with other parameters."""

    def __init__(self, context: Context) -> None:
        self.model = context.model
        self.example, self.outputs = on_few(lambda few: (few, self._run(few, {})), context.inputs().first(), EXAMPLES)
        self.variance = sum(float((y - y.mean()).square().sum()) for y in self.outputs)

    def of(self, changed: Mapping[str, Tensor]) -> float:
        """By which share of their variance the outputs move if the named parameters have these values."""
        pairs = zip(self._run(self.example, changed), self.outputs, strict=True)
        return sum(float((new - old).square().sum()) for new, old in pairs) / max(self.variance, _TINY)

    def scaled(self, scores: Tensor, change: Change) -> Tensor:
        """The scores of a group, times what makes those of its lower half add up to what that costs the outputs."""
        gone = torch.argsort(scores, stable=True)[: len(scores) // 2]
        foretold = float(scores[gone].sum())
        if foretold <= _TINY:
            return scores
        found = self.of(change(gone))
        return scores * max(found, _TINY) / foretold if math.isfinite(found) else scores

    def _run(self, example: Inputs, changed: Mapping[str, Tensor]) -> list[Tensor]:
        positional, keywords = example
        if changed:
            outputs = functional_call(self.model, dict(changed), positional, keywords)
        else:
            outputs = call(self.model, positional, keywords)
        return [y.detach().double() for y in outputs_in(outputs) if y.is_floating_point()]
