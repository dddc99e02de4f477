"""Output shapes without running a meta kernel, for the operators that models call most.

Torch computes many shapes in Python, at a good part of a millisecond a call; for these few the answer is plain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from prunus.precision import GROUPED_MM

aten = torch.ops.aten


def infer(func: Any, args: Any, kwargs: Any) -> Any:
    """``func(*args, **kwargs)`` for meta tensors."""
    shortcut = _SHORTCUTS.get(func)
    result = shortcut(args, kwargs) if shortcut is not None else None
    return func(*args, **kwargs) if result is None else result


def _empty(shape: Sequence[int], like: Tensor) -> Tensor:
    """A contiguous tensor; ``empty_like`` and ``new_empty`` take Python ways, ten times as long."""
    return torch.empty(shape, dtype=like.dtype, device=like.device)


def _same(x: Tensor) -> Tensor:
    return _empty(x.shape, x) if x.is_contiguous() else torch.empty_like(x)


def _plain(*tensors: Tensor | None) -> bool:
    """Whether all are contiguous and of one floating dtype."""
    given = [t for t in tensors if t is not None]
    return all(t.is_contiguous() and t.dtype == given[0].dtype and t.is_floating_point() for t in given)


def _unary(args: Any, kwargs: Any) -> Tensor | None:
    """The same shape and dtype, for floating input."""
    return _same(args[0]) if args[0].is_floating_point() else None


def _binary(args: Any, kwargs: Any) -> Tensor | None:
    """One dtype, and one of the shapes is the result's."""
    a, b = args[0], args[1]
    if not a.is_floating_point():
        return None
    if isinstance(b, float | int):
        return _same(a)
    if not isinstance(b, Tensor) or a.dtype != b.dtype:
        return None
    if a.shape == b.shape:
        return _same(a)
    shape = torch.broadcast_shapes(a.shape, b.shape)
    like = next((t for t in (a, b) if t.shape == shape), None)
    return None if like is None else _same(like)


def _layer_norm(args: Any, kwargs: Any) -> tuple[Tensor, Tensor, Tensor] | None:
    x, shape = args[0], args[1]
    same = (x.shape[x.dim() - len(shape) :], *(t.shape for t in args[2:4] if t is not None))
    if kwargs or not x.is_floating_point() or any(list(s) != list(shape) for s in same):
        return None
    statistics = [*x.shape[: x.dim() - len(shape)], *(1 for _ in shape)]
    return _empty(x.shape, x), _empty(statistics, x), _empty(statistics, x)


def _batch_norm(args: Any, kwargs: Any) -> tuple[Tensor, Tensor, Tensor] | None:
    x, training = args[0], args[5]
    if training or kwargs or any(t is not None and tuple(t.shape) != (x.shape[1],) for t in args[1:5]):
        return None
    return _same(x), _empty([0], x), _empty([0], x)


def _in_place(args: Any, kwargs: Any) -> Tensor | None:
    """Nothing changes but values."""
    a: Tensor = args[0]
    others = [t for t in args[1:] if isinstance(t, Tensor)]
    return a if a.is_floating_point() and all(t.shape == a.shape and t.dtype == a.dtype for t in others) else None


def _softmax(args: Any, kwargs: Any) -> Tensor | None:
    """``softmax(x, dim, half_to_float or dtype)``, the dtype as it is."""
    x, dim, other = (*args, None)[:3]
    known = not kwargs and not other and -x.dim() <= dim < x.dim() and x.is_floating_point()
    return _empty(x.shape, x) if known else None


def _mean(args: Any, kwargs: Any) -> Tensor | None:
    x, dims, keep = (*args, False)[:3]
    if kwargs or not dims or not x.is_floating_point() or not all(-x.dim() <= d < x.dim() for d in dims):
        return None
    gone = {d % x.dim() for d in dims}
    if len(gone) < len(dims):
        return None
    return _empty([1 if d in gone else n for d, n in enumerate(x.shape) if keep or d not in gone], x)


def _addmm(args: Any, kwargs: Any) -> Tensor | None:
    """``bias + a @ b``, the bias a vector."""
    bias, a, b = args
    fits = not kwargs and a.dim() == b.dim() == 2 and a.shape[1] == b.shape[0] and bias.shape == b.shape[1:]
    same = bias.dtype == a.dtype == b.dtype and a.is_floating_point()
    return _empty([a.shape[0], b.shape[1]], a) if fits and same else None


