"""Run a model in fp64, also where its code or torch's kernels ask for less."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

GROUPED_MM: Any = getattr(getattr(torch.ops.aten, "_grouped_mm", None), "default", None)
"""The one operator without a kernel for fp64; None in torch 2.6, which doesn't have it."""

_DOUBLE = {
    **dict.fromkeys((torch.float32, torch.float16, torch.bfloat16), torch.float64),
    **dict.fromkeys((torch.complex64, torch.complex32), torch.complex128),
}


class Precise(TorchDispatchMode):
    """Everything is fp64, tensors that code makes without naming a type too; the base of modes that do more."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._defaults: list[torch.dtype] = []

    def __enter__(self) -> Any:
        self._defaults.append(torch.get_default_dtype())
        torch.set_default_dtype(torch.float64)
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        torch.set_default_dtype(self._defaults.pop())
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return in_double(func, args, doubled(kwargs))


def doubled(kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Keyword arguments of an operator, with fp64 for any lower floating type, real or complex."""
    result: dict[str, Any] = dict(kwargs or {})
    if result.get("dtype") in _DOUBLE:
        result["dtype"] = _DOUBLE[result["dtype"]]
    return result


def as_double(tensor: Tensor) -> Tensor:
    """The tensor itself where it holds no floating values, else in fp64, real or complex."""
    return tensor.to(_DOUBLE.get(tensor.dtype, tensor.dtype))


def in_double(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Call an operator; the one that has no fp64 kernel is computed product by product."""
    if func is not GROUPED_MM or args[0].dtype != torch.float64:
        return func(*args, **kwargs)
    a, b, *rest = args
    ends = kwargs.get("offs", rest[0] if rest else None)
    stops = list(range(1, len(a) + 1)) if ends is None else ends.tolist()
    pieces = [_group(a, b, i, slice(*bounds)) for i, bounds in enumerate(zip([0, *stops], stops, strict=False))]
    if a.dim() == b.dim():
        return torch.stack(pieces)
    return torch.cat(pieces, 0 if a.dim() == 2 else 1)


def _group(a: Tensor, b: Tensor, i: int, part: slice) -> Tensor:
    if a.dim() == 2:
        return a[part] @ b[i] if b.dim() == 3 else a[:, part] @ b[part]
    return a[i] @ (b[:, part] if b.dim() == 2 else b[i])
