"""Dynamic sparse training: the count of weights stays, their places change. And tickets, to start again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from prunus.errors import InputError
from prunus.masks.remembering import Remembering
from prunus.masks.schedules import check_unit
from prunus.masks.sparsifier import Sparsifier


def erdos_renyi(sparse: Sparsifier, sparsity: float, *, kernel: bool = True) -> dict[str, float]:
    """A sparsity for each parameter, such that ``sparsity`` of all weights is masked and small layers stay dense.

    The density of a layer is in proportion to ``sum(shape) / prod(shape)``, with the kernel's sizes (ERK, Evci et al.,
    2020) or, ``kernel=False``, without (Mocanu et al., 2018); never above 1. Pass it to ``Sparsifier.prune``.

    Raises:
        InputError: a sparsity out of range.
    """
    if not 0 <= sparsity < 1:
        raise InputError(f"a sparsity must be at least 0 and less than 1, got {sparsity}.")
    shapes = {name: mask.shape for name, mask in sparse.masks.items()}
    raw = {name: sum(s if kernel else s[:2]) / math.prod(s if kernel else s[:2]) for name, s in shapes.items()}
    left = (1 - sparsity) * sum(shape.numel() for shape in shapes.values())
    full: set[str] = set()
    while True:
        open_ = [name for name in shapes if name not in full]
        room = left - sum(shapes[name].numel() for name in full)
        scale = room / sum(raw[name] * shapes[name].numel() for name in open_) if open_ else 0.0
        over = {name for name in open_ if scale * raw[name] > 1}
        if not over:
            return {name: 0.0 if name in full else 1 - scale * raw[name] for name in shapes}
        full |= over


class Regrow(Remembering):
    """What SET and RigL share: each so often, drop a share of each layer's weights and grow as many elsewhere."""

    REMEMBERS = ("count",)

    def __init__(
        self,
        sparse: Sparsifier,
        *,
        every: int,
        end: int | None = None,
        fraction: float = 0.3,
        by: str = "step",
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        if every < 1 or not 0 < fraction < 1:
            raise InputError(f"needed are every >= 1 and 0 < fraction < 1, got every={every}, fraction={fraction}.")
        self.sparse, self.every, self.end, self.by = sparse, every, end, check_unit(by)
        self.fraction, self.optimizer, self.count = fraction, optimizer, 0

    def before_step(self) -> None:
        """Nothing to do before the optimizer's step."""

    def after_step(self) -> None:
        """Hold the zeros, or move connections, where due."""
        if self.by == "step":
            self._advance()
        self.sparse.enforce()

    def epoch_end(self) -> None:
        """Move connections, where due."""
        if self.by == "epoch":
            self._advance()
            self.sparse.enforce()

    def due(self) -> bool:
        """Whether connections move after the step (or epoch) that is on its way."""
        return (self.count + 1) % self.every == 0 and (self.end is None or self.count + 1 < self.end)

    def share(self) -> float:
        """The share of the weights that moves now."""
        return self.fraction

    def drop(self, weight: Tensor, mask: Tensor) -> Tensor:
        """True for the weights to drop."""
        raise NotImplementedError

    def grow(self, name: str, mask: Tensor, dropped: Tensor, count: int) -> Tensor:
        """True for the ``count`` places to grow."""
        raise NotImplementedError

    def _advance(self) -> None:
        if self.due():
            self.sparse.enforce()  # what momentum moved must not count
            for name, weight in self.sparse.weights.items():
                self._move(name, weight)
        self.count += 1

    @torch.no_grad()
    def _move(self, name: str, weight: nn.Parameter) -> None:
        old = self.sparse.masks[name]
        dropped = self.drop(weight.detach(), old)
        grown = self.grow(name, old, dropped, int(dropped.sum()))
        self.sparse.masks[name] = (old & ~dropped) | grown
        if self.optimizer is not None:
            for value in self.optimizer.state.get(weight, {}).values():
                if isinstance(value, Tensor) and value.shape == weight.shape:
                    value.masked_fill_(grown & ~old, 0)


class SET(Regrow):
    """Sparse Evolutionary Training: Mocanu et al., Nature Communications 9 (2018), Algorithm 1.

    Drops ``fraction`` of the smallest positive and of the largest negative weights of each layer, and grows as many
    connections where there were none, at random. They start from zero; the paper draws them.

    Args:
        sparse: with masks of the sparsity wanted: ``sparse.prune(erdos_renyi(sparse, 0.9), "random")``.
        every: move each so many steps (or epochs).
        end: not from this count on; ``None`` is never.
        by: "step" or "epoch".
        optimizer: whose momentum is cleared where a connection is new.
        seed: of what is drawn, from a generator of its own: with DDP each process grows the same connections.
    """

    def __init__(
        self,
        sparse: Sparsifier,
        *,
        every: int,
        end: int | None = None,
        fraction: float = 0.3,
        by: str = "step",
        optimizer: torch.optim.Optimizer | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(sparse, every=every, end=end, fraction=fraction, by=by, optimizer=optimizer)
        self.generator = torch.Generator().manual_seed(seed)

    def state_dict(self) -> dict[str, Any]:
        """Masks, the count, and how the generator stands."""
        return {**super().state_dict(), "generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what ``state_dict`` gave."""
        super().load_state_dict(state)
        self.generator.set_state(state["generator"])

    def drop(self, weight: Tensor, mask: Tensor) -> Tensor:
        """The given share of the positive and of the negative ones, nearest to zero."""
        result = torch.zeros_like(mask)
        for side in (mask & (weight >= 0), mask & (weight < 0)):
            result |= lowest(weight.abs(), side, round(self.share() * int(side.sum())))
        return result

    def grow(self, name: str, mask: Tensor, dropped: Tensor, count: int) -> Tensor:
        """Anywhere at random, but in the places just dropped only where no others are left."""
        chance = torch.rand(mask.shape, generator=self.generator, device="cpu").to(mask.device) + dropped.float()
        return lowest(chance, ~mask | dropped, count)


class RigL(Regrow):
    """The Rigged Lottery: Evci et al. (ICML 2020), Algorithm 1.

    Drops the smallest weights and grows where the gradient is largest. The share starts at ``fraction`` (alpha) and
    falls with a cosine to zero at ``end`` (three quarters of the training, in the paper). The paper leaves the
    optimizer's step out when it moves connections; here the gradient of that step is used and the step is done.

    Args: as for :class:`SET`; ``end`` is needed.
    """

    def __init__(
        self,
        sparse: Sparsifier,
        *,
        every: int,
        end: int,
        fraction: float = 0.3,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        super().__init__(sparse, every=every, end=end, fraction=fraction, optimizer=optimizer)
        self.slopes: dict[str, Tensor] = {}

    def share(self) -> float:
        """``alpha/2 (1 + cos(pi t / T))``."""
        return self.fraction / 2 * (1 + math.cos(math.pi * (self.count + 1) / (self.end or 1)))

    def before_step(self) -> None:
        """Look at the gradient of every place, also of those that are masked, before the step."""
        if self.due():
            weights = self.sparse.weights
            self.slopes = {n: w.grad.detach().abs().clone() for n, w in weights.items() if w.grad is not None}

    def drop(self, weight: Tensor, mask: Tensor) -> Tensor:
        """The smallest."""
        return lowest(weight.abs(), mask, round(self.share() * int(mask.sum())))

    def grow(self, name: str, mask: Tensor, dropped: Tensor, count: int) -> Tensor:
        """Where the gradient is largest; what was just dropped may come back, with its value.

        Raises:
            InputError: the weight has no gradient, or ``before_step`` wasn't called.
        """
        if name not in self.slopes:
            raise InputError(f"{name!r} has no gradient: call before_step() after backward() and before the step.")
        return lowest(-self.slopes[name], ~mask | dropped, count)


class Ticket:
    """Remembers a model as it was at one step, to train what is left from there again: a hook for ``train.fit``.

    J. Frankle, M. Carbin, "The Lottery Ticket Hypothesis" (2019): from the start; Frankle et al., "Linear Mode
    Connectivity and the Lottery Ticket Hypothesis" (2020): from step k.

    Args:
        model: whose parameters and buffers are remembered.
        at_step: after how many steps; 0 is now.
    """

    def __init__(self, model: nn.Module, at_step: int = 0) -> None:
        self.model, self.at_step, self.count = model, at_step, 0
        self.state: dict[str, Tensor] | None = None
        self._look()

    def before_step(self) -> None:
        """Nothing to do before the optimizer's step."""

    def after_step(self) -> None:
        """Count."""
        self.count += 1
        self._look()

    def epoch_end(self) -> None:
        """Nothing to do between epochs."""

    def rewind(self, sparse: Sparsifier) -> None:
        """Set the model back to that step; what is masked stays zero.

        Raises:
            InputError: that step was never reached.
        """
        if self.state is None:
            raise InputError(f"step {self.at_step} wasn't reached: {self.count} were made. Was the hook given to fit?")
        self.model.load_state_dict(self.state)
        sparse.enforce()

    def state_dict(self) -> dict[str, Any]:
        """How many steps were made, and the model as it was, if that step was reached."""
        return {"count": self.count, "state": self.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what ``state_dict`` gave."""
        self.count, self.state = state["count"], state["state"]

    def _look(self) -> None:
        if self.count == self.at_step and self.state is None:
            self.state = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}


def lowest(values: Tensor, among: Tensor, count: int) -> Tensor:
    """True at the ``count`` lowest values of the places ``among``."""
    places = among.flatten().nonzero().squeeze(1)
    result = torch.zeros(among.numel(), dtype=torch.bool, device=among.device)
    result[places[values.flatten()[places].topk(count, largest=False).indices]] = True
    return result.view_as(among)
