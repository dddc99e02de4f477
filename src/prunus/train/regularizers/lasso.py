"""Structured sparsity learning: group lasso over whole axis groups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from prunus.plan import Plan
from prunus.trace import Graph
from prunus.train.regularizers.groups import AxisGroups, check_positive


class GroupLasso:
    """``loss + strength * sum_g sum_i sqrt(n_g) ||w_gi||_2``: Wen et al., SSL (NeurIPS 2016), eq. 2, Yuan, Lin (2006).

    ``w_gi`` is everything that goes through index *i* of group *g*: rows of what makes it, scales and shifts, columns
    of what reads it; ``n_g`` weights. By default the step is proximal (``w <- w * max(0, 1 - lr * strength * sqrt(n) /
    ||w||)``, after the optimizer's), which ends at exact zeros; ``plan()`` then removes these.

    Args:
        graph: what :func:`prunus.trace` returned for the model that trains.
        strength: lambda.
        optimizer: whose rate the proximal step takes; None adds the subgradient to the gradients instead.
        keep: what is left alone, as for :func:`prunus.plan`.
    """

    def __init__(
        self,
        graph: Graph,
        strength: float = 1e-4,
        optimizer: torch.optim.Optimizer | None = None,
        keep: Sequence[str] = (),
    ) -> None:
        check_positive(strength=strength)
        self.groups, self.strength, self.optimizer = AxisGroups(graph, keep), strength, optimizer

    def before_step(self) -> None:
        """Add the subgradient, if that is how."""
        if self.optimizer is None:
            self.groups.pull({name: self._pull(name, squares) for name, squares in self.groups.squares().items()})

    def after_step(self) -> None:
        """Shrink the norms, if that is how: those that would fall below zero become zero."""
        if self.optimizer is not None:
            rate = float(self.optimizer.param_groups[0]["lr"])
            found = self.groups.squares().items()
            self.groups.pull({name: (rate * self._pull(name, s)).clamp(max=1) for name, s in found}, into="weight")

    def epoch_end(self) -> None:
        """Nothing to do between epochs."""

    def plan(self) -> Plan:
        """The Plan that removes what is zero; NothingToPrune if nothing is."""
        zeros = {name: squares == 0 for name, squares in self.groups.squares().items()}
        return self.groups.plan_without(zeros, "group lasso")

    def penalty(self) -> float:
        """The value of the penalty now, with its strength."""
        found = self.groups.squares().items()
        return self.strength * sum(float(s.sqrt().sum()) * math.sqrt(self.groups.counts[name]) for name, s in found)

    def state_dict(self) -> dict[str, Any]:
        """Nothing is remembered."""
        return {}

    def load_state_dict(self, state: Any) -> None:
        """Nothing is remembered."""

    def _pull(self, name: str, squares: torch.Tensor) -> torch.Tensor:
        """``strength * sqrt(n) / ||w||``, zero where the norm is."""
        factor = squares.rsqrt() * (self.strength * math.sqrt(self.groups.counts[name]))
        return factor.nan_to_num(posinf=0.0)
