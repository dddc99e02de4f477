"""Which rows of a layer's output the model's outputs depend on: those of padding that a mask hides don't count."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from prunus.contractions.calls import Contraction
from prunus.contractions.watch import Watch, names
from prunus.running import call, differentiable, outputs_in

Rows = dict[str, list[Tensor]]
"""Weight name -> for each of its calls, in order: the places of the rows that count, ascending."""


def may_be_padded(positional: Any, keywords: Any) -> bool:
    """Whether inputs are tokens with a mask; images and sounds are large, and have no padding to leave out."""
    tensors = [leaf for leaf in pytree.tree_leaves((positional, keywords)) if isinstance(leaf, Tensor)]
    whole = [tensor for tensor in tensors if not tensor.is_floating_point() and tensor.dim() > 1]
    return len(whole) > 1 and not any(tensor.is_floating_point() and tensor.dim() > 2 for tensor in tensors)


def relevant_rows(model: nn.Module, positional: tuple[Any, ...], keywords: dict[str, Any]) -> Rows:
    """The rows of every linear map's outputs with a gradient, that of one random sum of all the model's outputs.

    A mask sets what it hides to exactly nothing, so that its gradient is exactly zero. Empty where the model's outputs
    have no gradient: then nothing is known, and every row counts.
    """
    found: dict[str, list[list[Tensor]]] = defaultdict(list)

    def see(name: str, contraction: Contraction, output: Tensor) -> None:
        cell: list[Tensor] = []
        found[name].append(cell)
        if output.requires_grad:
            output.register_hook(partial(_note, cell, contraction.channel))

    with differentiable(model.parameters()):
        with Watch(names(model), see):
            outputs = outputs_in(call(model, positional, keywords))
        draw = torch.Generator().manual_seed(0)
        known = [out for out in outputs if out.requires_grad]
        if not known:
            return {}
        cheap = [p for name, p in model.named_parameters() if name not in found]  # a matrix's own gradient takes long
        torch.autograd.grad(random_sum(known, draw), cheap or list(model.parameters()), allow_unused=True)
    return {name: [cell[0] for cell in cells] for name, cells in found.items() if all(cells)}


def random_sum(outputs: Sequence[Tensor], draw: torch.Generator) -> Tensor:
    """All entries of all outputs, each times a number drawn from the standard normal distribution, added up."""
    return torch.stack(
        [(out * torch.randn(out.shape, generator=draw, device="cpu").to(out)).sum() for out in outputs]
    ).sum()


def _note(cell: list[Tensor], channel: int, slope: Tensor) -> None:
    cell.append((slope != 0).any(channel).flatten().nonzero().flatten())
