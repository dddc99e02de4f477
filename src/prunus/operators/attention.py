"""Fused scaled dot-product attention, in all the forms that torch dispatches to."""

from __future__ import annotations

from prunus.axes import UNIT, Axes, product
from prunus.operators.table import Call, broadcast, row


@row(
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
    "_scaled_dot_product_attention_math",
    "_scaled_dot_product_attention_math_for_mps",
    "scaled_dot_product_attention",
    preserves_zero=False,
)
def attention(call: Call) -> list[Axes]:
    """Queries ``[b, h, l, e]``, keys ``[b, k, s, e]``, values ``[b, k, s, v]`` give ``[b, h, l, v]``.

    With fewer key heads than query heads (``enable_gqa``) the query heads are ``k * repeat``. The axis *e* is only
    contracted: whether its size sets the softmax scale is seen where the user calls the function.
    """
    query, key, value = (call.axes(name) for name in ("query", "key", "value"))
    call.unify(query[-1], key[-1])
    call.unify(key[-2], value[-2])
    batch = broadcast(call, [axes[:-3] for axes in (query, key, value)])
    heads: Axes = ()
    if len(query) > 2:
        call.unify(key[-3], value[-3])
        if query[-3].size != key[-3].size and key[-3].size > 1:
            repeat = call.fresh(query[-3].size // key[-3].size)
            call.unify(query[-3], product([key[-3], repeat]))
        heads = broadcast(call, [(query[-3],), (query[-3] if key[-3].size != query[-3].size else key[-3],)])
    mask = call.maybe_axes("attn_mask") or call.maybe_axes("attn_bias")
    if mask:
        broadcast(call, [mask, (*batch, *heads, query[-2], key[-2])])
    if call.arg("is_causal"):
        for axis in (query[-2], key[-2]):
            call.freeze(axis, "positions that causal attention compares")
    else:
        call.reduces(key[-2])
    result = (*batch, *heads, query[-2], value[-1])
    return [result, *(_statistic(call, out.shape, (*result[:-1], key[-2])) for out in call.outputs[1:])]


def _statistic(call: Call, shape: tuple[int, ...], weights: Axes) -> Axes:
    """The weights ``[b, h, l, s]`` or the log-sum-exp ``[b, h, l]``; other outputs are of no use to a model."""
    for axes in (weights, weights[:-1]):
        if tuple(shape) == tuple(axis.size for axis in axes):
            return axes
    return tuple(call.fresh(n, "internal to attention") if n != 1 else UNIT for n in shape)
