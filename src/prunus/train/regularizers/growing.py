"""Growing regularization: push out slowly what is to go."""

from __future__ import annotations

from typing import Any

from torch import nn

from prunus.errors import InputError
from prunus.plan import Plan
from prunus.train.regularizers.groups import check_positive
from prunus.train.regularizers.removal import Removal


class Growing:
    """L2 on what a Plan removes, growing step by step: Wang et al., Neural Pruning via Growing Regularization (2021).

    GReg-1, Algorithm 1: every ``every`` steps ``lambda <- min(lambda + delta, ceiling)``, and ``lambda * w`` is added
    to the gradients of the weights that go. When ``done``, apply the Plan, and fine-tune as after any pruning: little
    is left to lose.

    Args:
        model: the one that trains, which the plan is for.
        plan: what is to go; the paper takes L1 norms: ``prunus.plan(model, args, ratio=0.5, importance="l1")``.
        delta: by how much lambda grows, 1e-4 in the paper.
        ceiling: where it stops, 1 in the paper. With plain SGD, ``lr * ceiling`` must be less than 2.
        every: steps between, 5 to 10 in the paper.
        stay: steps at the ceiling before ``done``.

    Raises:
        PlanError: the plan is for another model.
        InputError: a number is out of range.
    """

    def __init__(
        self, model: nn.Module, plan: Plan, delta: float = 1e-4, ceiling: float = 1.0, every: int = 10, stay: int = 0
    ) -> None:
        check_positive(delta=delta, ceiling=ceiling, every=every)
        if stay < 0:
            raise InputError(f"stay must be at least 0 steps, got {stay}.")
        self.removal, self.plan = Removal(model, plan), plan
        self.delta, self.ceiling, self.every, self.stay, self.count = delta, ceiling, every, stay, 0

    @property
    def strength(self) -> float:
        """Lambda in the step to come."""
        return min(self.delta * (self.count // self.every + 1), self.ceiling)

    @property
    def done(self) -> bool:
        """Whether lambda has been at its ceiling for long enough."""
        rises = -(-self.ceiling // self.delta) - 1
        return self.count >= rises * self.every + self.stay

    def before_step(self) -> None:
        """Add the gradient."""
        self.removal.decay(self.strength)

    def after_step(self) -> None:
        """Count."""
        self.count += 1

    def epoch_end(self) -> None:
        """Nothing to do between epochs."""

    def state_dict(self) -> dict[str, Any]:
        """The steps made, and the plan, so that a restart doesn't choose another."""
        return {"count": self.count, "plan": self.plan.to_json()}

    def load_state_dict(self, state: Any) -> None:
        """Take what ``state_dict`` gave."""
        self.count, self.plan = state["count"], Plan.from_json(state["plan"])
        self.removal = Removal(self.removal.model, self.plan)
