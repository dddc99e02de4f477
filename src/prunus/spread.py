"""Layers that compute only some of their output channels and lay them among zeros: what a residual stream asks for.

Where two branches are added, a channel stays as long as any of them writes to it. A layer of which a channel is dead
needn't compute it: it makes the others and puts each in its place.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunus.errors import PlanError

INDEX = "spread_index"


def _laid(y: Tensor, index: Tensor, dim: int) -> Tensor:
    """``y`` with a zero after its last channel, looked up by ``index`` along ``dim`` (negative)."""
    padded = F.pad(y, (0, 0) * (-dim - 1) + (0, 1))
    return padded.index_select(dim, index)


class SpreadLinear(nn.Linear):
    """A Linear whose weight has the rows that count; ``spread_index`` says where, and the bias is as wide as ever."""

    spread_index: Tensor

    def forward(self, input: Tensor) -> Tensor:
        y = _laid(F.linear(input, self.weight), self.spread_index, -1)
        return y if self.bias is None else y + self.bias


class _SpreadConv(nn.Module):
    spread_index: Tensor
    weight: Tensor
    bias: Tensor | None

    def forward(self, input: Tensor) -> Tensor:
        n = self.weight.dim() - 2
        conv: Any = self
        y = _laid(conv._conv_forward(input, self.weight, None), self.spread_index, -n - 1)
        return y if self.bias is None else y + self.bias.view(-1, *[1] * n)


class SpreadConv1d(_SpreadConv, nn.Conv1d):
    """A Conv1d whose weight has the filters that count, see :class:`SpreadLinear`."""


class SpreadConv2d(_SpreadConv, nn.Conv2d):
    """A Conv2d whose weight has the filters that count, see :class:`SpreadLinear`."""


class SpreadConv3d(_SpreadConv, nn.Conv3d):
    """A Conv3d whose weight has the filters that count, see :class:`SpreadLinear`."""


SPREAD: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: SpreadLinear,
    nn.Conv1d: SpreadConv1d,
    nn.Conv2d: SpreadConv2d,
    nn.Conv3d: SpreadConv3d,
}


def spread(module: nn.Module, live: tuple[int, ...], kept: tuple[int, ...]) -> None:
    """Make a layer of ours, whose weight has the rows ``live``, give the channels ``kept`` (numbers before the cut)."""
    if type(module) not in SPREAD:
        raise PlanError(
            f"the plan spreads a {type(module).__name__}, and only {', '.join(k.__name__ for k in SPREAD)} can be."
        )
    place = {channel: row for row, channel in enumerate(live)}
    index = [place.get(channel, len(live)) for channel in kept]
    weight: Any = module.weight
    module.__class__ = SPREAD[type(module)]
    module.register_buffer(INDEX, torch.tensor(index, dtype=torch.long, device=weight.device))
