"""Layers solved together: their moments are gathered while the original and the small model run side by side."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunus.contractions import Contraction, Fit, Moments, Watch, names, positions
from prunus.running import Inputs, call
from prunus.surgery import Kept

METHODS = ("refit", "scale", "bias")


@dataclass(frozen=True)
class Mended:
    """One layer: its weight, and the mean squared error of its outputs over their variance, before and after."""

    weight: str
    rows: int
    before: float
    after: float


class Enough(BaseException):  # not an Exception: the model's own handlers must not catch it
    """All that a wave needs of this run has been seen."""


class Wave:
    """Layers that are solved together: their moments are gathered in one pass over the data."""

    def __init__(self, model: nn.Module, small: nn.Module, kept: Kept, wave: Sequence[str], rows: int) -> None:
        self.model, self.small, self.kept, self.rows = model, small, kept, rows
        self.last = wave[-1]
        self.moments = {name: Moments() for name in wave}
        self.calls: dict[str, Contraction] = {}
        self.wanted: dict[str, list[Tensor]] = {}
        self.odd: dict[str, str] = {}

    def take(self, example: Inputs, of_small: Inputs) -> None:
        """Run both models on one batch as far as needed, and add what the layers got and should give."""
        self.wanted = {name: [] for name in self.moments}
        self._run(self.model, self._want, *example)
        self._run(self.small, self._add, *of_small)

    def _run(self, model: nn.Module, see: Any, positional: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        with ExitStack() as stack:
            stack.enter_context(Watch(names(model), see))
            stack.enter_context(suppress(Enough))
            call(model, positional, keywords)

    def _want(self, name: str, found: Contraction, output: Tensor) -> None:
        if name in self.wanted:
            self.wanted[name].append(output)

    def _add(self, name: str, found: Contraction, output: Tensor) -> None:
        if name not in self.wanted:
            return
        y = self.wanted[name].pop(0)
        self.calls[name] = found
        kept = self._kept(name, found)
        if positions(y, found.channel) != positions(output, found.channel) or len(kept) != output.shape[found.channel]:
            self.odd[name] = "it runs over an axis that was cut, so that its rows don't match the original's"
            return
        at = self._sample(positions(y, found.channel), self.moments[name].n)
        self.moments[name].add(found.rows_of_input(at), found.rows_of_output(y, at, kept))
        if name == self.last and not self.wanted[name]:
            raise Enough

    def _kept(self, name: str, found: Contraction) -> Tensor:
        kept = self.kept.get(name, {}).get(found.out_dim)
        return torch.arange(found.weight.shape[found.out_dim]) if kept is None else torch.tensor(kept)

    def _sample(self, n: int, seed: int) -> Tensor:
        if n <= self.rows:
            return torch.arange(n)
        return torch.randperm(n, generator=torch.Generator().manual_seed(seed))[: self.rows]

    def solve(self, method: str, ridge: float, skipped: dict[str, str]) -> list[Mended]:
        """Put the best weights into the small model's layers."""
        skipped.update(self.odd)
        done = []
        for name, moments in self.moments.items():
            if name in self.odd or not moments.n:
                continue
            found = self.calls[name]
            old = found.fit()
            new = _solved(moments, old, method, ridge)
            before, after = moments.error(old), moments.error(new)
            if after < before:
                found.put(new)
            done.append(Mended(name, moments.n, before, min(before, after)))
        return done


def _solved(moments: Moments, old: Fit, method: str, ridge: float) -> Fit:
    if method == "refit":
        return moments.refit(old, ridge)
    return moments.rescale(old) if method == "scale" else moments.shift(old)
