"""Convolutions of one to three dimensions: plain, grouped, depthwise, transposed."""

from __future__ import annotations

from typing import Any

from prunus.axes import Axes, Axis, product
from prunus.operators.table import Call, row


@row(
    "convolution",
    "_convolution",
    "convolution_overrideable",
    "mkldnn_convolution",
    "cudnn_convolution",
    preserves_zero=False,  # a bias
)
def convolution(call: Call) -> Axes:
    """Channels in are ``groups * i``, channels out ``groups * o``; the weight is ``[groups * o, i, ...]``.

    A transposed convolution's weight is ``[groups * i, o, ...]``.
    """
    x, weight, bias = call.first(), call.axes("weight"), call.maybe_axes("bias")
    batched = x if len(x) == len(weight) else (call.fresh(1), *x)
    channels_out = channels(call, batched[1], weight, transposed=bool(call.arg("transposed")))
    if bias is not None:
        call.unify(bias[0], channels_out)
    out = (batched[0], channels_out, *_positions(call, batched, weight))
    return out[len(batched) - len(x) :]


def channels(call: Call, channels_in: Axis, weight: Axes, transposed: bool = False) -> Axis:
    """Tie the channels that go in to the weight, in ``groups``; returns the channels that come out."""
    groups = call.arg("groups")
    if groups == 1:
        expected, channels_out = weight[:2] if transposed else (weight[1], weight[0])
        call.unify(channels_in, expected)
        return channels_out
    group = call.fresh(groups)
    grouped, inner = weight[0], weight[1]
    parts = call.fresh(weight[0].size // groups)
    call.unify(grouped, product([group, parts]))
    here, there = (parts, inner) if transposed else (inner, parts)
    call.unify(channels_in, product([group, here]))
    call.sized("groups", None, group)
    return product([group, there])


def _positions(call: Call, x: Axes, weight: Axes) -> Axes:
    """The spatial axes of the output. A kernel of one, without stride and padding, passes them through."""
    n = len(weight) - 2
    stride, padding = (_each(call.arg(name, default), n) for name, default in (("stride", 1), ("padding", 0)))
    extra = _each(call.arg("output_padding") or 0, n)
    result = []
    for i in range(n):
        kernel = weight[2 + i]
        if kernel.size == stride[i] == 1 and padding[i] == extra[i] == 0:
            result.append(x[2 + i])
            continue
        call.freeze(kernel, "a convolution's window")
        call.freeze(x[2 + i], "positions that a convolution slides over")
        result.append(call.fresh(call.outputs[0].shape[i - n], "positions of a convolution"))
    return tuple(result)


def _each(value: Any, n: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * n if len(values) == 1 else values
