"""The calls that a fit knows: which of a call's tensors are the weights, and its inputs and outputs as rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunus.contractions.moments import Fit

LARGE = 5
"""Times the median norm of a linear map's outputs in a run: a row above it counts less."""


@dataclass(frozen=True)
class Contraction:
    """One call of a linear map with its own weights.

    Attributes:
        weight, bias: as the call got them.
        x: its input.
        out_dim, in_dim: the dimensions of ``weight`` that run over outputs and inputs; of a group, in a convolution.
        channel: the dimension of the output that runs over channels.
        groups: of a convolution; 1 otherwise.
        window: stride, padding and dilation of a convolution; None otherwise.
        spread: the output padding of a transposed convolution; None otherwise.
    """

    weight: Tensor
    bias: Tensor | None
    x: Tensor
    out_dim: int = 0
    in_dim: int = 1
    channel: int = -1
    groups: int = 1
    window: tuple[Any, Any, Any] | None = None
    spread: Any = None

    @property
    def interleaved(self) -> bool:
        """Whether no dimension of the weight runs over all outputs: that of a transposed convolution in groups."""
        return self.spread is not None and self.groups > 1

    def kept_outputs(self, kept: Mapping[int, Sequence[int]]) -> Sequence[int] | None:
        """The outputs that stay where ``kept`` has the positions that do, by dimension of the weight; None: all."""
        if not self.interleaved or not kept:
            return kept.get(self.out_dim)
        inputs, outputs = self.weight.shape[0] // self.groups, self.weight.shape[1]
        groups = sorted({at // inputs for at in kept[0]}) if 0 in kept else range(self.groups)
        return [group * outputs + at for group in groups for at in kept.get(1, range(outputs))]

    def fit(self) -> Fit:
        """Weights and bias, by group."""
        if self.interleaved:
            weight = self.weight.unflatten(0, (self.groups, -1)).transpose(1, 2).flatten(2)
        else:
            weight = self.weight.movedim(self.out_dim, 0).flatten(1)
            weight = weight.reshape(self.groups, -1, weight.shape[1])
        return Fit(weight, None if self.bias is None else self.bias.reshape(self.groups, -1))

    def put(self, fit: Fit) -> None:
        """Write a fit into the call's own tensors, in place."""
        weight, bias = self.laid_out(fit)
        with torch.no_grad():
            self.weight.copy_(weight)
            if self.bias is not None and bias is not None:
                self.bias.copy_(bias)

    def laid_out(self, fit: Fit) -> tuple[Tensor, Tensor | None]:
        """A fit's weights and bias in the shapes of the call's own."""
        bias = None if self.bias is None or fit.bias is None else fit.bias.reshape(self.bias.shape)
        if self.interleaved:
            inside = self.weight.shape[0] // self.groups, *self.weight.shape[2:]
            return fit.weight.unflatten(2, inside).transpose(1, 2).flatten(0, 1), bias
        shape = self.weight.movedim(self.out_dim, 0).shape
        return fit.weight.reshape(shape).movedim(0, self.out_dim), bias

    def flat_output(self, y: Tensor, at: Tensor, kept: Tensor) -> Tensor:
        """(rows, outputs): a copy of an output of this call, at the chosen positions and channels."""
        return y.detach().movedim(self.channel, -1).flatten(0, -2)[at.to(y.device)].index_select(1, kept.to(y.device))

    def counting(self, y: Tensor) -> Tensor:
        """(rows,): how much each row of outputs (rows, outputs) counts: one, and less where it is ``LARGE``.

        A few tokens can be hundreds of times as large as all others ("massive activations", M. Sun et al., COLM 2024).
        What reads them is normalized by token, so that an error counts by its share of the token; a plain fit would do
        for these alone. They count as if they were at the limit; there is none where most rows are nought.
        """
        energy = y.double().square().sum(1)
        limit = LARGE**2 * float(energy.median()) if self.window is None and len(energy) else 0.0
        return (limit / energy).clamp(max=1) if limit else torch.ones_like(energy)

    def grouped(self, rows: Tensor) -> Tensor:
        """(groups, rows, outputs of a group) of (rows, outputs)."""
        return rows.reshape(len(rows), self.groups, -1).movedim(1, 0)

    def rows_of_input(self, at: Tensor) -> Tensor:
        """(groups, rows, inputs): what each chosen output position is made of."""
        x = self.x.detach()
        if self.window is None:
            return x.flatten(0, -2)[at.to(x.device)][None]
        if self.spread is None:
            patches = _patches(x, self.weight.shape[2:], *self.window)
        else:
            patches = _scattered(x, self.weight.shape[2:], *self.window, self.spread)
        spatial = x.dim() - 2
        where = torch.unravel_index(at.to(x.device), (patches.shape[0], *patches.shape[2 : 2 + spatial]))
        rows = patches.movedim(1, 1 + spatial)[where]  # (rows, channels, *kernel)
        return rows.reshape(len(at), self.groups, -1).movedim(1, 0)

    def channels_of_input(self) -> Tensor:
        """(examples, inputs, ...): the input by its channels, in the order of the weight's; groups come after them."""
        x = self.x.detach()
        if self.window is not None:
            grouped = x.reshape(x.shape[0], self.groups, -1, *x.shape[2:])
            return grouped.movedim(1, 2) if self.groups > 1 else x
        return x.movedim(-1, 1) if x.dim() > 1 else x[None]


def positions(y: Tensor, channel: int) -> int:
    """How many rows an output has."""
    return y.numel() // y.shape[channel] if y.shape[channel] else 0


def _patches(x: Tensor, kernel: torch.Size, stride: Any, padding: Any, dilation: Any) -> Tensor:
    """A view (batch, channels, *positions, *kernel) of the padded input."""
    n = len(kernel)
    stride, dilation = _each(stride, n), _each(dilation, n)
    x = F.pad(x, _margins(kernel, padding, dilation))
    for i in range(n):
        x = x.unfold(2 + i, (kernel[i] - 1) * dilation[i] + 1, stride[i])
    steps: Any = (..., *(slice(None, None, d) for d in dilation))
    return x[steps]


def _scattered(x: Tensor, kernel: torch.Size, stride: Any, padding: Any, dilation: Any, more: Any) -> Tensor:
    """The same of a transposed convolution: that of stride 1, its kernel turned round, over inputs ``stride`` apart."""
    n = len(kernel)
    stride, padding, dilation, more = (_each(value, n) for value in (stride, padding, dilation, more))
    apart = x.new_zeros(*x.shape[:2], *((size - 1) * s + 1 for size, s in zip(x.shape[2:], stride, strict=True)))
    places: Any = (..., *(slice(None, None, s) for s in stride))
    apart[places] = x
    reach = [d * (k - 1) - p for d, k, p in zip(dilation, kernel, padding, strict=True)]
    sides = [side for before, m in reversed(list(zip(reach, more, strict=True))) for side in (before, before + m)]
    return _patches(F.pad(apart, sides), kernel, 1, 0, dilation).flip(tuple(range(-n, 0)))


def _margins(kernel: torch.Size, padding: Any, dilation: list[int]) -> list[int]:
    """For ``F.pad``: both sides of each dimension, the last first."""
    if padding == "same":
        total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        sides = [(t // 2, t - t // 2) for t in total]
    else:
        sides = [(p, p) for p in _each(0 if padding == "valid" else padding, len(kernel))]
    return [side for pair in reversed(sides) for side in pair]


def _each(value: Any, n: int) -> list[int]:
    values = list(value) if isinstance(value, list | tuple) else [value]
    return values * n if len(values) == 1 else values


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Contraction:
    return Contraction(weight, bias, input)


def _addmm(input: Tensor, mat1: Tensor, mat2: Tensor, **scales: Any) -> Contraction | None:
    """``x @ w + b`` with w (inputs, outputs), as in GPT-2; None where it is scaled."""
    return None if scales else Contraction(mat2, input, mat1, out_dim=1, in_dim=0)


def _matmul(input: Tensor, other: Tensor) -> Contraction | None:
    """``x @ w`` with w (inputs, outputs)."""
    return Contraction(other, None, input, out_dim=1, in_dim=0) if other.dim() == 2 and input.dim() > 1 else None


def _convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Contraction | None:
    if input.dim() != weight.dim():  # without a batch
        return None
    return Contraction(weight, bias, input, channel=1, groups=groups, window=(stride, padding, dilation))


def _transposed(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Contraction | None:
    if input.dim() != weight.dim():  # without a batch
        return None
    window = (stride, padding, dilation)
    return Contraction(weight, bias, input, 1, 0, channel=1, groups=groups, window=window, spread=output_padding)


def _einsum(equation: str, *operands: Any) -> Contraction | None:
    """An input whose last axis is contracted with a matrix of weights, in either order of its dimensions."""
    tensors = operands[0] if len(operands) == 1 and isinstance(operands[0], list | tuple) else operands
    sides, arrow, result = equation.replace(" ", "").partition("->")
    terms = sides.split(",")
    if not arrow or len(terms) != 2 or len(tensors) != 2:
        return None
    x, weight = (1, 0) if isinstance(tensors[0], nn.Parameter) else (0, 1)
    rows, matrix = terms[x], terms[weight]
    letters = rows.replace("...", "")
    if len(matrix) != 2 or len({*letters}) != len(letters):
        return None
    inputs, outputs = rows[-1:], result[-1:]
    if {*matrix} != {inputs, outputs} or inputs == outputs or result != rows[:-1] + outputs:
        return None
    out_dim = matrix.index(outputs)
    return Contraction(tensors[weight], None, tensors[x], out_dim=out_dim, in_dim=1 - out_dim)


CALLS: dict[str, Callable[..., Contraction | None]] = {
    "linear": _linear,
    "addmm": _addmm,
    "matmul": _matmul,
    "__matmul__": _matmul,
    "mm": _matmul,
    "conv1d": _convolution,
    "conv2d": _convolution,
    "conv3d": _convolution,
    "conv_transpose1d": _transposed,
    "conv_transpose2d": _transposed,
    "conv_transpose3d": _transposed,
    "einsum": _einsum,
}
