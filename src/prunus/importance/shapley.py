"""Shapley values: an index's share in what all indices of its group together do for the loss.

Ancona, Öztireli, Gross, "Shapley Value as Principled Metric for Structured Network Pruning" (2020), eq. 1, estimated by
permutation sampling (Castro, Gómez, Tejada, 2009).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prunus.contractions.calls import CALLS
from prunus.importance.context import Context, Found, Place
from prunus.trace import Group
from prunus.trace.functions import OpenMode

PERMUTATIONS = 8


def shapley(context: Context) -> Found:
    """How much the loss on the first batch rises when an index goes, averaged over orders in which all of them go.

    An index that is gone is zero in what every linear map of the group reads; groups that none reads have no score.
    What comes before the first of them isn't run again. ``PERMUTATIONS`` orders for each group, each with one (partial)
    run an index: this is for small networks.
    """
    batch = next(context.batches())
    draw = torch.Generator().manual_seed(0)
    found: dict[Place, Tensor] = {}
    for group in context.graph.free:
        runner = _Runner(context, group, batch)
        if runner.reads:
            orders = [torch.randperm(group.size, generator=draw, device="cpu") for _ in range(PERMUTATIONS)]
            found[group] = torch.stack([_rises(runner, order) for order in orders]).mean(0)
    return found


def _rises(runner: _Runner, order: Tensor) -> Tensor:
    there = torch.ones(len(order), device="cpu")
    rises, before = torch.zeros(len(order), dtype=torch.float64, device="cpu"), runner.loss(there)
    for index in order:
        there[index] = 0
        after = runner.loss(there)
        rises[index], before = after - before, after
    return rises


class _Runner:
    """Runs the loss with indices of a group made zero, from the group's first reader on."""

    def __init__(self, context: Context, group: Group, batch: Any) -> None:
        self.context, self.batch = context, batch
        members = list(context.members(group))
        readers = {id(context.weights[m.name]): context.places(m, group.atom) for m in members}
        self.reads = {key: places for key, places in readers.items() if key in _read(context, batch, members)}
        self.prefix: list[Any] = []

    def loss(self, there: Tensor) -> float:
        """The loss with what ``there`` (a one or zero per index) says."""
        if any(_version(value) != version for value, version in self.prefix):
            self.prefix = []  # something written over since: it must be computed again
        mode = _Masked(self.reads, there, self.prefix)
        with mode:
            value = self.context.loss(self.context.model, self.batch)
        self.prefix = mode.prefix
        return float(value)


def _read(context: Context, batch: Any, members: list[Any]) -> set[int]:
    """The ids of the weights that read the group's axis as their inputs."""
    dims = {id(context.weights[m.name]): m.dim for m in members}
    found: set[int] = set()

    class Look(OpenMode):
        def call(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
            read = CALLS.get(getattr(func, "__name__", ""))
            contraction = read(*args, **kwargs) if read is not None else None
            if contraction is not None and dims.get(id(contraction.weight)) == contraction.in_dim:
                found.add(id(contraction.weight))
            return func(*args, **kwargs)

    with Look():
        context.loss(context.model, batch)
    return found


class _Masked(OpenMode):
    """Gives the recorded results up to the first reader, and the readers inputs with zeros."""

    def __init__(self, reads: dict[int, Tensor], there: Tensor, prefix: list[Any]) -> None:
        super().__init__()
        self.reads, self.there, self.prefix = reads, there, prefix
        self.recording, self.at = not prefix, 0

    def call(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if not self.recording and self.at < len(self.prefix):
            self.at += 1
            return self.prefix[self.at - 1][0]
        read = CALLS.get(getattr(func, "__name__", ""))
        found = read(*args, **kwargs) if read is not None else None
        places = self.reads.get(id(found.weight)) if found is not None else None
        if found is not None and places is not None:
            self.recording = False
            self.at = len(self.prefix)
            x = found.x * self._mask(found, places)
            args = tuple(x if value is found.x else value for value in args)
            kwargs = {key: x if value is found.x else value for key, value in kwargs.items()}
        result = func(*args, **kwargs)
        if self.recording:
            self.prefix = [*self.prefix, (result, _version(result))]
        return result

    def _mask(self, found: Any, places: Tensor) -> Tensor:
        mask = torch.ones(found.weight.shape[found.in_dim], device="cpu")
        mask[places.flatten()] = self.there.repeat_interleave(places.shape[1])
        mask = mask.repeat(found.groups).to(found.x)
        return mask.view(-1, *[1] * (found.x.dim() - 2)) if found.window is not None else mask


def _version(value: Any) -> int:
    return value._version if isinstance(value, Tensor) else 0
