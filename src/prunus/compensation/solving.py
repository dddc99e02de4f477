"""The waves in their order: over the whole of both models, or module by module where these stand in a row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

import torch
from torch import nn

from prunus.compensation.waves import Mended, Original, Targets, Wave, stream_writers
from prunus.contractions import Rows, names
from prunus.errors import InputError, TraceError
from prunus.plan import Plan
from prunus.residual import Row, Stream, find_chain, without_cache
from prunus.running import Inputs, tensors_in
from prunus.surgery import lies_in

HELD = 2 << 30
"""How many bytes the targets of several waves may take, with the inputs that they belong to; and what streams."""

Waves = Sequence[list[str]]
"""Weights by name, in the order of the run, those that are solved together in one list."""

Pair = tuple[Inputs, Inputs, Rows]
"""What the original and the small model, or a block of each, get of one batch; the rows that count."""


@dataclass
class Solver:
    """What is solved, how, and what was done so far.

    Attributes:
        residual: the weights whose outputs are added to a residual stream.
        sizes: the bytes of each weight's targets in a batch.
        ridge, rows: as for :func:`prunus.compensate`.
        skipped: weights that can't be solved, with the reason.
    """

    model: nn.Module
    small: nn.Module
    plan: Plan
    residual: set[str]
    sizes: Mapping[str, int]
    method: str
    ridge: float | None
    rows: int
    skipped: dict[str, str]
    done: list[Mended] = field(default_factory=list)

    def whole(self, waves: Waves, examples: Iterable[Inputs], chosen: Iterable[Rows]) -> None:
        """Solve waves in turn, both models run from the start for each."""

        def pairs() -> Iterable[Pair]:
            return ((each, each, rows) for each, rows in zip(examples, chosen, strict=False))

        self._solve(self.model, self.small, waves, pairs)

    def along(self, waves: Waves, examples: Iterable[Inputs], chosen: Iterable[Rows]) -> None:
        """The same where modules stand in a row: what goes into each is at hand, and nothing before it runs again."""
        with without_cache(self.model), without_cache(self.small):
            found = _row(self.model, self.small, waves, examples)
            if found is None:
                self.whole(waves, examples, chosen)
                return
            dense, (before, *inside, after), held = found
            self.whole(before, held, chosen)
            small = _stream(self.small, dense.row, held)
            for at, path in enumerate(dense.row.names):
                if self._write_outside(inside[at], dense, small, at):
                    self.whole(inside[at], held, chosen)
                elif inside[at]:
                    blocks = self.model.get_submodule(path), self.small.get_submodule(path)
                    self._solve(*blocks, inside[at], partial(_pairs, dense, small, at, chosen))
                if at + 1 < len(dense.row.names):
                    dense.advance(at)
                    small.advance(at)
            self.whole(after, held, chosen)

    def _write_outside(self, waves: Waves, dense: Stream, small: Stream, at: int) -> bool:
        """Whether what a weight of these waves writes is added to a stream, but not in module ``at`` of the row."""
        writers, path = self.residual.intersection(chain(*waves)), dense.row.names[at]
        if not writers:
            return False
        blocks = self.model.get_submodule(path), self.small.get_submodule(path)
        found = stream_writers(*blocks, next(dense.each(at)), next(small.each(at)))
        return not writers <= {f"{path}.{name}" for name in found}

    def _solve(self, model: nn.Module, small: nn.Module, waves: Waves, pairs: Callable[[], Iterable[Pair]]) -> None:
        """Solve waves in turn, by runs of ``model`` and ``small``: this solver's, or a block of each."""
        original = Original(model, self.plan.kept, self.rows, names(self.model))
        known = names(self.small)
        for portion in _portions(waves, self.sizes, (of_small for _, of_small, _ in pairs())):
            layers = [*chain(*portion)]
            taken: Iterable[tuple[Targets, Inputs]] = (
                (original.targets(layers, self.residual, example, batch, rows), of_small)
                for batch, (example, of_small, rows) in enumerate(pairs())
            )
            if len(portion) > 1:
                taken = list(taken)  # loaders may shuffle: the targets belong to these very inputs
            for together in portion:
                wave = Wave(small, known, together, self.residual)
                for targets, of_small in taken:
                    wave.take(targets, of_small)
                self.done += wave.solve(self.method, self.ridge, self.skipped)


def _portions(waves: Waves, sizes: Mapping[str, int], inputs: Iterable[Inputs]) -> list[list[list[str]]]:
    """Waves for which the original is run only once: their targets and the inputs take at most ``HELD`` bytes."""
    held = [*map(_bytes, inputs)]
    portions: list[list[list[str]]] = []
    used = HELD + 1
    for wave in waves:
        new = len(held) * sum(sizes[name] for name in wave)
        if used + new > HELD:
            portions.append([])
            used = sum(held)
        portions[-1].append(wave)
        used += new
    return portions


def _pairs(dense: Stream, small: Stream, at: int, chosen: Iterable[Rows]) -> Iterable[Pair]:
    """What block ``at`` of both models gets, batch by batch."""
    return zip(dense.each(at), small.each(at), chosen, strict=False)


def _bytes(inputs: Inputs) -> int:
    return sum(t.numel() * t.element_size() for t in tensors_in(inputs))


def _row(
    model: nn.Module, small: nn.Module, waves: Waves, examples: Iterable[Inputs]
) -> tuple[Stream, list[list[list[str]]], list[Inputs]] | None:
    """What streams into the first of the modules that both models go through one after another, the waves by these
    modules (see :func:`_split`), and all examples. None where there are no such modules, or too much would be held.
    """
    first = next(iter(examples))
    try:
        row, other = (find_chain(each, first) for each in (model, small))
        held: list[Inputs] = []
        used = 0
        for example in examples:
            used += _bytes(example)
            if used > HELD:
                return None
            held.append(example)
        times = -(-used // max(1, _bytes(first)))  # all batches are as large as so many of the first
        start = _start(row, other, (HELD - used) // times)
        row, other = row.since(start), other.since(start)
        parts = _split(waves, row)
        if parts is None or row.names != other.names or not row.names:
            return None
        if sum(_others(_stream(each, row, [first])) for each in (model, small)) * times > HELD:
            return None
        return _stream(model, row, held), parts, held
    except (InputError, TraceError):  # the modules run otherwise, or not for every batch
        return None


def _start(row: Row, other: Row, limit: int) -> int:
    """The first module from which on what streams in both models takes at most ``limit`` bytes."""
    sizes = [a + b for a, b in zip(row.sizes, other.sizes, strict=False)]
    return max((at + 1 for at, size in enumerate(sizes) if size > limit), default=0)


def _others(stream: Stream) -> int:
    """The bytes of a batch's arguments beside the stream."""
    return stream.size(0) - stream.states[0].nbytes


def _stream(model: nn.Module, row: Row, examples: Sequence[Inputs]) -> Stream:
    device = next((t.device for t in tensors_in(examples[0])), torch.device("cpu"))
    return Stream(model, row, examples, device, device)


def _split(waves: Waves, row: Row) -> list[list[list[str]]] | None:
    """The waves before the row, those of each of its blocks, and those behind it; None where they don't run so."""
    parts: list[list[list[str]]] = [[] for _ in range(len(row.names) + 2)]
    at = 0
    for wave in waves:
        places = {next((i for i, path in enumerate(row.names, 1) if lies_in(name, {path})), 0) for name in wave}
        place = places.pop()
        if not place and at:
            place = len(row.names) + 1
        if places or place < at:
            return None
        at = place
        parts[at].append(wave)
    return parts
