"""Solve what remains of each layer against the original's outputs, from the first layer to the last."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunus.contractions import Contraction, Fit, Moments, Watch, names, positions
from prunus.errors import InputError, suggest
from prunus.plan import Plan
from prunus.running import Batches, call, no_fast_path, undisturbed
from prunus.surgery import named_tensors

METHODS = ("refit", "scale", "bias")


@dataclass(frozen=True)
class Mended:
    """One layer: its weight, and the mean squared error of its outputs over their variance, before and after."""

    weight: str
    rows: int
    before: float
    after: float


@dataclass(frozen=True)
class Compensation:
    """What was mended, in the order of the run, and what could not be, with the reason."""

    method: str
    layers: tuple[Mended, ...]
    skipped: dict[str, str]

    def __str__(self) -> str:
        lines = [f"{self.method}: {len(self.layers)} layers solved against the original's outputs"]
        lines += [f"  {m.weight}: error {m.before:.3f} -> {m.after:.3f} ({m.rows} rows)" for m in self.layers]
        return "\n".join([*lines, *(f"  {name}: {why}" for name, why in self.skipped.items())])


def compensate(
    model: nn.Module,
    small: nn.Module,
    plan: Plan,
    data: Iterable[Any],
    args: Any,
    kwargs: Any = None,
    *,
    method: str = "refit",
    ridge: float = 1e-4,
    rows: int = 4096,
    passes: int = 32,
) -> Compensation:
    """Change the weights of ``small``, in place, so that it computes again what ``model`` computed. No training.

    Every linear map and convolution with weights of its own is solved in closed form, in the order in which they run:
    its outputs are to be those of the original at the kept channels, its inputs are what the small model, mended so
    far, gives it (Y. He, X. Zhang, J. Sun, "Channel Pruning for Accelerating Very Deep Neural Networks", 2017, with
    all that remains solved at once, the bias too). Eval mode; modes and random state are left as they were.

    Args:
        model: the original.
        small: ``plan.apply(model)``.
        data: batches of inputs, iterated once per pass; 1,000 to 2,000 examples are plenty.
        args, kwargs: an example input; it shows what of each batch the model takes.
        method: ``"refit"`` solves weights and bias, ``"scale"`` one factor per output and the bias, ``"bias"`` that.
        ridge: how strongly the solution is drawn to the weights that it finds, over the mean of the Gram diagonal.
        rows: at most so many output positions of each batch are used, drawn at random (always the same).
        passes: at most so many passes over the data; with more layers than that, neighbours are solved together.

    Raises:
        InputError: an unknown method, no data, or data that the model can't take.
        PlanError: the plan isn't for this model.
    """
    if method not in METHODS:
        raise InputError(f"there is no method {method!r}.{suggest(method, METHODS)} Known: {', '.join(METHODS)}.")
    plan.check_fits(model)
    batches = Batches(data, args, kwargs)
    with undisturbed(model), undisturbed(small), no_fast_path():
        order, skipped = _order(small, batches)
        size = -(-len(order) // max(1, passes))
        done: list[Mended] = []
        for start in range(0, len(order), max(1, size)):
            wave = order[start : start + size]
            solver = _Wave(model, small, plan, wave, rows)
            for positional, keywords in batches:
                solver.take(positional, keywords)
            done += solver.solve(method, ridge, skipped)
    return Compensation(method, tuple(done), skipped)


def _order(small: nn.Module, batches: Batches) -> tuple[list[str], dict[str, str]]:
    """The weights in the order of their first use, and those that can't be solved."""
    seen: dict[str, Contraction] = {}
    with Watch(names(small), lambda name, found, _: seen.setdefault(name, found)):
        positional, keywords = batches.first()
        call(small, positional, keywords)
    count: dict[int, int] = {}
    for tensor in named_tensors(small).values():
        count[id(tensor)] = count.get(id(tensor), 0) + 1
    tied = {name for name, found in seen.items() if count.get(id(found.weight), 0) > 1}
    return [name for name in seen if name not in tied], dict.fromkeys(tied, "its weights are shared")


class _Enough(BaseException):  # not an Exception: the model's own handlers must not catch it
    """All that a wave needs of this run has been seen."""


class _Wave:
    """Layers that are solved together: their moments are gathered in one pass over the data."""

    def __init__(self, model: nn.Module, small: nn.Module, plan: Plan, wave: Sequence[str], rows: int) -> None:
        self.model, self.small, self.plan, self.rows = model, small, plan, rows
        self.last = wave[-1]
        self.moments = {name: Moments() for name in wave}
        self.calls: dict[str, Contraction] = {}
        self.wanted: dict[str, list[Tensor]] = {}
        self.odd: dict[str, str] = {}

    def take(self, positional: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        """Run both models on one batch as far as needed, and add what the layers got and should give."""
        self.wanted = {name: [] for name in self.moments}
        self._run(self.model, self._want, positional, keywords)
        self._run(self.small, self._add, positional, keywords)

    def _run(self, model: nn.Module, see: Any, positional: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        with ExitStack() as stack:
            stack.enter_context(Watch(names(model), see))
            stack.enter_context(suppress(_Enough))
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
            raise _Enough

    def _kept(self, name: str, found: Contraction) -> Tensor:
        kept = self.plan.kept.get(name, {}).get(found.out_dim)
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
