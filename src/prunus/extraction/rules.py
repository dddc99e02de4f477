"""How what is known passes through the operators: one rule per family of the operator table.

A rule gets a call and what is known of its tensors, and says what is known of its outputs. An operator without a rule
gives outputs of which nothing is known: that is always right.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from prunus.extraction.known import Known, along, known, uniform
from prunus.operators import Call, find
from prunus.operators.table import dims

Look = Callable[[Tensor], Known | None]
Found = Known | None
Rule = Callable[[Call, Look], "Found | list[Found]"]

_UNFIXED = ("sum", "nansum", "count_nonzero", "cumsum", "cumprod", "logcumsumexp", "linalg_vector_norm", "norm")


def passed(call: Call, look: Look) -> list[Found]:
    """What is known of each output of the call."""
    row = find(call.name) if call.func.namespace in ("aten", "prims") else None
    nothing: list[Found] = [None] * len(call.outputs)
    if row is None:
        return nothing
    family = row.rule.__module__.rpartition(".")[2]
    if torch.Tag.nondeterministic_seeded in call.func.tags and family != "attention":  # random by its dropout alone
        return nothing
    if _all_fixed(call, look, family):
        return [
            known(_own(call, out), torch.ones(out.shape, dtype=torch.bool, device="cpu"), True) for out in call.outputs
        ]
    rule = RULES.get(call.name.removesuffix("_"), RULES.get(call.name, FAMILIES.get(family)))
    found = rule(call, look) if rule is not None else None
    if isinstance(found, list):
        return found
    return [found, *nothing[1:]]


def _own(call: Call, out: Tensor) -> Tensor:
    """A value that later writes to ``out`` don't reach; views of parameters are too large to copy for it."""
    return out.detach() if call.func.is_view else out.clone()


def _all_fixed(call: Call, look: Look, family: str) -> bool:
    """Parameters alone go in, and no size of an input: what comes out is fixed too."""
    tensors = call.given
    if not tensors or family in ("pooling", "creation") or call.name in _UNFIXED or call.func._schema.is_mutable:
        return False
    return all(k is not None and k.fixed and k.whole for k in map(look, tensors))


def _run(call: Call, stand_in: Callable[[Tensor], Tensor], kwargs: dict[str, Any] | None = None) -> Any:
    """The call itself, with something else for each of its tensors."""

    def swapped(value: Any) -> Any:
        if isinstance(value, Tensor):
            return stand_in(value)
        return type(value)(swapped(item) for item in value) if isinstance(value, list | tuple) else value

    return call.func(*map(swapped, call.args), **{k: swapped(v) for k, v in (kwargs or call.kwargs).items()})


# -- position by position ------------------------------------------------------------------------------------------

_UNSET = ("empty_like", "rand_like", "randn_like")


def pointwise(call: Call, look: Look) -> Found | list[Found]:
    """Constants in, constants out. A known zero times anything is zero."""
    if call.name in _UNSET:
        return None
    tensors = call.given
    found = [look(t) for t in tensors]
    product = call.name in ("mul", "mul_")
    if any(k is None for k in found) and not (product and any(k is not None for k in found)):
        return None
    shape = call.outputs[0].shape
    where = torch.ones(shape, dtype=torch.bool, device="cpu")
    zero = torch.zeros(shape, dtype=torch.bool, device="cpu")
    for k in found:
        where = where & (k.where if k is not None else False)
        zero = zero | (k.zero if k is not None else False)
    where = where | zero if product else where
    values = {id(t): (k.value if k is not None else torch.zeros_like(t)) for t, k in zip(tensors, found, strict=True)}
    result = _run(call, lambda t: values[id(t)].clone())
    outputs = [result] if isinstance(result, Tensor) else list(result)
    return [known(out, where) for out in outputs]


def _written(call: Call, look: Look) -> Found:
    """``copy_``: what was there before doesn't count."""
    source = look(call.args[1]) if isinstance(call.args[1], Tensor) else None
    shape = call.outputs[0].shape
    if source is None:
        return None
    return known(source.value.broadcast_to(shape).to(call.outputs[0].dtype), source.where.broadcast_to(shape))


def _filled(call: Call, look: Look) -> Found:
    """A number for every element."""
    if any(isinstance(a, Tensor) for a in call.args[1:]):
        return None
    return known(call.outputs[0].clone(), torch.ones(call.outputs[0].shape, dtype=torch.bool, device="cpu"))


