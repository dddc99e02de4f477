"""Which positions of a dimension are multiples of each other, for every input: units that are the same one twice.

Learned like the constants (:mod:`prunus.extraction.rules`): from parameters and the meaning of the operators, never
from values that depend on an input. An operator without a rule gives outputs of which nothing is known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prunus.extraction.known import along
from prunus.extraction.rules import MATRICES, RULES, Look, canonical
from prunus.operators import Call, find
from prunus.operators.table import dims

_DIGITS = 44
"""Binary digits to which ratios must agree: 6e-14."""

_POSITIVE = ("relu", "leaky_relu", "clone", "abs")
"""Of one tensor: f(s x) = s f(x) for s > 0."""


@dataclass(frozen=True)
class Alike:
    """Along ``dim``, position p holds ``scale[p]`` times what ``group[p]`` holds, the first one like it."""

    dim: int
    group: Tensor
    scale: Tensor


Seen = Callable[[Tensor], Alike | None]
Found = Alike | None


def alike_after(call: Call, look: Look, seen: Seen) -> list[Found]:
    """What is alike in each output of the call."""
    nothing: list[Found] = [None] * len(call.outputs)
    row = find(call.name) if call.func.namespace in ("aten", "prims") else None
    if row is None:
        return nothing
    family, plain = row.rule.__module__.rpartition(".")[2], call.name.removesuffix("_")
    if family == "attention":
        return [_attended(call, seen), *nothing[1:]]
    if torch.Tag.nondeterministic_seeded in call.func.tags:
        return nothing
    if family == "convolution":
        return [_convolved(call, look, seen)]
    if family == "contraction":
        return [_multiplied(call, look, seen)]
    if family == "shape":
        return _rearranged(call, seen)
    if "batch_norm" in plain:
        return [_normalized(call, look, seen), *nothing[1:]]
    if family == "pooling" or plain in ("mean", "sum"):
        return [_pooled(call, seen), *nothing[1:]]
    if family == "pointwise" and plain not in RULES and len(call.outputs) == 1:
        return [_pointwise(call, look, seen)]
    return nothing


def rounded(numbers: Tensor) -> Tensor:
    """To ``_DIGITS`` binary digits, so that what is equal but for rounding is equal."""
    mantissa, exponent = torch.frexp(numbers.double())
    return torch.ldexp(torch.round(mantissa * 2.0**_DIGITS), exponent - _DIGITS)


def _by_keys(dim: int, keys: Sequence[Tensor], scale: Tensor) -> Found:
    """Positions are alike where all their keys are; None if no two are."""
    table = torch.stack([key.double() for key in keys], 1)
    which, counts = torch.unique(table, dim=0, return_inverse=True, return_counts=True)[1:]
    if int(counts.max()) == 1:
        return None
    numbers = torch.arange(len(which), device="cpu")
    group = torch.full_like(counts, len(which)).scatter_reduce(0, which, numbers, "amin")[which]
    return Alike(dim, group, scale / scale[group])


# -- where it starts -----------------------------------------------------------------------------------------------


def alike_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Group and scale of the rows of a matrix in fp64; rows of zeros are alone."""
    place = rows.abs().argmax(1, keepdim=True)
    scale = rows.gather(1, place)[:, 0]
    alive = scale != 0
    scale = torch.where(alive, scale, 1)
    unit = rows / scale[:, None]
    places = torch.arange(rows.shape[1], dtype=rows.dtype, device="cpu")
    mark = unit @ torch.cos(places + 1)  # alike rows are neighbours in its order
    order = mark.argsort()
    near = (mark[order[1:]] - mark[order[:-1]]).abs() <= 1e-9 * rows.shape[1]
    near &= alive[order[1:]] & alive[order[:-1]]
    group = torch.arange(len(rows), device="cpu")
    for i in torch.nonzero(near).flatten().tolist():
        a, b = int(order[i]), int(order[i + 1])
        if float((unit[a] - unit[b]).abs().max()) <= 2.0**-_DIGITS:
            group[b] = group[a]
    return group, scale


