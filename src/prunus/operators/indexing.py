"""Look-ups by index: what the indices range over is frozen, unless they were chosen along it; everything else passes.

None preserves zeros: an index that is zeroed still looks something up.
"""

from __future__ import annotations

import torch
from torch import Tensor

from prunus.axes import UNIT, Axes, product
from prunus.operators.table import Call, Outputs, broadcast, row


@row("embedding", preserves_zero=False)
def embedding(call: Call) -> Axes:
    weight = call.axes("weight")
    call.looks_up(call.arg("indices"), weight[0], "rows looked up by embedding()")
    return (*call.axes("indices"), weight[1])


@row("embedding_renorm", preserves_zero=False)
def embedding_renorm(call: Call) -> Axes:
    """Rows that are looked up are scaled down, in place, where their norm is too large."""
    weight = call.first()
    for axis in (weight[0], *call.axes("indices")):
        call.freeze(axis, "rows looked up by embedding()")
    call.reduces(weight[1])
    return weight


@row("_embedding_bag", "_embedding_bag_forward_only", preserves_zero=False)
def embedding_bag(call: Call) -> list[Axes]:
    """Rows pooled over each bag; of maxima the last output has the indices, ``[bags, width]``."""
    weight = call.axes("weight")
    call.freeze(weight[0], "rows looked up by embedding_bag()")
    for name in ("indices", "offsets", "per_sample_weights"):
        for axis in call.maybe_axes(name) or ():
            call.freeze(axis, f"{name} of embedding_bag()")
    bags = call.fresh(call.outputs[0].shape[0], "bags of embedding_bag()")
    pooled = (bags, weight[1])
    rest = (
        pooled if out.dim() == 2 else tuple(call.fresh(n, "internal to embedding_bag()") for n in out.shape)
        for out in call.outputs[1:]
    )
    return [pooled, *rest]


@row("index", "_unsafe_index", preserves_zero=False)
def index(call: Call) -> Outputs:
    """``x[i, :, j]``: the indexed dimensions are frozen; the indices' own axes take their place."""
    given = list(call.arg("indices"))
    if _has_mask(given):
        return _masked(call, given)
    return _place(call, call.first(), given)


def _masked(call: Call, given: list[Tensor | None]) -> Outputs:
    """``x[:, mask]``: what the mask lies on is frozen, and so is what it chose."""
    axes, reason = call.first(), "chosen by a boolean mask"
    at = next(d for d, t in enumerate(given) if t is not None)
    mask = given[at]
    if mask is None or sum(t is not None for t in given) > 1:
        _freeze_all(call, reason)
        return call.frozen_outputs(reason)
    for axis in (*axes[at : at + mask.ndim], *call.axes_of(mask)):
        call.freeze(axis, reason)
    return (*axes[:at], call.fresh(call.outputs[0].shape[at], reason), *axes[at + mask.ndim :])


def _has_mask(given: list[Tensor | None]) -> bool:
    return any(t is not None and t.dtype in (torch.bool, torch.uint8) for t in given)


def _freeze_all(call: Call, reason: str) -> None:
    for tensor in call.given:
        for axis in call.axes_of(tensor):
            call.freeze(axis, reason)


def _place(call: Call, axes: Axes, given: list[Tensor | None]) -> Axes:
    indexed = [d for d, t in enumerate(given) if t is not None]
    for d, index in enumerate(given):
        if index is not None:
            call.looks_up(index, axes[d], "looked up by index along it")
    result = broadcast(call, [call.axes_of(t) for t in given if t is not None])
    rest = [axis for d, axis in enumerate(axes) if d not in indexed]
    adjacent = indexed == list(range(indexed[0], indexed[-1] + 1))
    at = indexed[0] if adjacent else 0
    return (*rest[:at], *result, *rest[at:])


@row("nonzero", "bincount", "_unique2", "unique_dim", "unique_consecutive", preserves_zero=False)
def by_value(call: Call) -> list[Axes]:
    """Outputs as long as the values of the input say."""
    reason = f"{call.name}() looks at its values"
    _freeze_all(call, reason)
    return call.frozen_outputs(reason)


@row("masked_select", preserves_zero=False)
def masked_select(call: Call) -> Outputs:
    """What a boolean mask takes, one after another."""
    _freeze_all(call, "chosen by a boolean mask")
    return call.frozen_outputs("chosen by a boolean mask")


@row("masked_scatter", preserves_zero=False)
def masked_scatter(call: Call) -> Axes:
    """Writes the source, one value after another, where the mask is true.

    Trailing dimensions along which the mask is expanded (rows of embeddings) are written whole, if the source has
    them too; all else is frozen.
    """
    mask, axes = call.arg("mask"), call.first()
    chosen, source = call.axes("mask"), call.axes("source")
    whole = 0
    while whole < min(mask.dim(), len(source)) and _repeats(mask, axes, source, whole + 1):
        whole += 1
        call.space.unify_all(axis[-whole] for axis in (axes, source, chosen) if axis[-whole].size > 1)
        call.reduces(axes[-whole])  # a removed index must not take its part of the source
    for each in (axes, chosen, source):
        for axis in each[: len(each) - whole]:
            call.freeze(axis, "written by a boolean mask")
    return axes


def _repeats(mask: Tensor, axes: Axes, source: Axes, back: int) -> bool:
    """Whether the mask is the same all along a dimension, which the source has too."""
    same = mask.shape[-back] == 1 or (mask.stride(-back) == 0 and mask.shape[-back] == source[-back].size)
    return same and axes[-back].size == source[-back].size > 1


