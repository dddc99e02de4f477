"""What a criterion is given, and the ways to look at a model without leaving a trace in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunus.errors import InputError
from prunus.masks.units import Pattern, Tiles

Loss = Callable[[nn.Module, Any], Tensor]
"""``loss(model, batch) -> scalar``, as in ``prunus.train``: it runs the model itself."""


def cross_entropy(model: nn.Module, batch: Any) -> Tensor:
    """The default, for batches ``(inputs, class indices)``."""
    inputs, targets = batch
    return F.cross_entropy(model(inputs), targets)


@dataclass(frozen=True)
class Task:
    """What there is to score: ``weights`` by name, ``masks`` (True: still there), the units, and data to judge by."""

    model: nn.Module
    weights: Mapping[str, nn.Parameter]
    masks: Mapping[str, Tensor]
    units: Tiles | Pattern
    data: Iterable[Any] | None = None
    loss: Loss = cross_entropy

    def batches(self) -> Iterator[Any]:
        """The batches, on the model's device.

        Raises:
            InputError: there are none.
        """
        empty = True
        device = next(iter(self.weights.values())).device
        for batch in self.data if self.data is not None else ():
            empty = False
            yield torch.utils._pytree.tree_map_only(Tensor, lambda t: t.to(device), batch)
        if empty:
            raise InputError("this criterion needs batches to judge by: pass data=loader (a list of batches will do).")

    def gradients(self) -> dict[str, Tensor]:
        """The loss's gradient for each weight, summed over the batches, in the mode that the model is in."""
        total = {name: torch.zeros_like(weight) for name, weight in self.weights.items()}
        with borrowed(self.model):
            for batch in self.batches():
                for name, gradient in self.derivatives(self.loss(self.model, batch)).items():
                    total[name] += gradient.detach()
        return total

    def derivatives(self, value: Tensor, *, graph: bool = False) -> dict[str, Tensor]:
        """The derivative of ``value`` by each weight; ``graph=True`` lets it be differentiated again.

        Raises:
            InputError: a weight that doesn't require gradients, or that ``value`` doesn't depend on.
        """
        fixed = [name for name, weight in self.weights.items() if not weight.requires_grad]
        if fixed:
            raise InputError(f"{fixed[0]!r} has requires_grad=False, and this criterion needs its gradient.")
        found = torch.autograd.grad(value, list(self.weights.values()), create_graph=graph, allow_unused=True)
        missing = [name for name, gradient in zip(self.weights, found, strict=True) if gradient is None]
        if missing:
            raise InputError(
                f"the loss doesn't depend on {missing[0]!r}: leave it out, Sparsifier(model, skip=[{missing[0]!r}])."
            )
        return dict(zip(self.weights, found, strict=True))


@contextmanager
def borrowed(model: nn.Module) -> Iterator[None]:
    """Within, gradients are on; afterwards buffers (batch-norm statistics) and random states are as before."""
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    cuda = sorted(device.index or 0 for device in devices if device.type == "cuda")
    with torch.random.fork_rng(devices=cuda), torch.enable_grad():
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)
