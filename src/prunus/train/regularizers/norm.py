"""Group norms, the weaker the group the harder it is pulled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from prunus.trace import Graph
from prunus.train.regularizers.groups import AxisGroups, check_positive


class GroupNorm:
    """``loss + strength / 2 * sum_g sum_i gamma_gi ||w_gi||^2``: Fang et al., DepGraph (CVPR 2023), eq. 4 and 5.

    ``gamma_gi = 2^(alpha (I_max - I_gi) / (I_max - I_min))`` with ``I_gi = ||w_gi||^2``, largest and smallest taken
    over the group: 1 for the strongest index, ``2^alpha`` for the weakest. Gammas are taken anew after each epoch; the
    gradient ``strength * gamma * w`` is added before each step. (The paper's penalty has no half.)

    Args:
        graph: what :func:`prunus.trace` returned for the model that trains.
        strength: lambda, 1e-5 to 5e-4 in the paper.
        alpha: 4 in the paper.
        keep: what is left alone, as for :func:`prunus.plan`.
    """

    def __init__(self, graph: Graph, strength: float = 1e-4, alpha: float = 4.0, keep: Sequence[str] = ()) -> None:
        check_positive(strength=strength, alpha=alpha)
        self.groups, self.strength, self.alpha = AxisGroups(graph, keep), strength, alpha
        self.gammas: dict[str, Tensor] = {}
        self.epoch_end()

    def before_step(self) -> None:
        """Add the gradient."""
        self.groups.pull({name: self.strength * gamma for name, gamma in self.gammas.items()})

    def after_step(self) -> None:
        """Nothing to do after the optimizer's step."""

    def epoch_end(self) -> None:
        """Look again which are weak."""
        for name, squares in self.groups.squares().items():
            spread = (squares.max() - squares.min()).clamp(min=torch.finfo(squares.dtype).tiny)
            self.gammas[name] = 2 ** (self.alpha * (squares.max() - squares) / spread)

    def state_dict(self) -> dict[str, Any]:
        """The gammas of this epoch."""
        return {"gammas": self.gammas}

    def load_state_dict(self, state: Any) -> None:
        """Take what ``state_dict`` gave."""
        self.gammas = dict(state["gammas"])
