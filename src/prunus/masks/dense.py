"""Methods that keep training what is masked: SR-STE, movement pruning, soft filter pruning.

Between steps the model holds the masked weights, as everybody who looks at it should see them; in the optimizer's step
it holds the full ones, with the gradient taken at the masked ones (the straight-through estimator).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from prunus.errors import InputError
from prunus.masks.bits import zero_outside
from prunus.masks.criteria import Task
from prunus.masks.remembering import Remembering
from prunus.masks.schedules import Curve, Timeline
from prunus.masks.selection import check_numbers
from prunus.masks.sparsifier import Sparsifier
from prunus.masks.units import Pattern, parse


class SRSTE(Remembering):
    """Train an N:M sparse network from the start: Zhou et al., Learning N:M Fine-grained Sparsity (ICLR 2021), eq. 9.

    The masks are chosen anew after every step, by magnitude of the full weights; those that are masked decay by
    ``decay`` more, so that the choice settles.

    Args:
        sparse: whose masks are held; every weight must fit the pattern.
        granularity: N:M, such as "2:4".
        decay: lambda of the paper, 2e-4 there.

    Raises:
        InputError: the granularity isn't N:M, a weight doesn't fit it, or has values that aren't numbers.
    """

    REMEMBERS = ("hidden",)

    def __init__(self, sparse: Sparsifier, granularity: str = "2:4", decay: float = 2e-4) -> None:
        pattern = parse(granularity)
        if not isinstance(pattern, Pattern):
            raise InputError(f"SR-STE trains N:M patterns, such as '2:4', not {granularity!r}.")
        self.sparse, self.pattern, self.decay = sparse, pattern, decay
        self.hidden = {name: torch.empty_like(weight.detach()) for name, weight in sparse.weights.items()}
        """What masked weights would be, and zero where nothing is masked."""
        self.after_step()

    @torch.no_grad()
    def before_step(self) -> None:
        """Put the full weights back; pull those that are masked towards zero."""
        self.sparse.follow()
        self.hidden = _beside(self.hidden, self.sparse)
        for name, weight in self.sparse.weights.items():
            weight.add_(self.hidden[name])
            if weight.grad is not None:
                weight.grad.add_(self.hidden[name], alpha=self.decay)

    @torch.no_grad()
    def after_step(self) -> None:
        """Mask anew, and hide the rest."""
        masks = {}
        for name, weight in self.sparse.weights.items():
            scores = weight.abs()
            check_numbers(scores, name)
            masks[name] = self.pattern.mask(scores, name)
            self.hidden[name].copy_(weight)
            zero_outside(weight, masks[name])
            self.hidden[name].sub_(weight)
        self.sparse.masks = masks

    def epoch_end(self) -> None:
        """Nothing to do between epochs."""


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

    REMEMBERS = ("count", "hidden", "scores")

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
        self.hidden = {name: torch.zeros_like(weight.detach()) for name, weight in sparse.weights.items()}
        """What masked weights would be, and zero where nothing is masked."""
        self.scores = {name: torch.zeros_like(hidden) for name, hidden in self.hidden.items()}

    @torch.no_grad()
    def before_step(self) -> None:
        """Gather the scores, and let only what is kept move."""
        self.sparse.follow()
        self.hidden, self.scores = _beside(self.hidden, self.sparse), _beside(self.scores, self.sparse)
        for name, weight in self.sparse.weights.items():
            if weight.grad is None:
                continue
            scores = self.scores[name]
            if self.penalty:
                gate = scores.sigmoid()
                scores.sub_(gate.addcmul_(gate, gate, value=-1), alpha=self.lr * self.penalty)
            for part in (weight, self.hidden[name]):  # what is kept, and what is masked
                scores.addcmul_(weight.grad, part, value=-self.lr)
            zero_outside(weight.grad, self.sparse.masks[name])

    @torch.no_grad()
    def after_step(self) -> None:
        """Hold the zeros; choose the masks where due."""
        self.count += 1
        self.sparse.enforce()  # whatever momentum did to masked weights
        if self.threshold is not None:
            level = math.log(self.threshold / (1 - self.threshold))
            self._choose(lambda: self.sparse.set({name: scores > level for name, scores in self.scores.items()}))
        elif self.timeline.due(self.count):
            _unmask(self.sparse)
            share = self.timeline.sparsity(self.count)
            self._choose(lambda: self.sparse.prune(share, self._given, scope=self.scope, strict=False))

    def epoch_end(self) -> None:
        """Nothing to do between epochs."""

    def _choose(self, mask: Callable[[], Any]) -> None:
        """Mask anew, with all weights back; what is masked then is hidden."""
        for name, weight in self.sparse.weights.items():
            self.hidden[name].add_(weight)
            weight.copy_(self.hidden[name])
        mask()
        for name, weight in self.sparse.weights.items():
            self.hidden[name].sub_(weight)

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
