"""How far the model's outputs move with each output of its linear maps: what an error there costs in the end."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from prunus.contractions import Contraction, Watch, names, random_sum
from prunus.errors import TraceError
from prunus.importance.context import Context
from prunus.running import Inputs, call, differentiable, outputs_in
from prunus.trace import Member

T = TypeVar("T")

BATCHES, EXAMPLES, DRAWS = 8, 8, 2
_TINY = 1e-300
_WITHOUT = (
    "{model} can't be run with gradients ({error}), so that what an error of a layer does to the outputs is unknown: "
    "the scores take each for as bad as its share in the layer's own outputs."
)


class Slopes:
    """Mean squares of the slopes of random sums of the model's outputs, over the variance of these outputs.

    To first order, and with the errors of different positions taken as independent, they say which share of the
    outputs' variance an error is worth: 1 is as good as losing them. Both maps go from the dimension of a weight that
    runs over its outputs to one value for each of these; empty where the outputs have no gradient.

    Attributes:
        errors: for an error of mean square 1 in an output, at every position.
        values: for leaving the output out.
    """

    def __init__(self, context: Context) -> None:
        self.errors: dict[Member, Tensor] = {}
        self.values: dict[Member, Tensor] = {}
        variance = 0.0
        for example in islice(context.inputs(), BATCHES):
            try:
                outputs, flows = on_few(partial(_flows, context), example, EXAMPLES)
            except (TraceError, RuntimeError) as error:
                warnings.warn(_WITHOUT.format(model=type(context.model).__name__, error=error), stacklevel=2)
                self.errors, self.values = {}, {}
                return
            variance += sum(float((y.double() - y.double().mean()).square().sum()) for y in outputs)
            for member, contraction, output, slope in flows:
                rows, there = (t.movedim(contraction.channel, -1).flatten(0, -2).double() for t in (slope, output))
                self.errors[member] = self.errors.get(member, 0) + rows.square().sum(0)
                self.values[member] = self.values.get(member, 0) + (rows * there).square().sum(0)
        for found in (self.errors, self.values):
            for member in found:
                found[member] /= max(variance, _TINY) * DRAWS


Flow = tuple[Member, Contraction, Tensor, Tensor]
"""The dimension of a weight that runs over outputs, its call, the output, and a slope there."""


def _flows(context: Context, example: Inputs) -> tuple[list[Tensor], list[Flow]]:
    """The model's outputs for one batch, and the slopes of ``DRAWS`` random sums of them."""
    found: list[tuple[Member, Contraction, Tensor]] = []

    def see(name: str, contraction: Contraction, output: Tensor) -> None:
        if output.requires_grad and not contraction.interleaved:
            found.append((Member(name, contraction.out_dim), contraction, output))

    flows: list[Flow] = []
    with differentiable(context.model.parameters()):
        with Watch(names(context.model), see):
            outputs = [y for y in outputs_in(call(context.model, *example)) if y.requires_grad]
        draw = torch.Generator().manual_seed(0)
        for i in range(DRAWS if outputs and found else 0):
            total, written = random_sum(outputs, draw), [y for *_, y in found]
            slopes = torch.autograd.grad(total, written, retain_graph=i + 1 < DRAWS, allow_unused=True)
            flows += [(*seen[:2], seen[2].detach(), s) for seen, s in zip(found, slopes, strict=True) if s is not None]
    return [y.detach() for y in outputs], flows


def on_few(work: Callable[[Inputs], T], example: Inputs, count: int) -> T:
    """``work`` on the first examples of a batch; on all, where the model doesn't take fewer."""
    try:
        return work(pytree.tree_map_only(Tensor, lambda t: t[:count] if t.dim() else t, example))
    except TraceError:
        return work(example)