def _glu(call: Call, look: Look) -> Found:
    found = look(call.args[0])
    if found is None:
        return None
    (a, b), (x, _) = (t.chunk(2, call.arg("dim")) for t in (found.where, found.value))
    value = call.func(found.value, call.arg("dim"))
    return known(value, (a & b) | (a & (x == 0)))


def _prelu(call: Call, look: Look) -> Found:
    found, slope = look(call.args[0]), look(call.args[1])
    if found is None or slope is None or not slope.whole:
        return None
    return known(call.func(found.value, slope.value), found.where)


# -- rearrangements ------------------------------------------------------------------------------------------------

_RESHAPES = ("view", "_unsafe_view", "reshape", "_reshape_alias", "unflatten", "flatten")
_TURNED = ("transpose_", "t_", "squeeze_", "unsqueeze_")
"""In place, but no value is written."""


def shape(call: Call, look: Look) -> list[Found] | None:
    """The same rearrangement of the constants and of the flags that say where they are."""
    tensors = call.given
    found = {id(t): look(t) for t in tensors}
    writes = call.func._schema.is_mutable and call.name not in _TURNED
    if all(k is None for k in found.values()) or writes or "strided" in call.name:
        return None
    values = {i: k.value if k is not None else None for i, k in found.items()}
    flags = {i: k.where if k is not None else None for i, k in found.items()}
    value = _rearranged(call, lambda t: torch.zeros_like(t) if (v := values[id(t)]) is None else v)
    where = _rearranged(
        call, lambda t: torch.zeros(t.shape, dtype=torch.bool, device="cpu") if (f := flags[id(t)]) is None else f
    )
    fixed = all(k is not None and k.fixed for k in found.values())
    return [known(v, w, fixed) for v, w in zip(value, where, strict=True)]


def _rearranged(call: Call, stand_in: Callable[[Tensor], Tensor]) -> list[Tensor]:
    if call.name in _RESHAPES:
        if call.arg("dtype") is not None:
            return [torch.zeros(call.outputs[0].shape, dtype=torch.bool, device="cpu")]
        return [stand_in(call.args[0]).reshape(call.outputs[0].shape)]
    result = _run(call, lambda t: stand_in(t).detach())  # an object of its own, which may be turned in place
    return [result] if isinstance(result, Tensor) else list(result)


def _padded(call: Call, look: Look) -> Found:
    """Constants laid around: known, unless they lie around something that isn't."""
    found = look(call.args[0])
    value = found.value if found is not None else torch.zeros_like(call.args[0])
    where = found.where if found is not None else torch.zeros(call.args[0].shape, dtype=torch.bool, device="cpu")
    flags = torch.ops.aten.constant_pad_nd.default(where, call.arg("pad"), True)
    return known(torch.ops.aten.constant_pad_nd.default(value, call.arg("pad"), call.arg("value") or 0), flags)


# -- windows, statistics, products ---------------------------------------------------------------------------------

_OPAQUE_WINDOWS = ("im2col", "col2im", "grid_sampler_2d", "grid_sampler_3d", "grid_sampler", "cudnn_grid_sampler")


def pooling(call: Call, look: Look) -> Found:
    """A plane of one constant stays one; zeros in an average's padding count, so there only zeros stay."""
    found = look(call.args[0])
    if found is None or call.name in _OPAQUE_WINDOWS:
        return None
    n = next(int(c) for c in call.name[::-1] if c.isdigit()) if call.name[-1] != "s" else 2 + ("3d" in call.name)
    plane = range(-n, 0)
    where = uniform(found, plane)
    value = found.value.amax(list(plane), keepdim=True)
    padding = call.arg("padding") if call.name.startswith("avg_pool") else None
    if call.arg("divisor_override") is not None or any(_listed(padding)):
        where = where & (value == 0)
    return known(value.broadcast_to(call.outputs[0].shape), where.broadcast_to(call.outputs[0].shape))


def _listed(value: Any) -> list[int]:
    return [] if value is None else [value] if isinstance(value, int) else list(value)


def _batch_norm(call: Call, look: Look) -> Found:
    """With running statistics, an affine map per channel."""
    found = look(call.args[0])
    training = call.arg("training", call.arg("train", "no_training" not in call.name))
    rest = [t for t in call.given if t is not call.args[0]]
    if found is None or training or not all(k is not None and k.whole for k in map(look, rest)):
        return None
    value = _run(call, lambda t: found.value if t is call.args[0] else t)
    return known(value if isinstance(value, Tensor) else value[0], found.where)


