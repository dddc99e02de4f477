"""From atoms to positions and back: keep-vectors, counts, and sums of per-position values over an atom's indices."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from prunus.axes.expression import Atom, Axis, Product

Keep = NDArray[np.bool_]


def keep_vector(axis: Axis, keep: Mapping[Atom, Keep]) -> Keep:
    """Which positions of a resolved ``axis`` stay. ``keep`` has a boolean per index of an atom; absent: all stay."""
    if isinstance(axis, Atom):
        mine = keep.get(axis)
        return np.ones(axis.size, dtype=bool) if mine is None else mine
    parts = [keep_vector(part, keep) for part in axis.parts]
    if not isinstance(axis, Product):
        return np.concatenate(parts) if parts else np.ones(0, dtype=bool)
    result = np.ones(1, dtype=bool)
    for part in parts:
        result = np.logical_and.outer(result, part).reshape(-1)
    return result


def count(axis: Axis, counts: Mapping[Atom, int]) -> int:
    """How many positions of a resolved ``axis`` stay when ``counts`` indices of each atom do (absent: all)."""
    if isinstance(axis, Atom):
        return counts.get(axis, axis.size)
    parts = [count(part, counts) for part in axis.parts]
    return math.prod(parts) if isinstance(axis, Product) else sum(parts)


def fold(
    axis: Axis,
    values: NDArray[np.float64],
    into: dict[Atom, NDArray[np.float64]],
    reduce: Callable[..., NDArray[np.float64]] = np.sum,
    combine: Callable[..., NDArray[np.float64]] = np.add,
) -> None:
    """Gather a value per position of a resolved ``axis`` into a value per index of each of its atoms.

    ``values`` has shape ``[axis.size]``. All positions that go through index *i* of an atom are reduced (summed by
    default) into ``into[atom][i]``; an atom that occurs several times combines its occurrences.
    """
    if isinstance(axis, Atom):
        into[axis] = combine(into[axis], values) if axis in into else values
    elif isinstance(axis, Product):
        grid = values.reshape([part.size for part in axis.parts])
        for i, part in enumerate(axis.parts):
            others = tuple(j for j in range(grid.ndim) if j != i)
            fold(part, reduce(grid, axis=others) if others else grid, into, reduce, combine)
    else:
        start = 0
        for part in axis.parts:
            fold(part, values[start : start + part.size], into, reduce, combine)
            start += part.size


def places(axis: Axis, atom: Atom) -> NDArray[np.int64]:
    """``[atom.size, n]``: which positions of a resolved ``axis`` go through each index of an atom that is in it."""
    if isinstance(axis, Atom):
        return np.arange(atom.size)[:, None] if axis is atom else np.zeros((atom.size, 0), dtype=np.int64)
    found, width, start = [np.zeros((atom.size, 0), dtype=np.int64)], axis.size, 0
    for part in axis.parts:
        mine = places(part, atom)
        if isinstance(axis, Product):
            width //= part.size
            outer = np.arange(axis.size // (width * part.size)) * width * part.size
            grid = outer[None, :, None, None] + mine[:, None, :, None] * width + np.arange(width)
            found.append(grid.reshape(atom.size, -1))
        else:
            found.append(mine + start)
            start += part.size
    return np.concatenate(found, 1)
