"""Layers solved together: their moments are gathered while the original and the small model run side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from prunus.contractions import Contraction, Fit, Moments, Watch, names, positions
from prunus.running import Enough, Inputs, call, check_finite
from prunus.surgery import Kept

METHODS = ("refit", "scale", "bias")
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_HELD = 4  # every fourth batch is held out of all layers' fits: they'd be judged on what those before were fitted to


@dataclass(frozen=True)
class Mended:
    """One layer: its weight, and the mean squared error of its outputs over their variance, before and after."""

    weight: str
    rows: int
    before: float
    after: float


def stream_writers(model: nn.Module, small: nn.Module, example: Inputs, of_small: Inputs) -> set[str]:
    """The weights whose every output is added to a tensor of its shape, in both models."""
    calls, added, of_small_added = Counter[str](), Counter[str](), Counter[str]()
    with Watch(names(model), lambda *_: None, lambda name, _: added.update([name])):
        call(model, *example)
    with Watch(names(small), lambda name, *_: calls.update([name]), lambda name, _: of_small_added.update([name])):
        call(small, *of_small)
    return {name for name, n in calls.items() if added[name] == of_small_added[name] == n}


@dataclass(frozen=True)
class Target:
    """What one call of a layer should give.

    Attributes:
        n: how many positions its output has.
        at: (rows,): those that are used.
        y: (rows, kept outputs): the original's outputs there; with a residual stream, after the addition.
    """

    n: int
    at: Tensor
    y: Tensor


Targets = Mapping[str, Sequence[Target]]
"""Weight name -> of each of its calls in a run, in order."""


@dataclass(frozen=True)
class Original:
    """The model that was cut, or a block of it, as the source of targets: of ``kept`` outputs, at most ``rows``
    positions of a call. ``known`` names the weights by their ids.
    """

    model: nn.Module
    kept: Kept
    rows: int
    known: Mapping[int, str]

    def targets(
        self,
        layers: Collection[str],
        residual: Collection[str],
        example: Inputs,
        batch: int,
        chosen: Mapping[str, Sequence[Tensor]] | None = None,
    ) -> Targets:
        """Run the model on one batch.

        Args:
            layers: the weights wanted.
            residual: those of them whose outputs are added to a residual stream.
            batch: its number, which draws the positions.
            chosen: the rows that count of each call; of layers that it doesn't name all do.
        """
        found: dict[str, list[Target]] = {name: [] for name in layers}
        calls: dict[str, tuple[Contraction, Tensor]] = {}
        left = {name: list(rows) for name, rows in (chosen or {}).items()}

        def see(name: str, call_: Contraction, output: Tensor) -> None:
            if name in found:
                stay = call_.kept_outputs(self.kept.get(name, {})) or range(output.shape[call_.channel])
                kept = torch.tensor(stay, device="cpu")
                n = positions(output, call_.channel)
                at = self._sample(n, left[name].pop(0) if left.get(name) else None, batch)
                calls[name] = call_, kept
                found[name].append(Target(n, at, call_.flat_output(output, at, kept)))

        def added(name: str, stream: Tensor) -> None:
            if name in found and name in residual:
                target, (call_, kept) = found[name][-1], calls[name]
                found[name][-1] = replace(target, y=target.y + call_.flat_output(stream, target.at, kept))

        with Watch(self.known, see, added if residual else None):
            call(self.model, *example)
        return found

    def _sample(self, n: int, rows: Tensor | None, seed: int) -> Tensor:
        count = n if rows is None else len(rows)
        order = torch.arange(count, device="cpu")
        if count > self.rows:
            order = torch.randperm(count, generator=torch.Generator().manual_seed(seed), device="cpu")[: self.rows]
        return order if rows is None else rows[order.to(rows.device)]


class Wave:
    """Layers that are solved together: their moments are gathered in one pass over the data.

    Args:
        small: the model that was cut, or a block of it.
        known: the names of its weights by their ids.
        residual: those of ``wave`` whose outputs are added to a residual stream, in both models. They are to make up
            for what the stream has lost before them, too: their outputs are to be the original's, plus the original's
            stream, less the small one's (He, Zhang, Sun, 2017, section 3.3).
    """

    def __init__(
        self, small: nn.Module, known: Mapping[int, str], wave: Sequence[str], residual: Collection[str] = ()
    ) -> None:
        self.small, self.known = small, known
        self.last, self.residual = wave[-1], frozenset(residual).intersection(wave)
        self.moments = {name: Moments() for name in wave}
        self.held = {name: Moments() for name in wave}
        self.batches = 0
        self.calls: dict[str, Contraction] = {}
        self.wanted: dict[str, list[Target]] = {}
        self.pending: dict[str, tuple[Target, Tensor]] = {}
        self.odd: dict[str, str] = {}

    def take(self, targets: Targets, example: Inputs) -> None:
        """Run the small model on one batch as far as needed, and add what the layers get and should give."""
        self.batches += 1
        self.wanted = {name: list(targets[name]) for name in self.moments}
        added = self._got_stream if self.residual else None
        with Watch(self.known, self._got, added), suppress(Enough):
            call(self.small, *example)

    def _got(self, name: str, found: Contraction, output: Tensor) -> None:
        if name not in self.wanted:
            return
        target = self.wanted[name].pop(0)
        self.calls[name] = found
        if target.n != positions(output, found.channel) or target.y.shape[1] != output.shape[found.channel]:
            self.odd[name] = "it runs over an axis that was cut, so that its rows don't match the original's"
            return
        self.pending[name] = target, found.rows_of_input(target.at).clone()
        if name not in self.residual:
            self._add(name, None)

    def _got_stream(self, name: str, stream: Tensor) -> None:
        if name in self.residual and name in self.pending:
            self._add(name, stream)

    def _add(self, name: str, stream: Tensor | None) -> None:
        found = self.calls[name]
        target, x = self.pending.pop(name)
        y, weights = target.y, found.counting(target.y)
        if stream is not None:
            y = y - found.flat_output(stream, target.at, torch.arange(y.shape[1], device="cpu"))
        (self.moments if self.batches % _HELD else self.held)[name].add(x, found.grouped(y), weights)
        if name == self.last and not self.wanted[name]:
            raise Enough

    def solve(self, method: str, ridge: float | None, skipped: dict[str, str]) -> list[Mended]:
        """Put the best weights into the small model's layers."""
        skipped.update(self.odd)
        done = []
        for name in list(self.moments):
            moments, held = self.moments.pop(name), self.held.pop(name)  # those of a layer that is solved can go
            if name in self.odd or not moments.rows + held.rows:
                continue
            check_finite(f"what {name!r} is given or should give", moments.xx, moments.yy, held.xx, held.yy)
            found = self.calls[name]
            old = found.fit()
            chosen = method == "refit" and ridge is None and min(held.rows, moments.rows) > 0
            if not chosen:
                moments.include(held)
            if method == "refit":
                usual = RIDGES[0] if ridge is None else ridge
                new = moments.refit(old, _best_ridge(moments, held, old) if chosen else usual)
            else:
                new = moments.rescale(old) if method == "scale" else moments.shift(old)
            judge = held if chosen else moments
            before, after = judge.error(old), judge.error(new)
            if after < before:
                found.put(new)
            done.append(Mended(name, moments.rows, before, min(before, after)))
        return done


def _best_ridge(fitted: Moments, held: Moments, old: Fit) -> float:
    """That whose fit has the least error on what was held out."""
    return min(RIDGES, key=lambda ridge: held.error(fitted.refit(old, ridge)))