def normalization(call: Call, look: Look) -> Found:
    """Of layer and RMS norm only this is sure: where the gain is zero, the bias comes out."""
    weight, bias = call.arg("weight"), call.arg("bias")
    gain = look(weight) if isinstance(weight, Tensor) else None
    shift = look(bias) if isinstance(bias, Tensor) else None
    if gain is None or (bias is not None and shift is None) or ("layer" not in call.name and "rms" not in call.name):
        return None
    shape = call.outputs[0].shape
    value = shift.value if shift is not None else torch.zeros_like(gain.value)
    where = gain.zero & (shift.where if shift is not None else True)
    return known(value.broadcast_to(shape), where.broadcast_to(shape))


def _sum(call: Call, look: Look) -> Found:
    """How many terms there are may depend on the input: only zeros stay known."""
    return _reduced(call, look, zeros_only=True)


def _mean(call: Call, look: Look) -> Found:
    return _reduced(call, look, zeros_only=False)


def _reduced(call: Call, look: Look, zeros_only: bool) -> Found:
    found = look(call.args[0])
    if found is None or call.arg("other") is not None or len(call.outputs) > 1:
        return None
    chosen = dims(call.arg("dim"), found.value.dim())
    where = uniform(found, chosen)
    value = found.value.amax(chosen, keepdim=True) if chosen else found.value
    where = where & (value == 0) if zeros_only else where
    out = call.outputs[0]
    return known(value.reshape(out.shape).to(out.dtype), where.reshape(out.shape))


MATRICES = ("mm", "bmm", "matmul", "addmm", "baddbmm")
"""Products of matrices; torch takes ``linear`` apart into these before it gets here."""


def matrix(call: Call, look: Look) -> Found:
    """An element of a product is known if every term of its sum is, or has a factor that is zero."""
    a, b = call.args[0], call.args[1]
    bias = None
    if call.name in ("addmm", "baddbmm"):
        bias, a, b = call.args[0], call.args[1], call.args[2]
        if call.arg("beta", 1) != 1 or call.arg("alpha", 1) != 1:
            return None
    elif call.name not in MATRICES:
        return None
    found = multiplied(a, look(a), b, look(b))
    if found is None or bias is None:
        return found
    shift = look(bias)
    return None if shift is None else known(found.value + shift.value, found.where & shift.where)


def multiplied(a: Tensor, x: Known | None, b: Tensor, y: Known | None) -> Found:
    if y is None or a.dim() < 2 or b.dim() < 2:
        return None
    value = torch.zeros(1, a.shape[-1], dtype=y.value.dtype, device="cpu")
    where = torch.zeros(1, a.shape[-1], dtype=torch.bool, device="cpu")
    if x is not None:
        value, where = x.value, x.where
        if bool((value == value[..., :1, :]).all()) and bool((where == where[..., :1, :]).all()):
            value, where = value[..., :1, :], where[..., :1, :]
    number = torch.float32
    unknown, other = (~where).to(number), (~y.where).to(number)
    bad = unknown @ (~y.zero).to(number) + (~(where & (value == 0))).to(number) @ other
    shape = (*torch.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])
    return known((value @ y.value).broadcast_to(shape), (bad == 0).broadcast_to(shape))


def convolution(call: Call, look: Look) -> Found:
    """A channel is known if each channel it reads is a constant (zero, where a border is padded), or isn't read."""
    weight, bias = look(call.arg("weight")), call.arg("bias")
    shift = look(bias) if isinstance(bias, Tensor) else None
    if weight is None or not weight.whole or (bias is not None and (shift is None or not shift.whole)):
        return None
    x: Tensor = call.args[0]
    channel = x.dim() - call.arg("weight").dim() + 1
    same, value = along(look(x), channel, x.shape[channel])
    kernel = canonical(weight.value, call)
    fine = same & ((value == 0) | (not slides_off(call)))
    groups, _, inner, _ = kernel.shape
    reads = (kernel != 0).any(3)
    where = ~(reads & ~fine.view(groups, 1, inner)).any(2)
    total = torch.einsum("goik,gi->go", kernel, torch.where(fine, value, 0).view(groups, inner).to(kernel.dtype))
    out = total.reshape(-1) + (shift.value if shift is not None else 0)
    ones = [1] * (call.outputs[0].dim() - channel - 1)
    shape = call.outputs[0].shape
    return known(out.view(-1, *ones).broadcast_to(shape), where.reshape(-1, *ones).broadcast_to(shape))


def canonical(weight: Tensor, call: Call) -> Tensor:
    """A convolution's weight as a view ``[groups, out, in, taps]``."""
    groups = call.arg("groups")
    grouped = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    return grouped.transpose(1, 2) if call.arg("transposed") else grouped


