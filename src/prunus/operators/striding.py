"""``as_strided``: memory read anew, by sizes and strides."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prunus.axes import Axes
from prunus.operators.table import Call, Outputs, row


@row("as_strided")
def as_strided(call: Call) -> Outputs:
    """The same shape and strides, wherever they matter, keep their axes. So do, where the input fills its memory, the
    dimensions in front of and behind those that are laid out anew, such as overlapping windows; those are frozen.
    """
    axes, size, stride = call.first(), list(call.arg("size")), list(call.arg("stride"))
    before = call.strides if call.name.endswith("_") else call.args[0].stride()  # in place, it has already changed
    same = before is not None and size == [axis.size for axis in axes]
    if before is not None and call.arg("storage_offset") in (None, call.args[0].storage_offset()):
        if same and all(n == 1 or a == b for n, a, b in zip(size, stride, before, strict=True)):
            return axes
        order = memory_order([axis.size for axis in axes], before)
        if order is not None:
            return _laid_out_anew(call, axes, relaid(axes, order, size, stride))
    for axis in axes:
        call.freeze(axis, "as_strided() over it")
    return call.frozen_outputs("as_strided()")


def _laid_out_anew(call: Call, axes: Axes, found: Relaid) -> Axes:
    stays = {**found.front, **found.back}
    for d, axis in enumerate(axes):
        if d not in stays.values():
            call.freeze(axis, "as_strided() over it")
    sizes = call.outputs[0].shape
    return tuple(axes[stays[d]] if d in stays else call.fresh(n, "as_strided()") for d, n in enumerate(sizes))


def memory_order(sizes: Sequence[int], strides: Sequence[int]) -> list[int] | None:
    """The dimensions longer than one as they lie in memory, outer first; None where there are gaps or overlaps."""
    order = sorted((d for d, n in enumerate(sizes) if n != 1), key=lambda d: -strides[d])
    inside = 1
    for d in reversed(order):
        if strides[d] != inside:
            return None
        inside *= sizes[d]
    return order


@dataclass(frozen=True)
class Relaid:
    """What ``as_strided`` leaves as it is.

    Attributes:
        order: the input's dimensions as they lie in memory.
        front, back: from dimensions of the result to those of the input that they are, at both ends of that order.
    """

    order: Sequence[int]
    front: Mapping[int, int]
    back: Mapping[int, int]

    def behind(self, axes: Axes, dim: int) -> Axes:
        """What lies inside one step along ``dim`` of the input."""
        return tuple(axes[d] for d in self.order[self.order.index(dim) + 1 :])


def relaid(axes: Axes, order: Sequence[int], size: Sequence[int], stride: Sequence[int]) -> Relaid:
    """Compare the result's sizes and strides with those of an input that fills its memory.

    What is laid out anew steps over whole blocks of what stays behind, and within one block of what stays in front.
    """
    old = [(axes[d].size, math.prod(axes[e].size for e in order[i + 1 :])) for i, d in enumerate(order)]
    places = sorted((d for d, n in enumerate(size) if n != 1), key=lambda d: -stride[d])
    new = [(size[d], stride[d]) for d in places]
    most = min(len(old), len(new)) - 1
    last = _alike(old[::-1], new[::-1], most)
    while last > 0 and any(step % old[-last - 1][1] for _, step in new[: len(new) - last]):
        last -= 1
    first = _alike(old, new, most - last)
    while first > 0 and sum((n - 1) * step for n, step in new[first:]) >= old[first - 1][1]:
        first -= 1
    back = zip(places[len(places) - last :], order[len(order) - last :], strict=True)
    return Relaid(order, dict(zip(places[:first], order[:first], strict=True)), dict(back))


def _alike(old: Sequence[tuple[int, int]], new: Sequence[tuple[int, int]], most: int) -> int:
    pairs = zip(old[: max(most, 0)], new, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
