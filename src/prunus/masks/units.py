"""What is masked as one: a weight, a vector, a block, a kernel, a row, a column, a filter, a channel; or N of every M.

A granularity is written as text, so that it can stand on a command line:

| text | one unit is |
| --- | --- |
| ``weight`` | one weight |
| ``filter``, ``channel``, ``dim:D`` | one index of dimension 0, 1, D of the tensor |
| ``kernel`` | one index of dimensions 0 and 1: the 3x3 of a convolution |
| ``row``, ``column`` | one row, one column of the weight matrix, ``weight.flatten(1)`` |
| ``block:AxB``, ``vector:B`` | a tile of A x B, of 1 x B, of that matrix |
| ``N:M``, ``N:M@D`` | N of each M weights in a line are kept, along dimension 1, D |
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from prunus.errors import InputError, suggest

SUM = "sum"
"""The reduction of a score with a sign: units add up. The others are the ``ord`` of a vector norm."""

_NAMED = ("weight", "filter", "channel", "kernel", "row", "column", "dim:D", "block:AxB", "vector:B", "N:M", "N:M@D")


@dataclass(frozen=True)
class Tiles:
    """Units that tile the tensor, or its matrix ``flatten(1)``. A tile size of 0 stands for the whole dimension."""

    text: str
    sizes: tuple[int, ...]
    matrix: bool = False

    def grid(self, weight: Tensor, name: str) -> Grid:
        """The tiling of one weight.

        Raises:
            InputError: the weight has too few dimensions.
        """
        shape = weight.flatten(1).shape if self.matrix and weight.dim() > 1 else weight.shape
        if len(self.sizes) > len(shape):
            raise InputError(f"{name!r} of shape {list(weight.shape)} has too few dimensions for {self.text!r}.")
        rest = 1 if self.text == "weight" else 0
        sizes = (*self.sizes, *[rest] * (len(shape) - len(self.sizes)))
        return Grid(tuple(shape), tuple(min(t, s) if t else s for t, s in zip(sizes, shape, strict=True)))


@dataclass(frozen=True)
class Pattern:
    """Of each ``m`` weights in a line along ``dim``, ``n`` are kept."""

    text: str
    n: int
    m: int
    dim: int

    @property
    def sparsity(self) -> float:
        return 1 - self.n / self.m

    def lines(self, values: Tensor, name: str) -> Tensor:
        """``values`` as (number of lines, m); raises as ``check`` does."""
        self.check(values, name)
        return values.movedim(self.dim, -1).reshape(-1, self.m)

    def check(self, values: Tensor, name: str) -> None:
        """Raise InputError where the dimension isn't there or isn't a multiple of m."""
        if not -values.dim() <= self.dim < values.dim() or values.shape[self.dim] % self.m:
            raise InputError(
                f"{name!r} of shape {list(values.shape)} can't have {self.text}: dimension {self.dim} must be a "
                f"multiple of {self.m}. Leave it out: Sparsifier(model, skip=[{name!r}])."
            )

    def mask(self, scores: Tensor, name: str) -> Tensor:
        """Keep the ``n`` highest scores of each line; among equals, which ones is torch.topk's choice."""
        self.check(scores, name)
        if (self.n, self.m) != (2, 4):
            return self._laid(self._highest(self.lines(scores, name)), scores)
        keep = _two_of_four(scores, self.dim)
        if int(keep.count_nonzero()) * 2 != keep.numel():  # among equals more than two
            chosen = self.lines(keep, name).clone()
            odd = chosen.sum(1) != self.n
            chosen[odd] = self._highest(self.lines(scores, name)[odd])
            keep = self._laid(chosen, scores)
        return keep

    def _highest(self, lines: Tensor) -> Tensor:
        lost = lines.topk(self.m - self.n, dim=1, largest=False).indices
        return torch.ones_like(lines, dtype=torch.bool).scatter_(1, lost, value=False)

    def _laid(self, keep: Tensor, scores: Tensor) -> Tensor:
        """What ``lines`` took apart, in the shape of ``scores`` again."""
        return keep.reshape(scores.movedim(self.dim, -1).shape).movedim(-1, self.dim).contiguous()


