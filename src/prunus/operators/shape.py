"""Operators that only rearrange positions: views, permutations, concatenation, slices."""

from __future__ import annotations

from prunus.axes import UNIT, Axes, Axis, product, total
from prunus.operators.table import Call, Outputs, broadcast, dims, row


@row("view", "_unsafe_view", "reshape", "_reshape_alias", "unflatten", "flatten")
def view(call: Call) -> Axes:
    sizes = list(call.outputs[0].shape)
    axes = tuple(call.space.regroup(call.first(), sizes))
    for i, axis in enumerate(axes):
        call.sized("size", i, axis)
    return axes


@row("permute")
def permute(call: Call) -> Axes:
    axes = call.first()
    return tuple(axes[d] for d in dims(call.arg("dims"), len(axes)))


@row("transpose", "swapaxes", "swapdims")
def transpose(call: Call) -> Axes:
    axes = list(call.first())
    if axes:
        a, b = (call.arg(f"dim{i}", call.arg(f"axis{i}")) for i in (0, 1))
        axes[a], axes[b] = axes[b], axes[a]
    return tuple(axes)


@row("t", "numpy_T", "mT", "adjoint")
def t(call: Call) -> Axes:
    axes = call.first()
    return (*axes[:-2], *axes[-2:][::-1]) if call.name in ("mT", "adjoint") else axes[::-1]


@row("unsqueeze")
def unsqueeze(call: Call) -> Axes:
    axes = list(call.first())
    axes.insert(call.arg("dim") % (len(axes) + 1), UNIT)
    return tuple(axes)


@row("squeeze")
def squeeze(call: Call) -> Axes:
    axes = call.first()
    chosen = dims(call.arg("dim"), len(axes))
    return tuple(axis for d, axis in enumerate(axes) if d not in chosen or axis.size != 1)


@row("expand", "broadcast_to")
def expand(call: Call) -> Axes:
    axes = call.first()
    shape = call.outputs[0].shape
    missing = len(shape) - len(axes)
    result = []
    for i, size in enumerate(shape):
        old = axes[i - missing] if i >= missing else UNIT
        axis = old if old.size == size else call.fresh(size)
        call.sized("size", i, axis)
        result.append(axis)
    return tuple(result)


@row("repeat")
def repeat(call: Call) -> Axes:
    repeats = call.arg("repeats")
    axes = (UNIT,) * (len(repeats) - len(call.first())) + call.first()
    result = []
    for i, (n, axis) in enumerate(zip(repeats, axes, strict=True)):
        copies = call.fresh(n)
        call.sized("repeats", i, copies)
        result.append(product([copies, axis]))
    return tuple(result)


@row("cat", "concat", "concatenate")
def cat(call: Call) -> Axes:
    parts = [call.axes_of(t) for t in call.args[0]]
    parts = [axes for axes in parts if len(axes) != 1 or axes[0].size] or parts[:1]  # legacy empty tensors
    dim = call.arg("dim") % len(parts[0])
    result = list(broadcast(call, [(*axes[:dim], UNIT, *axes[dim + 1 :]) for axes in parts]))
    result[dim] = total(axes[dim] for axes in parts)
    return tuple(result)


@row("stack")
def stack(call: Call) -> Axes:
    parts = [call.axes_of(t) for t in call.args[0]]
    result = list(broadcast(call, parts))
    result.insert(call.arg("dim") % (len(result) + 1), total([UNIT] * len(parts)))
    return tuple(result)


@row(
    "split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "chunk", "unsafe_chunk", "tensor_split"
)  # fmt: skip
def split(call: Call) -> list[Axes]:
    axes = call.first()
    dim = call.arg("dim") % len(axes)
    sizes = [out.shape[dim] for out in call.outputs]
    pieces = call.space.cut(axes[dim], sizes)
    if "with_sizes" in call.name:
        for i, piece in enumerate(pieces):
            call.sized("split_sizes", i, piece)
    elif "chunk" not in call.name and call.name != "tensor_split":
        call.sized("split_size", None, pieces[0])
    return [(*axes[:dim], piece, *axes[dim + 1 :]) for piece in pieces]


@row("unbind")
def unbind(call: Call) -> list[Axes]:
    axes = call.first()
    dim = call.arg("dim") % len(axes)
    call.space.cut(axes[dim], [1] * axes[dim].size)
    return [(*axes[:dim], *axes[dim + 1 :])] * axes[dim].size


@row("select", "select_copy")
def select(call: Call) -> Axes:
    axes = call.first()
    dim = call.arg("dim") % len(axes)
    size = axes[dim].size
    index = call.arg("index") % size
    before = call.space.cut(axes[dim], [index, 1, size - index - 1])[0]
    call.sized("index", None, before)
    return (*axes[:dim], *axes[dim + 1 :])