@row("index_select", preserves_zero=False)
def index_select(call: Call) -> Axes:
    axes = call.first()
    dim = call.arg("dim") % len(axes)
    call.looks_up(call.arg("index"), axes[dim], "looked up by index_select() along it")
    chosen = call.axes("index")
    return (*axes[:dim], *(chosen or (UNIT,)), *axes[dim + 1 :])


@row("gather", preserves_zero=False)
def gather(call: Call) -> Axes:
    """The output has the index's shape; dimensions of another size than the input's are looked up in part."""
    axes, chosen = call.first(), call.axes("index")
    dim = call.arg("dim") % len(axes) if axes else 0
    return _along(call, axes, chosen, dim)


def _along(call: Call, axes: Axes, other: Axes, dim: int) -> Axes:
    for d, (mine, theirs) in enumerate(zip(axes, other, strict=True)):
        if d == dim:
            call.looks_up(call.arg("index"), mine, f"looked up by {call.name}() along it")
        elif mine.size == theirs.size:
            call.unify(mine, theirs)
        else:
            call.freeze(mine, f"looked up in part by {call.name}()")
            call.freeze(theirs, f"{call.name}() looks up a part")
    return other


@row("take_along_dim", preserves_zero=False)
def take_along_dim(call: Call) -> Outputs:
    """``gather`` whose index broadcasts; without a dimension it is of the flattened input."""
    axes, chosen = call.first(), call.axes("indices")
    if call.arg("dim") is None:
        _freeze_all(call, "looked up by take_along_dim()")
        return call.frozen_outputs("looked up by take_along_dim()")
    dim = call.arg("dim") % len(axes)
    call.freeze(axes[dim], "looked up by take_along_dim() along it")
    rest = broadcast(call, [(*each[:dim], UNIT, *each[dim + 1 :]) for each in (axes, chosen)])
    return (*rest[:dim], chosen[dim], *rest[dim + 1 :])


@row(
    "scatter",
    "scatter_add",
    "scatter_reduce",
    "index_add",
    "index_copy",
    "index_fill",
    "index_reduce",
    preserves_zero=False,
)
def scatter(call: Call) -> Axes:
    """Writes into a copy of the input along ``dim``; all other dimensions must match whole. What is written is
    frozen along ``dim``: an index that is zeroed would still write.
    """
    axes, chosen = call.first(), call.axes("index")
    dim = call.arg("dim") % len(axes) if axes else 0
    source = call.maybe_axes("src") or call.maybe_axes("source") or ()
    if call.name.startswith("scatter"):
        _along(call, axes, chosen, dim)
        for a, b in zip(chosen, source, strict=False):
            if a.size == b.size:
                call.unify(a, b)
            else:
                call.freeze(b, "scattered in part")
        call.freeze(chosen[dim], f"written by {call.name}()")
        return axes
    for axis in (axes[dim], *chosen, *source[dim : dim + 1]):
        call.freeze(axis, f"written by {call.name}() along it")
    for d, theirs in enumerate(source):
        if d != dim:
            call.unify(axes[d], theirs)
    return axes


@row("index_put", "_index_put_impl", "_unsafe_index_put", preserves_zero=False)
def index_put(call: Call) -> Axes:
    """Writes at indexed positions; those and the indices are frozen, other dimensions pass. So do those that a mask in
    front of them doesn't lie on: whole rows are written.
    """
    axes = call.first()
    given = list(call.arg("indices"))
    if _has_mask(given):
        return _written(call, axes, given)
    places = _place(call, axes, given)
    for t in given:
        for axis in call.axes_of(t) if t is not None else ():
            call.freeze(axis, "places that index_put() writes to")
    broadcast(call, [places, call.axes("values")])
    return axes


def _written(call: Call, axes: Axes, given: list[Tensor | None]) -> Axes:
    """``x[mask] = rows``; masks in any other place freeze everything."""
    reason = "written by a boolean mask"
    mask, values = given[0], call.axes("values")
    if mask is None or any(t is not None for t in given[1:]):
        _freeze_all(call, reason)
        return axes
    rows = axes[mask.dim() :]
    for axis in (*axes[: mask.dim()], *call.axes_of(mask), *values[: -len(rows) or None]):
        call.freeze(axis, reason)
    broadcast(call, [rows, values[len(values) - min(len(values), len(rows)) :]])
    return axes


@row("repeat_interleave", preserves_zero=False)
def repeat_interleave(call: Call) -> Outputs:
    """Each position *n* times in a row; a tensor of repeats freezes what it repeats."""
    axes, times, dim = call.first(), call.arg("repeats"), call.arg("dim")
    if dim is None:  # of the flattened input
        axes, dim = (product(axes),), 0
    dim %= len(axes)
    if isinstance(times, Tensor):
        for axis in (axes[dim], *call.axes_of(times)):
            call.freeze(axis, "repeated by repeat_interleave()")
        repeated = call.fresh(call.outputs[0].shape[dim], "repeat_interleave()")
    else:
        copies = call.fresh(times)
        call.sized("repeats", None, copies)
        repeated = product([axes[dim], copies])
    return (*axes[:dim], repeated, *axes[dim + 1 :])


@row("tril", "triu", preserves_zero=False)
def triangle(call: Call) -> Axes:
    """Position against position: the last two dimensions are frozen."""
    axes = call.first()
    for axis in axes[-2:]:
        call.freeze(axis, f"{call.name}() compares positions along it")
    return axes
