"""Operators that only rearrange positions: views, permutations, concatenation, slices."""

from __future__ import annotations

from prunus.axes import UNIT, Axes, Axis, product, total
from prunus.operators.table import Call, broadcast, dims, row


@row("view", "_unsafe_view", "reshape", "_reshape_alias", "unflatten", "flatten")
def view(call: Call) -> Axes:
    if call.arg("dtype") is not None:
        return _retyped(call)
    sizes = list(call.outputs[0].shape)
    axes = tuple(call.space.regroup(call.first(), sizes))
    if call.name == "unflatten":
        start = call.arg("dim") % len(call.first())
        for i in range(len(call.arg("sizes"))):
            call.sized("sizes", i, axes[start + i])
    elif call.name != "flatten":
        for i, axis in enumerate(axes):
            call.sized("shape" if call.name == "reshape" else "size", i, axis)
    return axes


def _retyped(call: Call) -> Axes:
    """The same bytes as another type: where the last dimension changes its size, it is frozen."""
    axes, shape = call.first(), call.outputs[0].shape
    if not axes or axes[-1].size == shape[-1]:
        return axes
    call.freeze(axes[-1], "viewed as another type")
    return (*axes[:-1], call.fresh(shape[-1], "viewed as another type"))


@row("view_as_complex", "view_as_complex_copy")
def view_as_complex(call: Call) -> Axes:
    axes = call.first()
    call.freeze(axes[-1], "real and imaginary parts")
    return axes[:-1]


@row("view_as_real", "view_as_real_copy")
def view_as_real(call: Call) -> Axes:
    return (*call.first(), call.fresh(2, "real and imaginary parts"))


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
    chosen = _listed(call, "dim", len(axes))
    return tuple(axis for d, axis in enumerate(axes) if d not in chosen or axis.size != 1)


def _listed(call: Call, name: str, ndim: int) -> list[int]:
    """Like :func:`dims`, where an empty list means none."""
    value = call.arg(name)
    return [] if value == [] else dims(value, ndim)


@row("expand", "broadcast_to", preserves_zero=False)
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


@row("repeat", preserves_zero=False)
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
    call.chosen_together(call.args[0], result[dim].size)
    return tuple(result)


@row("stack")
def stack(call: Call) -> Axes:
    parts = [call.axes_of(t) for t in call.args[0]]
    result = list(broadcast(call, parts))
    result.insert(call.arg("dim") % (len(result) + 1), total([UNIT] * len(parts)))
    call.chosen_together(call.args[0], len(parts))
    return tuple(result)


@row(
    "split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "chunk", "unsafe_chunk", "tensor_split"
)  # fmt: skip
def split(call: Call) -> list[Axes]:
    axes = call.first()
    dim = call.arg("dim") % len(axes)
    sizes = [out.shape[dim] for out in call.outputs]
    pieces = call.space.cut(axes[dim], sizes)
    if "with_sizes" in call.name or isinstance(call.arg("split_size"), list | tuple):
        for i, piece in enumerate(pieces):
            call.sized("split_sizes" if "with_sizes" in call.name else "split_size", i, piece)
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


@row("constant_pad_nd", preserves_zero=False)
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
    axes, shape = call.first(), call.outputs[0].shape
    chosen = _listed(call, "dims", len(axes)) if call.name == "flip" else dims(call.arg("dims"), len(axes))
    for d in chosen:
        call.freeze(axes[d], f"{call.name}() along it")
    return tuple(axis if d not in chosen else call.fresh(shape[d], f"{call.name}()") for d, axis in enumerate(axes))


@row("unfold")
def unfold(call: Call) -> Axes:
    """Sliding windows along one dimension."""
    axes = list(call.first())
    dim = call.arg("dimension") % len(axes)
    call.freeze(axes[dim], "sliding windows over it")
    windows, width = call.outputs[0].shape[dim], call.outputs[0].shape[-1]
    axes[dim] = call.fresh(windows, "sliding windows")
    return (*axes, call.fresh(width, "a sliding window"))


@row("pixel_shuffle")
def pixel_shuffle(call: Call) -> Axes:
    """``c * r * r`` channels, *h* and *w* become *c* channels, ``h * r`` and ``w * r``; *r* can't be cut."""
    axes, r = call.first(), call.arg("upscale_factor")
    channels, *square = call.space.regroup(axes[-3:-2], [axes[-3].size // (r * r), r, r])
    for axis in square:
        call.freeze(axis, "pixel_shuffle()")
    return (*axes[:-3], channels, *(product(pair) for pair in zip(axes[-2:], square, strict=True)))


@row("pixel_unshuffle")
def pixel_unshuffle(call: Call) -> Axes:
    """``pixel_shuffle`` backwards."""
    axes, r = call.first(), call.arg("downscale_factor")
    (height, a), (width, b) = (call.space.regroup([axis], [axis.size // r, r]) for axis in axes[-2:])
    for axis in (a, b):
        call.freeze(axis, "pixel_unshuffle()")
    return (*axes[:-3], product([axes[-3], a, b]), height, width)


@row("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(call: Call) -> Axes:
    """``groups * n`` channels become ``n * groups``."""
    axes = call.first()
    groups = call.arg("groups")
    outer, inner = call.space.regroup([axes[1]], [groups, axes[1].size // groups])
    call.sized("groups", None, outer)
    return (axes[0], product([inner, outer]), *axes[2:])


@row("diagonal", "diagonal_copy")
def diagonal(call: Call) -> Axes:
    """Positions of two dimensions that are paired are frozen; the diagonal comes last."""
    axes = call.first()
    paired = dims([call.arg("dim1"), call.arg("dim2")], len(axes))
    for d in paired:
        call.freeze(axes[d], "diagonal() pairs positions along it")
    rest = (axis for d, axis in enumerate(axes) if d not in paired)
    return (*rest, call.fresh(call.outputs[0].shape[-1], "a diagonal"))
