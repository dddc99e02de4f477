"""Do a file and the torch model it came from compute the same? Random inputs of several batch sizes decide."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from prunus.errors import PrunusError, TraceError
from prunus.running import tensors_in

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
Run = Callable[[Inputs], Any]
"""Runs a model, or a file, on inputs."""

_MOVES = 16
"""How often an input is moved to see whether torch's own answer changes."""


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
                return values[torch.randint(len(values), shape, generator=generator, device="cpu")]
            deviation = float(values.double().std()) if len(values) > 1 else 0.0
            noise = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
            return (float(values.double().mean()) + (deviation or 1.0) * noise).to(tensor.dtype)

        drawn: Inputs = pytree.tree_map_only(Tensor, like, inputs)
        return drawn


@dataclass(frozen=True)
class Comparison:
    """How far a file is from torch.

    Attributes:
        max_abs_error: largest |torch - file| over all outputs and inputs.
        max_rel_error: the same, each output's relative to its largest magnitude.
        inputs: how many inputs were compared.
        chosen: the places of outputs whose number of rows is chosen by values, such as a detector's boxes; one for each
            such number.
        rows: how many rows those had.
        undecided: inputs left out, because torch's own answer changes when they move as little as rounding does.
    """

    max_abs_error: float
    max_rel_error: float
    inputs: int
    chosen: tuple[int, ...] = ()
    rows: int = 0
    undecided: int = 0

    def __str__(self) -> str:
        left = f", {self.undecided} left out on which rounding decides what torch gives" if self.undecided else ""
        return f"on {self.inputs} inputs" + (f" ({self.rows} rows{left})" if self.chosen else "")


class ParityError(PrunusError, ValueError):
    """The file gives something else than torch, or nothing by which that could be told."""


def compare(
    run: Run,
    file: Run,
    inputs: Inputs,
    sizes: Sequence[int],
    tolerance: float,
    draws: int = 2,
    larger: Sequence[tuple[int, ...]] = (),
    chosen: tuple[int, ...] = (),
) -> Comparison:
    """Compare ``run`` (torch) with ``file`` on the example and random inputs: every output, in order, shape and value.

    ``draws`` random inputs are drawn for each batch size; sizes other than the example's ask that the graph takes them.
    As many are drawn with the dimensions ``larger`` made so. A random input that the torch model itself refuses, at the
    example's own sizes, is left out.

    Where values choose how many rows come out, scores that lie closer than rounding choose differently in torch and in
    the file. An input on which the two differ is left out, and another drawn, only if torch's own answer changes too
    when the input moves by a tenth of the tolerance. As many inputs as for other models must agree whole.

    Args:
        chosen: as in :class:`Comparison`.

    Raises:
        ParityError: the file gives other shapes; or values choose the rows, and too many inputs were left out, or no
            input gave a row.
    """
    batch, worst, told, rows, undecided = Batch(inputs), (0.0, 0.0), 0, 0, 0
    wanted: list[tuple[int, Sequence[tuple[int, ...]]]] = [(size, ()) for size in [*sizes] * draws]
    wanted += [(batch.size, larger)] * (draws if any(larger) else 0)
    for number, (size, longer) in enumerate([(batch.size, ()), *wanted, *wanted * (3 if chosen else 0)]):
        drawn = batch.random(inputs, size, number - 1, longer) if number else inputs
        try:
            expected = tensors_in(run(drawn))
        except TraceError:
            if number and size == batch.size and not longer:
                continue
            raise
        found = tensors_in(file(drawn))
        gap = _gap(expected, found)
        if chosen and not gap[1] <= tolerance and _is_undecided(run, drawn, expected, tolerance):
            undecided += 1
            continue
        if _shapes(expected) != _shapes(found):
            tied = " (if the model is untrained and scores tie, train it)" if chosen else ""
            raise ParityError(f"the file gives other shapes, {_shapes(found)}, than torch, {_shapes(expected)}{tied}")
        worst, told = (max(worst[0], gap[0]), max(worst[1], gap[1])), told + 1
        rows += sum(len(expected[place]) for place in chosen)
        if told > len(wanted):
            break
    if chosen and told <= len(wanted) and undecided:
        raise ParityError(
            f"on {undecided} of {undecided + told} inputs rounding alone decides which rows torch itself gives (scores "
            "or overlaps too close to call), so too few are left to compare: give trained weights, and an example on "
            "which the model is sure"
        )
    if chosen and not rows:
        raise ParityError(
            "no input gave a single row, so what chooses them wasn't compared: give an example, such as a real image, "
            "on which the model finds something"
        )
    return Comparison(*worst, told, chosen, rows, undecided)


def _is_undecided(run: Run, inputs: Inputs, expected: list[Tensor], tolerance: float) -> bool:
    """Whether torch's own answer changes when the input moves by a tenth of the tolerance."""
    generator = torch.Generator().manual_seed(0)

    def moved(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        spread = float(tensor.double().std()) if tensor.numel() > 1 else 1.0
        return tensor + 0.1 * tolerance * spread * torch.randn(tensor.shape, generator=generator, device="cpu").to(
            tensor
        )

    near = (tensors_in(run(pytree.tree_map_only(Tensor, moved, inputs))) for _ in range(_MOVES))
    return any(not _gap(expected, found)[1] <= tolerance for found in near)


def _shapes(tensors: Sequence[Tensor]) -> list[list[int]]:
    return [list(tensor.shape) for tensor in tensors]


def _gap(wanted: Sequence[Tensor], found: Sequence[Tensor]) -> tuple[float, float]:
    """The largest :func:`difference` of two lists of outputs; infinite where shapes differ."""
    if _shapes(wanted) != _shapes(found):
        return math.inf, math.inf
    gaps = [difference(one, other) for one, other in zip(wanted, found, strict=True)]
    return max((gap[0] for gap in gaps), default=0.0), max((gap[1] for gap in gaps), default=0.0)


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