def slides_off(call: Call) -> bool:
    """Whether a plane of one constant may give a plane that isn't one."""
    if not call.arg("transposed"):
        return any(_listed(call.arg("padding")))
    return any(n != 1 for n in (*call.arg("weight").shape[2:], *_listed(call.arg("stride"))))


def attention(call: Call, look: Look) -> Found:
    """Attention averages the values: what is one constant over all keys comes out as it is.

    With a mask a query may see no key at all, and get zero (or not a number): then only zeros stay.
    """
    found = look(call.arg("value"))
    if found is None or call.arg("dropout_p", 0.0):
        return None
    where, value = uniform(found, [-2]), found.value[..., :1, :]
    if isinstance(call.arg("attn_mask"), Tensor) or isinstance(call.arg("attn_bias"), Tensor):
        where = where & (value == 0)
    shape = call.outputs[0].shape
    heads = value.shape[1] if value.dim() == 4 else 1
    if value.dim() == 4 and shape[1] != heads:
        value, where = (t.repeat_interleave(shape[1] // heads, 1) for t in (value, where))
    return known(value.broadcast_to(shape), where.broadcast_to(shape))


def averages(call: Call, averaging: Callable[[Tensor], bool]) -> bool:
    """Whether the last dimension of what comes out adds up to one: of a softmax, and of what it is laid into.

    Where a mask hides everything, a softmax is no number, and so is all that is computed from it.
    """
    x = call.args[0] if call.args else None
    if not isinstance(x, Tensor) or not x.dim():
        return False
    if call.name in ("softmax", "_softmax"):
        return bool(call.arg("dim") % x.dim() == x.dim() - 1)
    return call.name in _LAID and averaging(x) and call.outputs[0].shape[-1:] == x.shape[-1:]


_LAID = ("view", "_unsafe_view", "reshape", "expand", "clone", "detach", "alias", "unsqueeze", "squeeze")


def averaged(call: Call, look: Look) -> Found:
    """Weights that add up to one, times values: of a constant over all of them, that constant."""
    found, shape = look(call.args[1]), call.outputs[0].shape
    if found is None or found.value.dim() < 2:
        return None
    where, value = uniform(found, [-2]), found.value[..., :1, :]
    return known(value.broadcast_to(shape), where.broadcast_to(shape))


def creation(call: Call, look: Look) -> list[Found]:
    return [known(out.clone(), torch.ones(out.shape, dtype=torch.bool, device="cpu")) for out in call.outputs]


def _embedding(call: Call, look: Look) -> Found:
    """A column that holds one value gives it for every index."""
    found = look(call.args[0])
    if found is None:
        return None
    same, value = along(found, 1, found.value.shape[1])
    shape = call.outputs[0].shape
    return known(value.to(found.value.dtype).broadcast_to(shape), same.broadcast_to(shape))


def _chosen(call: Call, look: Look) -> Found:
    """Looked up by known indices."""
    found, index = look(call.args[0]), look(call.arg("index"))
    if found is None or index is None or not index.whole:
        return None
    value, where = (t.index_select(call.arg("dim"), call.arg("index")) for t in (found.value, found.where))
    return known(value, where)


FAMILIES: dict[str, Rule] = {
    "pointwise": pointwise,
    "shape": shape,
    "pooling": pooling,
    "normalization": normalization,
    "contraction": matrix,
    "convolution": convolution,
    "attention": attention,
}

RULES: dict[str, Rule] = {
    **dict.fromkeys(("copy",), _written),
    **dict.fromkeys(("fill", "zero", "zeros_like", "ones_like", "full_like"), _filled),
    **dict.fromkeys(("zeros", "ones", "full", "new_zeros", "new_ones", "new_full"), creation),
    **dict.fromkeys(("sum", "nansum"), _sum),
    **dict.fromkeys(("mean", "amax", "amin"), _mean),
    **dict.fromkeys(
        (
            "native_batch_norm",
            "_native_batch_norm_legit",
            "_native_batch_norm_legit_no_training",
            "batch_norm",
            "_batch_norm_no_update",
        ),
        _batch_norm,
    ),
    **dict.fromkeys(("meshgrid", "where", "outer", "ger", "dot", "vdot", "mv", "addmv"), lambda call, look: None),
    "glu": _glu,
    "prelu": _prelu,
    "constant_pad_nd": _padded,
    "embedding": _embedding,
    "index_select": _chosen,
}
