"""Output shapes without running a meta kernel, for the operators that models call most.

Torch computes many shapes in Python, at a good part of a millisecond a call; for these few the answer is plain.
"""

from __future__ import annotations

from collections.abc import Callable
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


def _unary(args: Any, kwargs: Any) -> Tensor | None:
    """The same shape and dtype, for floating input."""
    return torch.empty_like(args[0]) if args[0].is_floating_point() else None


def _binary(args: Any, kwargs: Any) -> Tensor | None:
    """One dtype, and one of the shapes is the result's."""
    a, b = args[0], args[1]
    if not isinstance(b, Tensor) or a.dtype != b.dtype or not a.is_floating_point():
        return None
    if a.shape == b.shape:
        return torch.empty_like(a)
    shape = torch.broadcast_shapes(a.shape, b.shape)
    like = next((t for t in (a, b) if t.shape == shape), None)
    return None if like is None else torch.empty_like(like)


def _layer_norm(args: Any, kwargs: Any) -> tuple[Tensor, Tensor, Tensor] | None:
    x, shape = args[0], args[1]
    same = (x.shape[x.dim() - len(shape) :], *(t.shape for t in args[2:4] if t is not None))
    if kwargs or not x.is_floating_point() or any(list(s) != list(shape) for s in same):
        return None
    statistics = x.new_empty([*x.shape[: x.dim() - len(shape)], *(1 for _ in shape)])
    return torch.empty_like(x, memory_format=torch.contiguous_format), statistics, torch.empty_like(statistics)


def _batch_norm(args: Any, kwargs: Any) -> tuple[Tensor, Tensor, Tensor] | None:
    x, training = args[0], args[5]
    if training or kwargs or any(t is not None and tuple(t.shape) != (x.shape[1],) for t in args[1:5]):
        return None
    return torch.empty_like(x), x.new_empty(0), x.new_empty(0)


def _in_place(args: Any, kwargs: Any) -> Tensor | None:
    """Nothing changes but values."""
    a: Tensor = args[0]
    others = [t for t in args[1:] if isinstance(t, Tensor)]
    return a if a.is_floating_point() and all(t.shape == a.shape and t.dtype == a.dtype for t in others) else None


def _grouped_mm(args: Any, kwargs: Any) -> Tensor | None:
    """As torch has it on devices; its meta kernel knows lower precision alone."""
    a, b = args[0], args[1]
    if a.dtype != torch.float32 or (a.dim(), b.dim()) != (2, 3) or a.shape[1] != b.shape[1]:
        return None
    if any(n > 1 and n * 4 % 16 for t in (a, b) for n in t.stride()):
        raise RuntimeError(
            "strides of the matrices of grouped_mm() must be multiples of 16 bytes: round_to=4 keeps them"
        )
    result: Tensor = a.new_empty(a.shape[0], b.shape[2])
    return result


_ACTIVATIONS = "relu silu sigmoid hardswish hardtanh hardsigmoid leaky_relu elu mish".split()

_SHORTCUTS: dict[Any, Callable[[Any, Any], Any]] = {
    **dict.fromkeys((aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor), _binary),
    **{getattr(aten, name).default: _unary for name in (*_ACTIVATIONS, "gelu")},
    **{getattr(aten, f"{name}_").default: _in_place for name in _ACTIVATIONS},
    **dict.fromkeys((aten.add_.Tensor, aten.mul_.Tensor), _in_place),
    aten.native_layer_norm.default: _layer_norm,
    aten.native_batch_norm.default: _batch_norm,
    **({} if GROUPED_MM is None else {GROUPED_MM: _grouped_mm}),
}