def _mapped(dim: int, kernel: Tensor, shift: Tensor | None, x: Found) -> Found:
    """Outputs of a linear map, kernel ``[groups, out, in, taps]``, of inputs some of which may be alike."""
    groups, outs, inner, taps = kernel.shape
    kernel = kernel.double()
    source = torch.arange(groups * inner, device="cpu")
    factor = torch.ones(groups * inner, dtype=torch.float64, device="cpu")
    if x is not None:
        source, factor = x.group, x.scale
    kernel = kernel * factor.view(groups, 1, inner, 1)
    bias = torch.zeros(groups * outs, dtype=torch.float64, device="cpu") if shift is None else shift.double()
    if inner == 1:
        rows = kernel.reshape(groups * outs, taps)
        group, scale = alike_rows(torch.cat([rows, bias[:, None]], 1))
        found = _by_keys(dim, [group, source.repeat_interleave(outs)], scale)
        return found if found is None or bool(rows.any(1).all()) else _apart(found, ~rows.any(1))
    group = torch.arange(groups * outs, device="cpu")
    scale = torch.ones(groups * outs, dtype=torch.float64, device="cpu")
    for g in range(groups):
        own = slice(g * outs, (g + 1) * outs)
        ids = torch.unique(source[g * inner : (g + 1) * inner], return_inverse=True)[1]
        rows = torch.zeros(outs, int(ids.max()) + 1, taps, dtype=torch.float64, device="cpu")
        rows.index_add_(1, ids, kernel[g])
        rows = torch.cat([rows.flatten(1), bias[own, None]], 1)
        rows[~rows[:, :-1].any(1)] = 0  # constants are another matter
        part, scale[own] = alike_rows(rows)
        group[own] = part + g * outs
    return _by_keys(dim, [group], scale)


def _apart(found: Alike, alone: Tensor) -> Found:
    numbers = torch.arange(len(alone), device="cpu")
    return _by_keys(found.dim, [torch.where(alone, len(alone) + numbers, found.group)], found.scale)


def _convolved(call: Call, look: Look, seen: Seen) -> Found:
    x, weight, bias = call.args[0], look(call.arg("weight")), call.arg("bias")
    shift = look(bias) if isinstance(bias, Tensor) else None
    if weight is None or not weight.whole or (bias is not None and (shift is None or not shift.whole)):
        return None
    channel = x.dim() - call.arg("weight").dim() + 1
    return _mapped(
        channel, canonical(weight.value, call), None if shift is None else shift.value, _on(seen(x), channel)
    )


def _on(found: Found, dim: int) -> Found:
    return found if found is not None and found.dim == dim else None


def _multiplied(call: Call, look: Look, seen: Seen) -> Found:
    """A known matrix on the right maps; of an unknown one, columns that are alike give columns that are."""
    added = call.name in ("addmm", "baddbmm")
    a, b = call.args[1:3] if added else call.args[:2]
    if call.name not in MATRICES or a.dim() < 2 or b.dim() < 2:
        return None
    weights, last = look(b), call.outputs[0].dim() - 1
    if weights is None or not weights.whole:
        found = _on(seen(b), b.dim() - 1)
        return Alike(last, found.group, found.scale) if found is not None and not added else None
    first = weights.value[(0,) * (b.dim() - 2)]
    if b.dim() > 2 and not bool((weights.value == first).all()):
        return None
    shift = look(call.args[0]) if added else None
    if added and (shift is None or not shift.whole or shift.value.dim() != 1 or call.arg("beta") != 1):
        return None
    if added and call.arg("alpha") != 1:
        return None
    return _mapped(last, first.t()[None, :, :, None], None if shift is None else shift.value, _on(seen(a), a.dim() - 1))


def _attended(call: Call, seen: Seen) -> Found:
    """Averages of the values, at each of their positions."""
    value, out = call.arg("value"), call.outputs[0]
    found = _on(seen(value), value.dim() - 1)
    if found is None or call.arg("dropout_p", 0.0):
        return None
    return Alike(out.dim() - 1, found.group, found.scale)


def added_over(call: Call, seen: Seen) -> Found:
    """What is alike along the dimension that a linear map adds over, counted in its ``groups * in`` positions."""
    if call.name in ("addmm", "baddbmm"):
        x, dim = call.args[1], call.args[1].dim() - 1
    elif call.name in MATRICES:
        x, dim = call.args[0], call.args[0].dim() - 1
    else:
        x, dim = call.args[0], call.args[0].dim() - call.arg("weight").dim() + 1
    return _on(seen(x), dim)


