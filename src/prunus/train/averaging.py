"""An average of the weights over time, to validate with and to end with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from prunus.errors import InputError


class EMA:
    """An exponential moving average of the parameters; ``fit(ema=0.999)`` makes one, other loops call its methods.

    ``average = d * average + (1 - d) * weights`` after each step, with ``d = min(decay, (1 + t) / (10 + t))`` at step
    *t*, so that the first weights are forgotten early. A weight that is exactly zero is zero in the average, so that
    masks hold in it. Buffers are those of the model.

    Raises:
        InputError: a decay outside (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
        if not 0 < decay < 1:
            raise InputError(f"the decay of an average must lie between 0 and 1, got {decay}.")
        self.model, self.decay, self.count = model, decay, 0
        self.average = {name: p.detach().clone() for name, p in model.named_parameters() if p.is_floating_point()}

    def before_step(self) -> None:
        """Nothing to do before the optimizer's step."""

    @torch.no_grad()
    def after_step(self) -> None:
        """Take the new weights in."""
        self.count += 1
        part = 1 - min(self.decay, (1 + self.count) / (10 + self.count))
        for name, weight in self._weights().items():
            average = self.average[name] = self.average[name].to(weight.device)
            average.lerp_(weight, part).masked_fill_(weight == 0, 0)

    def epoch_end(self) -> None:
        """Nothing to do between epochs."""

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """Give the model the averaged weights."""
        for name, weight in self._weights().items():
            weight.copy_(self.average[name])

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Inside, the model has the averaged weights."""
        own = {name: weight.detach().clone() for name, weight in self._weights().items()}
        self.copy_to_model()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, weight in self._weights().items():
                    weight.copy_(own[name])

    def state_dict(self) -> dict[str, Any]:
        """The average, and how many steps are in it."""
        return {"count": self.count, "average": self.average}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what ``state_dict`` gave."""
        self.count, self.average = state["count"], dict(state["average"])

    def _weights(self) -> dict[str, Tensor]:
        return {name: self.model.get_parameter(name) for name in self.average}
