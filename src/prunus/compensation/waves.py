"""Layers solved together: their moments are gathered while the original and the small model run side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunus.contractions import Contraction, Fit, Moments, Watch, names, positions
from prunus.running import Inputs, call
from prunus.surgery import Kept

METHODS = ("refit", "scale", "bias")
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)
_HELD = 4  # every fourth batch is held out while the ridge is chosen


@dataclass(frozen=True)
class Mended:
    """One layer: its weight, and the mean squared error of its outputs over their variance, before and after."""

    weight: str
    rows: int
    before: float
    after: float


class Enough(BaseException):  # not an Exception: the model's own handlers must not catch it
    """All that a wave needs of this run has been seen."""


def stream_writers(model: nn.Module, small: nn.Module, example: Inputs, of_small: Inputs) -> set[str]:
    """The weights whose every output is added to a tensor of its shape, in both models."""
    calls, added, of_small_added = Counter[str](), Counter[str](), Counter[str]()
    with Watch(names(model), lambda *_: None, lambda name, _: added.update([name])):
        call(model, *example)
    with Watch(names(small), lambda name, *_: calls.update([name]), lambda name, _: of_small_added.update([name])):
        call(small, *of_small)
    return {name for name, n in calls.items() if added[name] == of_small_added[name] == n}


class Wave:
    """Layers that are solved together: their moments are gathered in one pass over the data.

    Args:
        residual: those of ``wave`` whose outputs are added to a residual stream, in both models. They are to make up
            for what the stream has lost before them, too: their outputs are to be the original's, plus the original's
            stream, less the small one's (He, Zhang, Sun, 2017, section 3.3).
    """

    def __init__(
        self,
        model: nn.Module,
        small: nn.Module,
        kept: Kept,
        wave: Sequence[str],
        rows: int,
        residual: Collection[str] = (),
    ) -> None:
        self.model, self.small, self.kept, self.rows = model, small, kept, rows
        self.last, self.residual = wave[-1], frozenset(residual)
        self.moments = {name: Moments() for name in wave}
        self.held = {name: Moments() for name in wave}
        self.batches = 0
        self.calls: dict[str, Contraction] = {}
        self.wanted: dict[str, list[Tensor]] = {}
        self.streams: dict[str, list[Tensor]] = {}
        self.pending: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        self.chosen: dict[str, list[Tensor]] = {}
        self.odd: dict[str, str] = {}

    def take(self, example: Inputs, of_small: Inputs, chosen: Mapping[str, Sequence[Tensor]] | None = None) -> None:
        """Run both models on one batch as far as needed, and add what the layers got and should give.

        ``chosen`` names the rows that count of each call; of layers that it doesn't name all do.
        """
        self.batches += 1
        self.wanted = {name: [] for name in self.moments}
        self.streams = {name: [] for name in self.moments}
        self.chosen = {name: list(rows) for name, rows in (chosen or {}).items()}
        self._run(self.model, self._want, self._want_stream, *example)
        self._run(self.small, self._got, self._got_stream, *of_small)

    def _run(
        self, model: nn.Module, see: Any, added: Any, positional: tuple[Any, ...], keywords: dict[str, Any]
    ) -> None:
        with ExitStack() as stack:
            stack.enter_context(Watch(names(model), see, added if self.residual else None))
            stack.enter_context(suppress(Enough))
            call(model, positional, keywords)

    def _want(self, name: str, found: Contraction, output: Tensor) -> None:
        if name in self.wanted:
            self.wanted[name].append(output.clone())  # what follows may work on it in place

    def _want_stream(self, name: str, stream: Tensor) -> None:
        if name in self.residual:
            self.streams[name].append(stream.clone())

    def _got(self, name: str, found: Contraction, output: Tensor) -> None:
        if name not in self.wanted:
            return
        y = self.wanted[name].pop(0)
        rows = self.chosen[name].pop(0) if self.chosen.get(name) else None
        self.calls[name] = found
        kept = self._kept(name, found)
        if positions(y, found.channel) != positions(output, found.channel) or len(kept) != output.shape[found.channel]:
            self.odd[name] = "it runs over an axis that was cut, so that its rows don't match the original's"
            return
        at = self._sample(positions(y, found.channel), rows, self.moments[name].n)
        self.pending[name] = at, found.rows_of_input(at).clone(), found.rows_of_output(y, at, kept)
        if name not in self.residual:
            self._add(name, None)

    def _got_stream(self, name: str, stream: Tensor) -> None:
        if name in self.residual and name in self.pending:
            self._add(name, stream)

    def _add(self, name: str, stream: Tensor | None) -> None:
        found = self.calls[name]
        at, x, y = self.pending.pop(name)
        if stream is not None:
            kept = self._kept(name, found)
            lost = found.rows_of_output(stream, at, torch.arange(len(kept)))
            y = y + found.rows_of_output(self.streams[name].pop(0), at, kept) - lost
        (self.moments if self.batches % _HELD else self.held)[name].add(x, y)
        if name == self.last and not self.wanted[name]:
            raise Enough

    def _kept(self, name: str, found: Contraction) -> Tensor:
        kept = self.kept.get(name, {}).get(found.out_dim)
        return torch.arange(found.weight.shape[found.out_dim]) if kept is None else torch.tensor(kept)

    def _sample(self, n: int, rows: Tensor | None, seed: int) -> Tensor:
        count = n if rows is None else len(rows)
        order = torch.arange(count)
        if count > self.rows:
            order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[: self.rows]
        return order if rows is None else rows[order.to(rows.device)]

    def solve(self, method: str, ridge: float | None, skipped: dict[str, str]) -> list[Mended]:
        """Put the best weights into the small model's layers."""
        skipped.update(self.odd)
        done = []
        for name in list(self.moments):
            moments, held = self.moments.pop(name), self.held.pop(name)  # those of a layer that is solved can go
            if name in self.odd or not moments.n + held.n:
                continue
            found = self.calls[name]
            old = found.fit()
            unset = method == "refit" and ridge is None
            strength = _best_ridge(moments, held, old) if unset else ridge or 0.0
            moments.include(held)
            if method == "refit":
                new = moments.refit(old, strength)
            else:
                new = moments.rescale(old) if method == "scale" else moments.shift(old)
            before, after = moments.error(old), moments.error(new)
            if after < before:
                found.put(new)
            done.append(Mended(name, moments.n, before, min(before, after)))
        return done


def _best_ridge(fitted: Moments, held: Moments, old: Fit) -> float:
    """That whose fit to the other batches has the least error on those held out."""
    if not held.n:
        return RIDGES[0]
    return min(RIDGES, key=lambda ridge: held.error(fitted.refit(old, ridge)))