def _two_of_four(scores: Tensor, dim: int) -> Tensor:
    """True at the two highest of each four along a dimension, and at what equals the second: compared with it."""
    dim = dim % scores.dim()
    fours = scores.unflatten(dim, (-1, 4))
    a, b, c, d = fours.unbind(dim + 1)
    winners = torch.minimum(torch.maximum(a, b), torch.maximum(c, d))
    second = torch.maximum(winners, torch.maximum(torch.minimum(a, b), torch.minimum(c, d)))
    keep: Tensor = fours >= second.unsqueeze(dim + 1)
    return keep.flatten(dim, dim + 1)


@dataclass(frozen=True)
class Grid:
    """The tiling of one tensor: ``shape`` in tiles of ``tile``; the last tile of a dimension may be smaller."""

    shape: tuple[int, ...]
    tile: tuple[int, ...]

    @property
    def counts(self) -> tuple[int, ...]:
        """Units along each dimension."""
        return tuple(-(-size // tile) for size, tile in zip(self.shape, self.tile, strict=True))

    def reduce(self, values: Tensor, how: float | str) -> Tensor:
        """One number a unit, in a line: the sum of its values, or their norm of order ``how``."""
        if set(self.tile) == {1}:
            return values.reshape(-1) if how == SUM else values.reshape(-1).abs()
        tiled, inner = self._tiled(values)
        if how == SUM:
            return tiled.sum(inner).reshape(-1)
        found: Tensor = torch.linalg.vector_norm(tiled, ord=how, dim=inner)
        return found.reshape(-1)

    def expand(self, units: Tensor, shape: torch.Size) -> Tensor:
        """One value a unit -> one a weight, in the tensor's own ``shape``."""
        values = units.reshape(self.counts)
        for dim, tile in enumerate(self.tile):
            if tile > 1:
                values = values.repeat_interleave(tile, dim)
            values = values.narrow(dim, 0, self.shape[dim])
        return values.reshape(shape)

    def _tiled(self, values: Tensor) -> tuple[Tensor, list[int]]:
        """A view with two dimensions for each, (units, inside a unit), padded with zeros; and the inner ones."""
        values = values.reshape(self.shape)
        padding: list[int] = []
        for size, count, tile in zip(self.shape, self.counts, self.tile, strict=True):
            padding = [0, count * tile - size, *padding]
        if any(padding):
            values = torch.nn.functional.pad(values, padding)
        pairs = [length for pair in zip(self.counts, self.tile, strict=True) for length in pair]
        return values.reshape(pairs), list(range(1, len(pairs), 2))


def parse(text: str) -> Tiles | Pattern:
    """The granularity that a text stands for.

    Raises:
        InputError: it stands for none.
    """
    if text in _FIXED:
        return _FIXED[text]
    if match := re.fullmatch(r"(\d+):(\d+)(?:@(-?\d+))?", text):
        n, m = int(match[1]), int(match[2])
        if 0 < n < m:
            return Pattern(text, n, m, int(match[3] or 1))
        raise InputError(f"{text!r} keeps {n} of each {m}: N must be at least 1 and less than M.")
    if match := re.fullmatch(r"block:([1-9]\d*)x([1-9]\d*)", text):
        return Tiles(text, (int(match[1]), int(match[2])), matrix=True)
    if match := re.fullmatch(r"vector:([1-9]\d*)", text):
        return Tiles(text, (1, int(match[1])), matrix=True)
    if match := re.fullmatch(r"dim:(\d+)", text):
        return Tiles(text, (*[0] * int(match[1]), 1))
    raise InputError(f"there is no granularity {text!r}.{suggest(text, _NAMED)} Known: {', '.join(_NAMED)}.")


_FIXED = {
    "weight": Tiles("weight", (1,)),
    "filter": Tiles("filter", (1,)),
    "channel": Tiles("channel", (0, 1)),
    "kernel": Tiles("kernel", (1, 1)),
    "row": Tiles("row", (1, 0), matrix=True),
    "column": Tiles("column", (0, 1), matrix=True),
}
