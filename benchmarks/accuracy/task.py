"""What a benchmark needs of a network: data to calibrate with, a loss, a score on data that nothing is chosen with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


def _last_linear(model: nn.Module) -> list[nn.Module]:
    return [[m for m in model.modules() if isinstance(m, nn.Linear)][-1]]


@dataclass(frozen=True, eq=False)
class Task:
    """One trained network.

    Attributes:
        example: inputs for one run.
        data: batches (inputs, ..., targets) to calibrate with and to take gradients on.
        loss: ``loss(model, batch) -> scalar``.
        score: higher is better, in percent, on data that nothing is chosen with.
        finetune: trains a network in place, the same for all; None where there is no training data.
        outputs, heads: what Torch-Pruning must be told: layers whose outputs stay, and the heads of projections.
        inputs: what the model itself is run on to calibrate, where a batch holds more than one call's; else ``data``.
        fresh: by its number, a batch that isn't in ``data``, of what there is to calibrate with.
        itself: how its inputs are changed so that they mean the same, in words, and the model behind such a change.
        after: sets the integers of a model that Torch-Pruning cut, which it doesn't know.
    """

    model: nn.Module
    example: Any
    data: Sequence[Any]
    loss: Callable[[nn.Module, Any], Tensor]
    score: Callable[[nn.Module], float]
    finetune: Callable[[nn.Module], None] | None = None
    outputs: Callable[[nn.Module], list[nn.Module]] = _last_linear
    heads: Callable[[nn.Module], Mapping[nn.Module, int]] = lambda model: {}
    after: Callable[[nn.Module], None] = lambda model: None
    inputs: Sequence[Any] | None = None
    fresh: Callable[[int], Any] | None = None
    itself: tuple[str, nn.Module] | None = None

    @property
    def calls(self) -> Sequence[Any]:
        """Batches for what only runs the model."""
        return self.data if self.inputs is None else self.inputs
