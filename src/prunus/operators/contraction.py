"""Matrix products: the contracted axes are the same axis."""

from __future__ import annotations

from prunus.axes import UNIT, Axes
from prunus.operators.table import Call, broadcast, row


def _product(call: Call, a: Axes, b: Axes) -> Axes:
    """``a @ b`` for matrices, batched ones and vectors, as ``torch.matmul`` has it."""
    left = a if len(a) > 1 else (UNIT, *a)
    right = b if len(b) > 1 else (*b, UNIT)
    call.unify(left[-1], right[-2])
    batch = broadcast(call, [left[:-2], right[:-2]])
    rows = left[-2:-1] if len(a) > 1 else ()
    columns = right[-1:] if len(b) > 1 else ()
    return (*batch, *rows, *columns)


@row("mm", "bmm", "matmul", "mv", "dot", "vdot", "_int_mm")
def matmul(call: Call) -> Axes:
    return _product(call, call.axes_of(call.args[0]), call.axes_of(call.args[1]))


@row("addmm", "baddbmm", "addmv", preserves_zero=False)
def addmm(call: Call) -> Axes:
    result = _product(call, call.axes_of(call.args[1]), call.axes_of(call.args[2]))
    return broadcast(call, [call.first(), result])


@row("linear", preserves_zero=False)
def linear(call: Call) -> Axes:
    x, weight, bias = call.axes("input"), call.axes("weight"), call.maybe_axes("bias")
    call.unify(x[-1], weight[-1])
    if bias is not None:
        call.unify(bias[0], weight[0])
    return (*x[:-1], *weight[:-1])


@row("outer", "ger")
def outer(call: Call) -> Axes:
    return (*call.axes_of(call.args[0]), *call.axes_of(call.args[1]))


@row("_cdist_forward", "cdist", "_euclidean_dist", preserves_zero=False)
def distances(call: Call) -> Axes:
    """From each of ``[..., n, d]`` to each of ``[..., m, d]``; what isn't there is no distance."""
    a, b = (call.axes_of(t) for t in call.args[:2])
    call.unify(a[-1], b[-1])
    return (*broadcast(call, [a[:-2], b[:-2]]), a[-2], b[-2])


@row("_trilinear")
def trilinear(call: Call) -> Axes:
    """Three factors multiplied, each with dimensions inserted to broadcast, and summed over ``sumdim``."""
    factors = []
    for i in (1, 2, 3):
        axes = list(call.axes(f"i{i}"))
        for d in sorted(call.arg(f"expand{i}")):
            axes.insert(d, UNIT)
        factors.append(tuple(axes))
    return tuple(axis for d, axis in enumerate(broadcast(call, factors)) if d not in call.arg("sumdim"))


@row("_grouped_mm")
def grouped_mm(call: Call) -> Axes:
    """One product per group, as experts have them: ``offs`` says where each group ends along the rows of the first
    matrix, along the columns of the second, or along what is contracted. What they divide is frozen. A group whose
    matrix goes must have no rows: groups of rows can be cut, others are frozen.
    """
    a, b, ends = call.axes_of(call.args[0]), call.axes_of(call.args[1]), call.maybe_axes("offs") or ()
    call.unify(a[-1], b[-2])
    experts = (*a[:-2], *b[:-2], *ends)[:1]
    divided = (a[-1] if len(b) == 2 else a[-2],) if len(a) == 2 else (b[-1],) if len(b) == 2 else ()
    if len(a) == 2 and len(b) == 3 and ends:
        call.reduces(call.space.unify_all([b[0], ends[0]]))
        call.freeze(a[0], "rows of _grouped_mm()")
        return (a[0], b[2])
    for axis in (*a[:-2], *b[:-2], *ends, *divided):
        call.freeze(axis, "groups of _grouped_mm()")
    rows, columns = a[-2:-1], b[-1:]
    return (*(experts if len(call.outputs[0].shape) == 3 else ()), *rows, *columns)