@row("slice", "slice_copy")
def slice_(call: Call) -> Axes:
    axes = call.first()
    dim = call.arg("dim", 0) % len(axes)
    size = axes[dim].size
    start, stop, step = slice(call.arg("start"), call.arg("end"), call.arg("step") or 1).indices(size)
    if step != 1:
        piece = _strided(call, axes[dim], start, step, call.outputs[0].shape[dim])
    else:
        stop = max(start, stop)
        before, piece, _ = call.space.cut(axes[dim], [start, stop - start, size - stop])
        if start:
            call.sized("start", None, before)
        if stop < size:
            call.sized("end", None, total([before, piece]))
    return (*axes[:dim], piece, *axes[dim + 1 :])


def _strided(call: Call, axis: Axis, start: int, step: int, size: int) -> Axis:
    """Every ``step``-th position: the outer factor of ``outer * step``, where it is all of them."""
    parts = call.space.split(axis, axis.size // step) if axis.size % step == 0 else None
    reason = f"sliced with step {step}"
    if parts is not None and start < step and size == axis.size // step:
        call.freeze(parts[1], reason)
        return parts[0]
    call.freeze(axis, reason)
    return call.fresh(size, reason)


@row("constant_pad_nd")
def constant_pad(call: Call) -> Axes:
    """Zeros (or a constant) laid before and after; negative amounts cut off."""
    axes = list(call.first())
    pads = call.arg("pad")
    for i in range(len(pads) // 2):
        before, after = pads[2 * i], pads[2 * i + 1]
        dim = len(axes) - 1 - i
        size = axes[dim].size
        start, stop = max(-before, 0), size - max(-after, 0)
        inner = call.space.cut(axes[dim], [start, stop - start, size - stop])[1]
        if start or stop < size:
            call.freeze(axes[dim], "cut by a negative pad")
        ends = [call.fresh(max(n, 0), "padding") for n in (before, after)]
        axes[dim] = total([ends[0], inner, ends[1]])
    return tuple(axes)


@row("flip", "roll", "rot90")
def reorder(call: Call) -> Axes:
    """Positions trade places along the dimensions: index *i* is no longer index *i*, so they are frozen."""
    axes = call.first()
    chosen = dims(call.arg("dims"), len(axes))
    for d in chosen:
        call.freeze(axes[d], f"{call.name}() along it")
    return tuple(axis if d not in chosen else call.fresh(axis.size, f"{call.name}()") for d, axis in enumerate(axes))


@row("as_strided")
def as_strided(call: Call) -> Outputs:
    """Only the trivial form, the same shape and strides, keeps its axes."""
    tensor, axes = call.args[0], call.first()
    same = tuple(call.arg("size")) == tuple(tensor.shape) and tuple(call.arg("stride")) == tensor.stride()
    if same and call.arg("storage_offset") in (None, tensor.storage_offset()):
        return axes
    for axis in axes:
        call.freeze(axis, "as_strided() over it")
    return call.frozen_outputs("as_strided()")


@row("unfold")
def unfold(call: Call) -> Axes:
    """Sliding windows along one dimension."""
    axes = list(call.first())
    dim = call.arg("dimension") % len(axes)
    call.freeze(axes[dim], "sliding windows over it")
    windows, width = call.outputs[0].shape[dim], call.outputs[0].shape[-1]
    axes[dim] = call.fresh(windows, "sliding windows")
    return (*axes, call.fresh(width, "a sliding window"))


@row("pixel_shuffle", "pixel_unshuffle", "space_to_depth")
def pixel_shuffle(call: Call) -> Axes:
    """``c * r * r`` channels against ``r`` times the height and width, or back: only *c* can be cut."""
    axes = call.first()
    up = call.name == "pixel_shuffle"
    out = call.outputs[0].shape
    height, width = (call.fresh(n, "spatial positions") for n in out[-2:])
    for axis in axes[-2:]:
        call.freeze(axis, "spatial positions")
    if up:
        channels, square = call.space.regroup([axes[-3]], [out[-3], axes[-3].size // out[-3]])
        call.freeze(square, "pixel shuffle")
    else:
        channels = product([axes[-3], call.fresh(out[-3] // axes[-3].size, "pixel unshuffle")])
    return (*axes[:-3], channels, height, width)


@row("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(call: Call) -> Axes:
    """``groups * n`` channels become ``n * groups``."""
    axes = call.first()
    groups = call.arg("groups")
    outer, inner = call.space.regroup([axes[1]], [groups, axes[1].size // groups])
    call.sized("groups", None, outer)
    return (axes[0], product([inner, outer]), *axes[2:])
