"""Batch, layer, group and RMS normalization. Instance normalization arrives as batch norm over ``batch * c``."""

from __future__ import annotations

from prunus.axes import UNIT, Axes, product
from prunus.operators.table import Call, row


@row(
    "native_batch_norm",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training",
    "_native_batch_norm_legit_functional",
    "_batch_norm_with_update",
    "_batch_norm_with_update_functional",
    "_batch_norm_no_update",
    "cudnn_batch_norm",
    "batch_norm",
    preserves_zero=False,
)
def batch_norm(call: Call) -> list[Axes]:
    """Everything along the channels (dimension 1) is one axis."""
    axes = call.first()
    channels = axes[1]
    for name in ("weight", "bias", "running_mean", "running_var"):
        other = call.maybe_axes(name)
        if other is not None:
            call.unify(channels, other[0])
    if call.arg("training", call.arg("train", "no_training" not in call.name)):
        for axis in (*axes[:1], *axes[2:]):
            call.reduces(axis)
    rest = [tuple(channels if n == channels.size else call.fresh(n) for n in out.shape) for out in call.outputs[1:]]
    return [axes, *rest]


@row("native_layer_norm", "layer_norm", "_fused_rms_norm", "rms_norm", preserves_zero=False)
def layer_norm(call: Call) -> list[Axes]:
    """Normalized over the trailing dimensions, which the weight and the bias share."""
    axes = call.first()
    shape = call.arg("normalized_shape")
    split = len(axes) - len(shape)
    for name in ("weight", "bias"):
        for mine, theirs in zip(axes[split:], call.maybe_axes(name) or (), strict=False):
            call.unify(mine, theirs)
    for i, axis in enumerate(axes[split:]):
        call.reduces(axis)
        call.sized("normalized_shape", i, axis)
    statistics = (*axes[:split], *(UNIT for _ in shape))
    return [axes, *(statistics for _ in call.outputs[1:])]


@row("native_group_norm", "group_norm", preserves_zero=False)
def group_norm(call: Call) -> list[Axes]:
    """Channels are ``groups * n``; statistics over the *n* and the positions of each group."""
    axes = call.first()
    groups = call.arg("group", call.arg("num_groups"))
    name = "group" if call.arg("group") is not None else "num_groups"
    group, inner = call.fresh(groups), call.fresh(axes[1].size // groups)
    channels = product([group, inner])
    call.unify(axes[1], channels)
    for other in (call.maybe_axes("weight"), call.maybe_axes("bias")):
        if other is not None:
            call.unify(channels, other[0])
    call.sized(name, None, group)
    if call.arg("C") is not None:
        call.sized("C", None, channels)
        call.sized("HxW", None, product(axes[2:]))
        call.sized("N", None, axes[0])
    for axis in (inner, *axes[2:]):
        call.reduces(axis)
    return [axes, *((axes[0], group) for _ in call.outputs[1:])]


@row("_weight_norm_interface", "_weight_norm", preserves_zero=False)
def weight_norm(call: Call) -> list[Axes]:
    """``v * g / |v|``, the norm taken over all dimensions but ``dim``."""
    axes, gain = call.axes("v"), call.axes("g")
    dim = call.arg("dim") % len(axes)
    call.unify(axes[dim], gain[dim] if len(gain) == len(axes) else gain[0])
    for d, axis in enumerate(axes):
        if d != dim:
            call.reduces(axis)
    return [axes, *(gain for _ in call.outputs[1:])]
