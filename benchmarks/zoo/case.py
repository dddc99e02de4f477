"""What a zoo is made of: models by name, each with its example inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


@dataclass(frozen=True)
class Example:
    """A model in eval mode with inputs for its ``forward``."""

    model: nn.Module
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One model of a zoo.

    Attributes:
        zoo: "torchvision", "timm", "transformers" or "handmade".
        name: unique in its zoo.
        build: makes the example; call it through :meth:`make`, which seeds and randomizes.
        left: the part of the parameters that may be left when every free atom is halved; 0.6 unless a reason is given.
        why: the reason for a larger ``left``, in words that a reader of docs/coverage.md understands.
        refused: the model can't be cut and prunus must say so; a part of the message that it must give.
        routers: shell patterns of the weights of routers, which choose experts by the largest of their outputs: for an
            expert that went, the reference's output is minus infinity, so that it is never chosen.
        by_proof: why zeroed parameters are no reference for this model (its code takes a mean, a softmax or a norm over
            what is cut, outside a normalization layer); :func:`prunus.prove` judges it instead.
        sample: part of `make test`.
    """

    zoo: str
    name: str
    build: Callable[[], Example]
    left: float = 0.6
    why: str = ""
    refused: str = ""
    by_proof: str = ""
    routers: tuple[str, ...] = ()
    sample: bool = False

    def make(self) -> Example:
        """The example with random weights, the same every time."""
        torch.manual_seed(0)
        example = self.build()
        example.model.eval()
        randomize(example.model)
        return example


def randomize(model: nn.Module) -> None:
    """Random values wherever an initialization puts zeros, ones, other constants or next to nothing: what is computed
    may not hide behind them.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() < 2:
                parameter.uniform_(0.5, 1.5)
            elif parameter.std() < 1e-3:
                parameter.normal_(0, 0.05)
        for module in model.modules():
            if isinstance(module, _NormBase) and module.running_mean is not None:
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor of that precision, real or complex; itself where it holds whole numbers."""
    if tensor.is_complex():
        return tensor.to(dtype.to_complex())
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def cast_model(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The model itself, with all its parameters and buffers in that precision; ``to()`` makes complex ones real."""
    return model._apply(lambda t: cast(t, dtype))
