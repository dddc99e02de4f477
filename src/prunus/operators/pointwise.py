"""Operators that work position by position, with broadcasting."""

from __future__ import annotations

import torch

from prunus.axes import UNIT
from prunus.operators.table import TABLE, Call, Outputs, Row, broadcast, row, unsupported


def pointwise(call: Call) -> Outputs:
    """All tensor arguments broadcast against each other; every output has the common axes."""
    axes = broadcast(call, [call.axes_of(t) for t in call.given])
    return [axes] * len(call.outputs)


# Position by position too, though torch doesn't tag them so.
_MORE = (
    "hardswish leaky_relu celu _prelu_kernel rrelu_with_noise log_sigmoid_forward masked_fill fill copy rsub "
    "_to_copy detach alias lift_fresh lift contiguous zeros_like ones_like full_like empty_like rand_like randn_like "
    "zero bernoulli uniform normal exponential native_dropout dropout alpha_dropout feature_dropout random "
    "floor_divide _conj _neg_view resolve_conj resolve_neg positive log_normal geometric cauchy clone "
    "_fused_dropout complex polar isfinite isinf logaddexp nan_to_num data requires_grad_ "
    "fake_quantize_per_tensor_affine_cachemask"
).split()
row(*_MORE, preserves_zero=False)(pointwise)  # their in-place forms too: see find()


@row("where", preserves_zero=False)
def where(call: Call) -> Outputs:
    """With a condition alone, its outputs are as long as their values say."""
    return pointwise(call) if len(call.args) > 1 else unsupported(call)


@row("prelu", preserves_zero=False)
def prelu(call: Call) -> Outputs:
    """One slope for all, or one per channel (dimension 1)."""
    axes, slope = call.first(), call.axes("weight")
    if slope and slope[0].size > 1:
        call.unify(axes[1], slope[0])
    return axes


@row("meshgrid", preserves_zero=False)
def meshgrid(call: Call) -> Outputs:
    """One dimension for each of the vectors, in their order; the first two change places for ``indexing="xy"``."""
    axes = [axis for t in call.given for axis in (call.axes_of(t) or (UNIT,))]
    if call.arg("indexing") == "xy":
        axes[:2] = axes[:2][::-1]
    return [tuple(axes)] * len(call.outputs)


@row("glu")
def glu(call: Call) -> Outputs:
    """The first half along ``dim`` times the sigmoid of the second half: the halves are the same axis."""
    axes = call.first()
    dim = call.arg("dim") % len(axes)
    half = axes[dim].size // 2
    a, b = call.space.cut(axes[dim], [half, half])
    call.unify(a, b)
    return (*axes[:dim], a, *axes[dim + 1 :])


def _is_tagged(name: str) -> bool:
    packet = getattr(torch.ops.aten, name, None)
    overloads = packet.overloads() if packet is not None else []
    return any(torch.Tag.pointwise in getattr(packet, overload).tags for overload in overloads)


def find(name: str) -> Row | None:
    """The row of the operator called ``name``; in-place forms share the row of the plain form."""
    found = TABLE.get(name)
    if found is None and name.endswith("_") and not name.startswith("_"):
        found = TABLE.get(name[:-1])
    if found is None and (_is_tagged(name) or (name.endswith("_") and _is_tagged(name[:-1]))):
        found = TABLE[name] = Row(name, pointwise, preserves_zero=False)
    return found