# -- how it goes on ------------------------------------------------------------------------------------------------


def _pointwise(call: Call, look: Look, seen: Seen) -> Found:
    tensors, out = call.given, call.outputs[0]
    starts = [found.dim - t.dim() for t in tensors if (found := seen(t)) is not None]
    if not starts:
        return None
    terms = [_term(t, starts[0], look, seen) for t in tensors]
    known = [term for term in terms if term is not None]
    if len(known) < len(terms):
        return None
    return _combined(call.name.removesuffix("_"), out.dim() + starts[0], known, call)


def _term(tensor: Tensor, place: int, look: Look, seen: Seen) -> tuple[Tensor, Tensor] | None:
    """Group and scale of one operand along the dimension ``place``, counted from the last."""
    found = seen(tensor)
    if found is not None and found.dim - tensor.dim() == place:
        return found.group, found.scale
    if tensor.dim() < -place or tensor.shape[place] == 1:
        return torch.zeros(1, device="cpu"), torch.ones(1, dtype=torch.float64, device="cpu")
    same, value = along(look(tensor), tensor.dim() + place, tensor.shape[place])
    if not bool(same.all()):
        return None
    return (value == 0).double(), torch.where(value == 0, 1, value)  # multiples of one, or zero


def _combined(name: str, dim: int, terms: list[tuple[Tensor, Tensor]], call: Call) -> Found:
    size = max(len(group) for group, _ in terms)
    groups, scales = zip(*((g.expand(size), s.expand(size)) for g, s in terms), strict=True)
    scale = scales[0]
    if name in _POSITIVE and len(terms) == 1:
        return _by_keys(dim, [*groups, scale > 0], scale.abs())
    if name == "mul" or (name in ("div", "true_divide") and call.arg("rounding_mode") is None):
        if len(terms) == 1:  # the other factor is a number
            return _by_keys(dim, groups, scale) if isinstance(call.args[0], Tensor) else None
        return _by_keys(dim, groups, scale * scales[1] if name == "mul" else scale / scales[1])
    if name in ("add", "sub") and len(terms) == 2:
        return _by_keys(dim, [*groups, rounded(scales[1] / scale)], scale)
    return _by_keys(dim, [*groups, *map(rounded, scales)], torch.ones_like(scale))


def _normalized(call: Call, look: Look, seen: Seen) -> Found:
    """Batch norm with running statistics: an affine map per channel."""
    found = _on(seen(call.args[0]), 1)
    if found is None or call.arg("training", call.arg("train", "no_training" not in call.name)):
        return None
    parts = [call.arg(name) for name in ("weight", "bias", "running_mean", "running_var")]
    known = [look(t) for t in parts if isinstance(t, Tensor)]
    if parts[3] is None or not all(k is not None and k.whole for k in known):
        return None
    weight, bias, mean, var = (None if t is None else t.detach().double() for t in parts)
    gain = (var + call.arg("eps", call.arg("epsilon"))).rsqrt() * (1 if weight is None else weight)
    shift = (0 if bias is None else bias) - mean * gain
    still = gain == 0  # constants are another matter
    scale = torch.where(still, 1, found.scale * gain)
    own = -1 - torch.arange(len(still), device="cpu")
    return _by_keys(1, [torch.where(still, own, found.group), rounded(shift / scale)], scale)


def _pooled(call: Call, seen: Seen) -> Found:
    """Over other dimensions; of a negative multiple the maximum is a multiple of the minimum."""
    x, out, name = call.args[0], call.outputs[0], call.name
    found = seen(x)
    if found is None:
        return None
    if name in ("mean", "sum"):
        gone = dims(call.arg("dim"), x.dim())
        if found.dim in gone:
            return None
        dim = found.dim if out.dim() == x.dim() else found.dim - sum(d < found.dim for d in gone)
        return Alike(dim, found.group, found.scale)
    if not ("avg_pool" in name or "max_pool" in name):
        return None
    if found.dim >= x.dim() - int(next(c for c in name if c.isdigit())):
        return None
    return found if "avg" in name else _by_keys(found.dim, [found.group, found.scale > 0], found.scale)


