"""Methods that keep training what is masked: SR-STE, movement pruning, soft filter pruning.

Between steps the model holds the masked weights, as everybody who looks at it should see them; in the optimizer's step
it holds the full ones, with the gradient taken at the masked ones (the straight-through estimator).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prunus.errors import InputError
from prunus.masks.criteria import Task
from prunus.masks.remembering import Remembering
from prunus.masks.schedules import Curve, Timeline
from prunus.masks.sparsifier import Sparsifier


class SRSTE(Remembering):
    """Train an N:M sparse network from the start: Zhou et al., Learning N:M Fine-grained Sparsity (ICLR 2021), eq. 9.

    The masks are chosen anew after every step, by magnitude of the full weights; those that are masked decay by
    ``decay`` more, so that the choice settles.

    Args:
        sparse: whose masks are held; every weight must fit the pattern.
        granularity: N:M, such as "2:4".
        decay: lambda of the paper, 2e-4 there.
    """

    REMEMBERS = ("full",)

    def __init__(self, sparse: Sparsifier, granularity: str = "2:4", decay: float = 2e-4) -> None:
        self.sparse, self.granularity, self.decay = sparse, granularity, decay
        self.full = {name: weight.detach().clone() for name, weight in sparse.weights.items()}
        self._choose()

    @torch.no_grad()
    def before_step(self) -> None:
        """Put the full weights back; pull those that are masked towards zero."""
        self.sparse.follow()
        self.full = _beside(self.full, self.sparse)
        for name, weight in self.sparse.weights.items():
            weight.copy_(self.full[name])
            if weight.grad is not None:
                weight.grad.add_(self.full[name].masked_fill(self.sparse.masks[name], 0), alpha=self.decay)

    @torch.no_grad()
    def after_step(self) -> None:
        """Remember the full weights; mask anew."""
        self.full = {name: weight.detach().clone() for name, weight in self.sparse.weights.items()}
        self._choose()

    def epoch_end(self) -> None:
        """Nothing to do between epochs."""

    def _choose(self) -> None:
        _unmask(self.sparse)
        self.sparse.prune(importance="l1", granularity=self.granularity, strict=False)


class Movement(Remembering):
    """Keep the weights that move away from zero: Sanh, Wolf, Rush, Movement Pruning (NeurIPS 2020).

    A score for each weight gathers ``-lr * dL/dW * W`` (eq. 4). Hard (the default): the highest scores are kept, to the
    sparsity of a schedule. Soft: with ``threshold``, those with ``sigmoid(score) > threshold`` are kept, and the loss
    has ``penalty`` times the sum of the sigmoids added. A masked weight keeps its last value, and returns with it.

    Args:
        sparse: whose masks are made; "local" or "global" by ``scope``.
        sparsity, begin, end, every, curve: the schedule by steps, as for ``Gradual``; not used by the soft variant.
        lr: learning rate of the scores.
        threshold: tau of the soft variant, in (0, 0.5): scores start at 0, where all is kept.
        penalty: lambda of the soft variant: more of it, fewer weights.
    """

    REMEMBERS = ("count", "full", "scores")

    def __init__(
        self,
        sparse: Sparsifier,
        sparsity: float = 0.0,
        *,
        end: int = 0,
        begin: int = 0,
        every: int = 1,
        curve: str | Curve = "cubic",
        scope: str = "local",
        lr: float = 1e-2,
        threshold: float | None = None,
        penalty: float = 0.0,
    ) -> None:
        if threshold is not None and not 0 < threshold < 0.5:
            raise InputError(f"the threshold must be between 0 and 0.5 (scores start at sigmoid(0)), got {threshold}.")
        self.sparse, self.scope, self.lr, self.threshold, self.penalty = sparse, scope, lr, threshold, penalty
        self.timeline = Timeline(0.0, sparsity, begin, end, every, curve)
        self.count = 0
        self.full = {name: weight.detach().clone() for name, weight in sparse.weights.items()}
        self.scores = {name: torch.zeros_like(full) for name, full in self.full.items()}

    @torch.no_grad()
    def before_step(self) -> None:
        """Gather the scores, and let only what is kept move."""
        self.sparse.follow()
        self.full, self.scores = _beside(self.full, self.sparse), _beside(self.scores, self.sparse)
        for name, weight in self.sparse.weights.items():
            if weight.grad is None:
                continue
            gate = self.scores[name].sigmoid()
            slope = weight.grad * self.full[name] + self.penalty * gate * (1 - gate)
            self.scores[name] -= self.lr * slope
            weight.grad.masked_fill_(~self.sparse.masks[name], 0)

    @torch.no_grad()
    def after_step(self) -> None:
        """Keep what isn't masked as the step left it, and the rest as it was; choose the masks where due."""
        self.count += 1
        for name, weight in self.sparse.weights.items():
            self.full[name] = torch.where(self.sparse.masks[name], weight.detach(), self.full[name])
            weight.copy_(self.full[name])
        if self.threshold is not None:
            self.sparse.set({name: scores.sigmoid() > self.threshold for name, scores in self.scores.items()})
        elif self.timeline.due(self.count):
            _unmask(self.sparse)
            target = self.timeline.sparsity(self.count)
            self.sparse.prune(target, self._given, scope=self.scope, strict=False)
        self.sparse.enforce()

    def epoch_end(self) -> None:
        """Nothing to do between epochs."""

    def _given(self, task: Task) -> dict[str, Tensor]:
        return self.scores


class SoftFilter(Remembering):
    """Zero the weakest filters after each epoch, and let them train on: He et al., Soft Filter Pruning (IJCAI 2018).

    Args:
        sparse: whose masks say, between epochs, which filters are zero. They are not held while it trains.
        sparsity: the share of each layer's filters.
        how: what else ``Sparsifier.prune`` takes; by default importance="l2", granularity="filter".
    """

    def __init__(self, sparse: Sparsifier, sparsity: float, **how: Any) -> None:
        self.sparse, self.sparsity = sparse, sparsity
        self.how = {"importance": "l2", "granularity": "filter", **how}

    def before_step(self) -> None:
        """Nothing to do before the optimizer's step."""

    def after_step(self) -> None:
        """Zeroed filters train on."""

    def epoch_end(self) -> None:
        """Choose the filters anew, and zero them."""
        _unmask(self.sparse)
        self.sparse.prune(self.sparsity, strict=False, **self.how)


def _unmask(sparse: Sparsifier) -> None:
    """Let every weight compete again; the weights themselves stay."""
    sparse.masks = {name: torch.ones_like(mask) for name, mask in sparse.masks.items()}


def _beside(tensors: dict[str, Tensor], sparse: Sparsifier) -> dict[str, Tensor]:
    """The tensors on the devices of their weights, wherever the model was moved to."""
    return {name: tensors[name].to(weight.device) for name, weight in sparse.weights.items()}