def _convolution(args: Any, kwargs: Any) -> Tensor | None:
    """Contiguous and not transposed."""
    x, weight, bias, stride, padding, dilation, transposed, _, groups = args
    rank = x.dim() - 2
    if transposed or rank < 1 or weight.dim() != x.dim() or not _plain(x, weight, bias):
        return None
    if x.shape[1] != weight.shape[1] * groups or weight.shape[0] % groups:
        return None
    steps, edges, holes = ([int(n) for n in (*v, *v[-1:] * (rank - len(v)))] for v in (stride, padding, dilation))
    sizes = [
        (n + 2 * edge - hole * (k - 1) - 1) // step + 1
        for n, k, step, edge, hole in zip(x.shape[2:], weight.shape[2:], steps, edges, holes, strict=True)
    ]
    return _empty([x.shape[0], weight.shape[0], *sizes], x) if min(sizes) > 0 else None


def _grouped_mm(args: Any, kwargs: Any) -> Tensor | None:
    """As torch has it on devices; its meta kernel knows lower precision alone."""
    a, b = args[0], args[1]
    if a.dtype != torch.float32 or (a.dim(), b.dim()) != (2, 3) or a.shape[1] != b.shape[1]:
        return None
    if any(n > 1 and n * 4 % 16 for t in (a, b) for n in t.stride()):
        raise RuntimeError(
            "strides of the matrices of grouped_mm() must be multiples of 16 bytes: round_to=4 keeps them"
        )
    return _empty([a.shape[0], b.shape[2]], a)


def _mm(args: Any, kwargs: Any) -> Tensor | None:
    a, b = args
    fits = a.dim() == b.dim() == 2 and a.shape[1] == b.shape[0] and a.dtype == b.dtype and a.is_floating_point()
    return _empty([a.shape[0], b.shape[1]], a) if fits and not kwargs else None


def _cat(args: Any, kwargs: Any) -> Tensor | None:
    """Of contiguous tensors with as many dimensions; an empty one is a case of its own."""
    tensors, dim = (*args, 0)[:2]
    first: Tensor = tensors[0]
    if kwargs or not _plain(*tensors) or not -first.dim() <= dim < first.dim():
        return None
    dim %= first.dim()
    others = {(*t.shape[:dim], -1, *t.shape[dim + 1 :]) for t in tensors}
    if len(others) > 1 or not all(t.numel() for t in tensors):
        return None
    return _empty([*first.shape[:dim], sum(t.shape[dim] for t in tensors), *first.shape[dim + 1 :]], first)


def _upsampled(args: Any, kwargs: Any) -> Tensor | None:
    """``upsample(x, output_size, ...)``; channels that lie last in memory do so in the output."""
    x, size = args[0], args[1]
    if kwargs or not x.is_floating_point() or len(size) != x.dim() - 2 or min(size) < 1 or not x.numel():
        return None
    shape = [*x.shape[:2], *size]
    if x.is_contiguous():
        return _empty(shape, x)
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return _empty(shape, x).contiguous(memory_format=torch.channels_last) if last else None


def _embedding(args: Any, kwargs: Any) -> Tensor | None:
    weight, indices = args[0], args[1]
    whole = indices.dtype in (torch.int64, torch.int32)
    return _empty([*indices.shape, weight.shape[1]], weight) if weight.dim() == 2 and whole else None


_ACTIVATIONS = "relu silu sigmoid hardswish hardtanh hardsigmoid leaky_relu elu mish".split()
_FUNCTIONS = "gelu softplus exp log sqrt rsqrt reciprocal neg sin cos tanh erf clamp_min".split()
_UPSAMPLING = "nearest1d nearest2d nearest3d linear1d bilinear2d bicubic2d trilinear3d".split()

_SHORTCUTS: dict[Any, Callable[[Any, Any], Any]] = {
    **dict.fromkeys((aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor), _binary),
    **{getattr(aten, name).default: _unary for name in (*_ACTIVATIONS, *_FUNCTIONS)},
    **dict.fromkeys((aten.pow.Tensor_Scalar, aten.rsub.Scalar, aten.maximum.default), _binary),
    **{getattr(aten, f"{name}_").default: _in_place for name in _ACTIVATIONS},
    **dict.fromkeys((aten.add_.Tensor, aten.mul_.Tensor), _in_place),
    **dict.fromkeys((aten.add.Scalar, aten.sub.Scalar, aten.mul.Scalar, aten.div.Scalar), _binary),
    aten.native_layer_norm.default: _layer_norm,
    aten.native_batch_norm.default: _batch_norm,
    **dict.fromkeys((aten._softmax.default, aten._safe_softmax.default), _softmax),
    aten.mean.dim: _mean,
    **{getattr(aten, f"upsample_{name}").default: _upsampled for name in _UPSAMPLING},
    aten.embedding.default: _embedding,
    aten.mm.default: _mm,
    aten.cat.default: _cat,
    aten.addmm.default: _addmm,
    aten.convolution.default: _convolution,
    **({} if GROUPED_MM is None else {GROUPED_MM: _grouped_mm}),
}