_REGROUPS = ("view", "_unsafe_view", "reshape", "_reshape_alias", "flatten", "unflatten")


def _rearranged(call: Call, seen: Seen) -> list[Found]:
    nothing: list[Found] = [None] * len(call.outputs)
    x = call.args[0]
    if call.name == "cat":
        return [_joined(x, call.arg("dim") % call.outputs[0].dim(), seen)]
    if call.name == "stack":
        return [_stacked(x, call.arg("dim") % call.outputs[0].dim(), seen)]
    if call.name == "transpose_":
        return [_turned(seen(x), *(d % x.dim() for d in call.args[1:]))]
    found = seen(x) if isinstance(x, Tensor) else None
    writes = call.func._schema.is_mutable or "strided" in call.name
    if found is None or writes or (call.name in _REGROUPS and call.arg("dtype") is not None):
        return nothing
    if call.name in _REGROUPS:
        return [_regrouped(found, x.shape, call.outputs[0].shape)]
    if any(isinstance(a, Tensor) for a in call.args[1:]):
        return nothing
    shape = [-1 if d == found.dim else 1 for d in range(x.dim())]
    line = torch.arange(1, x.shape[found.dim] + 1, device="cpu").view(shape)
    moved = call.func(line.expand(x.shape), *call.args[1:], **call.kwargs)
    return [_followed(found, place) for place in ([moved] if isinstance(moved, Tensor) else moved)]


def _followed(found: Alike, place: Tensor) -> Found:
    """Where the positions went: ``place`` holds their numbers, from 1, and 0 where something else is."""
    for dim in range(place.dim()):
        line = place.movedim(dim, 0).reshape(place.shape[dim], -1)
        if len(line) > 1 and line.shape[1] and bool((line == line[:, :1]).all()):
            numbers = line[:, 0].long() - 1
            if int(numbers.min()) >= 0 and len(numbers.unique()) == len(numbers):
                return _by_keys(dim, [found.group[numbers]], found.scale[numbers])
    return None


def _regrouped(found: Alike, before: torch.Size, after: torch.Size) -> Found:
    """The dimension stays, or is laid together with some that follow it."""
    outer, dim, size = before[: found.dim].numel(), 0, before[found.dim]
    while dim < len(after) and after[:dim].numel() < outer:
        dim += 1
    while dim < len(after) and after[dim] == 1 and size != 1:
        dim += 1
    if dim == len(after) or after[:dim].numel() != outer or after[dim] % size:
        return None
    inner = after[dim] // size
    if before[found.dim + 1 :].numel() % inner:
        return None
    group = found.group.repeat_interleave(inner) * inner + torch.arange(inner, device="cpu").repeat(size)
    return Alike(dim, group, found.scale.repeat_interleave(inner))


def _turned(found: Found, a: int, b: int) -> Found:
    return found and Alike({a: b, b: a}.get(found.dim, found.dim), found.group, found.scale)


def _stacked(tensors: Sequence[Tensor], dim: int, seen: Seen) -> Found:
    """What is alike in the same way in all of them."""
    first, *others = [seen(tensor) for tensor in tensors]
    if first is None or not all(other is not None and alike_alike(first, other) for other in others):
        return None
    return Alike(first.dim + (dim <= first.dim), first.group, first.scale)


def alike_alike(one: Alike, other: Alike) -> bool:
    """Whether two tensors have the same multiples of each other."""
    if one.dim != other.dim or not torch.equal(one.group, other.group):
        return False
    return torch.equal(rounded(one.scale), rounded(other.scale))


def _joined(tensors: Sequence[Tensor], dim: int, seen: Seen) -> Found:
    """Laid end to end along the dimension itself."""
    groups, scales, start = [], [], 0
    for tensor in tensors:
        size, found = tensor.shape[dim], _on(seen(tensor), dim)
        numbers = torch.arange(size, device="cpu")
        groups.append((numbers if found is None else found.group) + start)
        scales.append(torch.ones(size, dtype=torch.float64, device="cpu") if found is None else found.scale)
        start += size
    return _by_keys(dim, [torch.cat(groups)], torch.cat(scales))
