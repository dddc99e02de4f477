"""torchvision's own operators: pooling over regions, suppression of boxes, deformable convolution."""

from __future__ import annotations

from prunus.axes import Axes, Axis
from prunus.operators.convolution import channels
from prunus.operators.table import Call, row


@row("torchvision::nms", preserves_zero=False)
def nms(call: Call) -> list[Axes]:
    """Indices of the boxes that stay: as many as their values say."""
    for tensor in call.given:
        for axis in call.axes_of(tensor):
            call.freeze(axis, "boxes that nms() compares")
    return call.frozen_outputs("boxes that nms() leaves")


@row("torchvision::roi_align", "torchvision::roi_pool", preserves_zero=False)
def roi_align(call: Call) -> list[Axes]:
    """``[n, c, h, w]`` at *k* regions gives ``[k, c, ...]``. What else there is are the places of maxima, alike."""
    x, regions = _regions(call)
    return [(regions, x[1], *_bins(call, out.shape[2:])) for out in call.outputs]


@row("torchvision::ps_roi_align", "torchvision::ps_roi_pool", preserves_zero=False)
def position_sensitive(call: Call) -> list[Axes]:
    """``c * ph * pw`` channels at *k* regions give ``[k, c, ph, pw]``: each bin reads channels of its own."""
    x, regions = _regions(call)
    made, *bins = call.space.regroup([x[1]], list(call.outputs[0].shape[1:]))
    for axis in bins:
        call.freeze(axis, f"bins of {call.name}()")
    call.freeze(made, f"channels that {call.name}() numbers")
    return [(regions, made, *bins) for _ in call.outputs]


def _regions(call: Call) -> tuple[Axes, Axis]:
    x, rois = call.first(), call.axes_of(call.args[1])
    for axis in (x[0], *x[2:], rois[1]):
        call.freeze(axis, f"positions of {call.name}()")
    return x, rois[0]


def _bins(call: Call, shape: tuple[int, ...]) -> Axes:
    return tuple(call.fresh(n, f"bins of {call.name}()") for n in shape)


@row("torchvision::deform_conv2d", preserves_zero=False)
def deform_conv2d(call: Call) -> Axes:
    """A convolution whose positions are moved by ``offset``, of which each of some groups of channels has its own."""
    x, weight = call.first(), call.axes("weight")
    channels_out = channels(call, x[1], weight)
    call.unify(call.axes("bias")[0], channels_out)
    groups = call.arg("offset_groups")
    moved = [call.axes("offset"), call.axes("mask")]  # a mask that isn't used is there too, of shape [batch, 1]
    for axes in moved:
        call.unify(axes[0], x[0])
    for axis in (*x[2:], *weight[2:], *(axis for axes in moved for axis in axes[1:])):
        call.freeze(axis, "positions of deform_conv2d()")
    if groups > 1:
        call.freeze(call.space.regroup([x[1]], [groups, x[1].size // groups])[0], "groups of deform_conv2d()'s offsets")
    return (x[0], channels_out, *_bins(call, call.outputs[0].shape[2:]))
