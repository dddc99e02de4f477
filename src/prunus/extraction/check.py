"""Compare the masked and the small model by value, in fp64, on more than the example."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunus.prove import DoubleMode, largest_error
from prunus.running import mapped, on_cpu, outputs_in
from prunus.trace.functions import OpenMode


@dataclass(frozen=True)
class Check:
    """One comparison: on which inputs, and the largest ``max|small - masked| / max|masked|`` over all outputs."""

    inputs: str
    error: float

    def __str__(self) -> str:
        return f"relative error {self.error:.1e} in fp64 on {self.inputs}"


def as_double(tensor: Tensor) -> Tensor:
    """A copy on the CPU, in fp64 where it is floating point."""
    data = tensor.detach().cpu().clone()
    return data.double() if data.is_floating_point() else data


def agree(masked: nn.Module, small: nn.Module, inputs: Any) -> tuple[Check, ...]:
    """Compare two fp64 models on the example, on a larger batch and at another resolution.

    Inputs other than the example are random; where the masked model refuses them there is no check.
    """
    found = [Check("the example", largest_error(_outputs(masked, inputs), _outputs(small, inputs)))]
    for name, other in _others(inputs):
        try:
            expected = _outputs(masked, other)
        except Exception:  # noqa: BLE001 - a model may insist on its sizes, in any way
            continue
        if expected and all(bool(t.isfinite().all()) for t in expected if t.is_floating_point()):
            found.append(Check(name, _error(small, other, expected)))
    return tuple(found)


def _error(small: nn.Module, inputs: Any, expected: list[Tensor]) -> float:
    """Infinite where the small model raises on what the masked one takes."""
    try:
        return largest_error(expected, _outputs(small, inputs))
    except Exception:  # noqa: BLE001 - whatever it is, the two aren't the same
        return float("inf")


def _outputs(model: nn.Module, inputs: Any) -> list[Tensor]:
    own = mapped(torch.clone, inputs)
    with on_cpu(), DoubleMode(), OpenMode():
        return outputs_in(model.eval()(*own[0], **own[1]))


def _others(inputs: Any) -> Iterator[tuple[str, Any]]:
    generator = torch.Generator().manual_seed(0)

    def noise(tensor: Tensor, shape: list[int]) -> Tensor:
        if tensor.is_floating_point():
            return torch.randn(shape, generator=generator, dtype=tensor.dtype, device="cpu")
        repeats = [-(-n // m) for n, m in zip(shape, tensor.shape, strict=True)]
        return tensor.repeat(repeats)[tuple(slice(n) for n in shape)]

    def changed(resize: Callable[[list[int]], list[int]]) -> Any:
        return mapped(lambda t: noise(t, resize(list(t.shape))) if t.dim() else t, inputs)

    yield "a larger batch", changed(lambda shape: [shape[0] + 1, *shape[1:]])
    yield "another resolution", changed(_resized)


def _resized(shape: list[int]) -> list[int]:
    """Images (4 or 5 dimensions) grow along their last; sequences, ``[batch, length, ...]``, along their second."""
    if len(shape) >= 4:
        return [*shape[:2], *(n + max(1, n // 4) for n in shape[2:])]
    return [shape[0], shape[1] + 2, *shape[2:]] if len(shape) > 1 else shape
