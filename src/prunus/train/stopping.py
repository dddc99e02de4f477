"""Stop when validation says that it gets no better, and go back to where it was best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from prunus.errors import InputError, suggest


@dataclass
class EarlyStopping:
    """``fit(..., validate=fn, stop=EarlyStopping(patience=3))``; the model ends with the weights of the best epoch.

    ``validate`` decides, so let it look at a validation split, never at the test set.

    Attributes:
        patience: epochs without a better value after which training stops.
        metric: one of the names that ``validate`` returns; a plain number is called "score".
        mode: "max" if more is better, "min" if less is.
        least: by how much a value must be better to count.
        begin: epochs that don't count, from the first on. Where a hook moves zeros, the epoch in which it has ended:
            the best epoch's weights come back, the masks don't.
    """

    patience: int
    metric: str = "score"
    mode: str = "max"
    least: float = 0.0
    begin: int = 0
    seen: int = field(default=0, init=False)
    best: float | None = field(default=None, init=False)
    waited: int = field(default=0, init=False)
    weights: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise InputError(f"patience is {self.patience}; give at least 1 epoch.")
        if self.begin < 0:
            raise InputError(f"begin is {self.begin}; give a number of epochs.")
        if self.mode not in ("max", "min"):
            raise InputError(f"mode is 'max' or 'min', not {self.mode!r}.")

    def look(self, metrics: Mapping[str, float], weights: Mapping[str, Tensor]) -> bool:
        """Take an epoch in; whether it is the best so far.

        Raises:
            InputError: no such metric.
        """
        value = watched(metrics, self.metric)
        self.seen += 1
        if self.seen <= self.begin:
            return False
        gain = 0.0 if self.best is None else (value - self.best) * (1 if self.mode == "max" else -1)
        if self.best is None or gain > self.least:
            self.best, self.waited = value, 0
            self.weights = {name: tensor.detach().clone() for name, tensor in weights.items()}
            return True
        self.waited += 1
        return False

    @property
    def over(self) -> bool:
        """Whether to stop."""
        return self.waited >= self.patience

    def copy_to(self, weights: Mapping[str, Tensor]) -> None:
        """Give the model back the best weights."""
        for name, tensor in self.weights.items():
            weights[name].detach().copy_(tensor)

    def state_dict(self) -> dict[str, Any]:
        """The best value and weights, and how long ago."""
        return {"seen": self.seen, "best": self.best, "waited": self.waited, "weights": self.weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what ``state_dict`` gave."""
        self.seen = state["seen"]
        self.best, self.waited, self.weights = state["best"], state["waited"], dict(state["weights"])


def watched(metrics: Mapping[str, float], name: str) -> float:
    """The metric of that name; InputError if ``validate`` gave none."""
    if name not in metrics:
        told = ", ".join(metrics) or "nothing: give fit a validate function"
        raise InputError(f"the metric {name!r} is to be watched, but validate gave {told}.{suggest(name, metrics)}")
    return metrics[name]
