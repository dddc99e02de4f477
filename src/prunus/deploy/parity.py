"""Do an ONNX file and the torch model it came from compute the same? Random inputs of several batch sizes decide."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from prunus.deploy.measure import onnx_feed, onnx_session
from prunus.errors import TraceError
from prunus.running import tensors_in

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


class Batch:
    """Which example tensors hold the batch: those whose first dimension is as long as the first tensor's."""

    def __init__(self, inputs: Inputs) -> None:
        tensors = [tensor for tensor in tensors_in(inputs) if tensor.dim()]
        self.size = tensors[0].shape[0] if tensors else 0

    def holds(self, tensor: Tensor) -> bool:
        """Whether the tensor's first dimension is the batch."""
        return tensor.dim() > 0 and tensor.shape[0] == self.size

    def random(self, inputs: Inputs, size: int, seed: int, larger: Sequence[tuple[int, ...]] = ()) -> Inputs:
        """Inputs like the example's, for a batch of ``size``.

        ``larger`` names for each tensor the dimensions that are longer: by 32 in images, by 3 elsewhere.

        Floating-point tensors are normal with the example's mean and deviation; others, and those with infinities,
        draw from the example's own values, so that token numbers and class labels stay in their range.
        """
        generator = torch.Generator().manual_seed(seed)
        longer = iter(larger)

        def like(tensor: Tensor) -> Tensor:
            dims = next(longer, ())
            own = [n + (32 if tensor.dim() == 4 else 3) * (d in dims) for d, n in enumerate(tensor.shape)]
            shape = (size, *own[1:]) if self.holds(tensor) else tuple(own)
            values = tensor.detach().flatten()
            if not values.numel():
                return tensor.new_empty(shape)
            if not tensor.is_floating_point() or not values.isfinite().all():
                return values[torch.randint(len(values), shape, generator=generator)]
            deviation = float(values.double().std()) if len(values) > 1 else 0.0
            noise = torch.randn(shape, generator=generator, dtype=torch.float64)
            return (float(values.double().mean()) + (deviation or 1.0) * noise).to(tensor.dtype)

        drawn: Inputs = pytree.tree_map_only(Tensor, like, inputs)
        return drawn


def largest_error(
    run: Callable[[Inputs], Any],
    path: Path,
    inputs: Inputs,
    sizes: list[int],
    draws: int = 2,
    larger: Sequence[tuple[int, ...]] = (),
) -> tuple[float, float]:
    """Largest absolute and relative difference between ``run`` (torch) and the file, on the example and random inputs.

    ``draws`` random inputs are drawn for each batch size; sizes other than the example's ask that the graph takes them.
    As many are drawn with the dimensions ``larger`` made so. A random input that the torch model itself refuses, at the
    example's own sizes, is left out.

    Returns:
        max |torch - onnx| over everything, and the same with each output's differences divided by its max |torch|.
    """
    session, batch = onnx_session(path), Batch(inputs)
    worst = _difference(session, run(inputs), inputs)
    wanted = [(size, ()) for size in sizes * draws] + [(batch.size, larger)] * (draws if any(larger) else 0)
    for number, (size, longer) in enumerate(wanted):
        drawn = batch.random(inputs, size, number, longer)
        try:
            expected = run(drawn)
        except TraceError:
            if size == batch.size and not longer:
                continue
            raise
        error = _difference(session, expected, drawn)
        worst = max(worst[0], error[0]), max(worst[1], error[1])
    return worst


def _difference(session: Any, expected: Any, inputs: Inputs) -> tuple[float, float]:
    wanted = tensors_in(expected)
    found = session.run(None, onnx_feed(session, tensors_in(inputs)))
    if [tuple(t.shape) for t in wanted] != [array.shape for array in found]:
        shapes = [list(t.shape) for t in wanted], [list(array.shape) for array in found]
        raise ValueError(f"torch's outputs have the shapes {shapes[0]}, ONNX Runtime's {shapes[1]}")
    errors = [difference(t, torch.from_numpy(array)) for t, array in zip(wanted, found, strict=True)]
    return max((e[0] for e in errors), default=0.0), max((e[1] for e in errors), default=0.0)


def difference(wanted: Tensor, found: Tensor) -> tuple[float, float]:
    """max |wanted - found|, and that over max |wanted|. NaN or infinity in one alone is infinitely far."""
    one, other = wanted.detach().double().flatten(), found.double().flatten()
    same = (one == other) | (one.isnan() & other.isnan())
    if bool(same.all()):
        return 0.0, 0.0
    gap = (one - other)[~same].abs().max().item()
    if not math.isfinite(gap):
        return math.inf, math.inf
    finite = one[one.isfinite()].abs()
    return gap, gap / max(finite.max().item() if len(finite) else 0.0, torch.finfo(torch.float32).tiny)
