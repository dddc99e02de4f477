"""L0 regularization: each index has a gate that learns to be zero."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from prunus.errors import InputError
from prunus.plan import Plan
from prunus.trace import Graph
from prunus.train.regularizers.groups import AxisGroups, Line, check_positive

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
"""Temperature and stretch of the hard concrete distribution: the paper's."""


class L0:
    """``loss + strength * sum P(gate open)`` with hard concrete gates: Louizos, Welling, Kingma (ICLR 2018), eq. 10-13.

    Each index of a group has a gate *z* in [0, 1] on what reads it: the input side of convolutions and linear layers.
    Between steps the model holds ``w * z`` with gates drawn for the next step; in the optimizer's step it holds ``w``,
    with the gradient that belongs to it; gates have an optimizer of their own. After each epoch the model holds the
    weights times the gates of eq. 13, which are zero where it pays; ``plan()`` then removes these.

    Args:
        graph: what :func:`prunus.trace` returned for the model that trains.
        strength: lambda, for each gate.
        lr: the rate of the gates' Adam.
        open_at_first: the chance that an unstretched gate is open at the start.
        keep: what is left alone, as for :func:`prunus.plan`.
        seed: of the gates' draws, which come from a generator of their own: with DDP each process draws the same.

    Raises:
        InputError: a number is out of range.
        NothingToPrune: no group is read by a convolution or a linear layer.
    """

    def __init__(
        self,
        graph: Graph,
        strength: float = 1e-3,
        lr: float = 1e-2,
        open_at_first: float = 0.9,
        keep: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        check_positive(strength=strength, lr=lr)
        if not 0 < open_at_first < 1:
            raise InputError(f"open_at_first is a chance between 0 and 1, got {open_at_first}.")
        self.groups, self.strength = AxisGroups(graph, keep, lines=_reads), strength
        first = math.log(open_at_first / (1 - open_at_first))
        like = next(iter(self.groups.weights.values())).detach()
        self.logits = {name: like.new_full((n,), first) for name, n in self.groups.sizes.items()}
        for logit in self.logits.values():
            logit.requires_grad_()
        self.optimizer = torch.optim.Adam(self.logits.values(), lr=lr)
        self.full = {name: weight.detach().clone() for name, weight in self.groups.weights.items()}
        self.noise: dict[str, Tensor] | None = None
        self.generator = torch.Generator().manual_seed(seed)
        self._hold()

    def before_step(self) -> None:
        """Put the full weights back, with their gradients; give the gates theirs."""
        self._follow()
        weights = self.groups.weights
        slopes = {name: torch.zeros_like(logit) for name, logit in self.logits.items()}
        with torch.no_grad():
            for name, weight in weights.items():
                mine = [(g, line) for g, lines in self.groups.lines.items() for line in lines if line.name == name]
                if weight.grad is None:
                    continue
                by_gate = weight.grad * self.full[name]
                for group, line in mine:
                    others = [each for each in mine if each[1] is not line]
                    shares = by_gate * self._scale(weight, others) if others else by_gate
                    along = shares.sum([d for d in range(weight.dim()) if d != line.dim])
                    slopes[group] += line.gather(along, self.groups.sizes[group])
                weight.grad.mul_(self._scale(weight, mine))
            for name, weight in weights.items():
                weight.copy_(self.full[name])
        self.optimizer.zero_grad()
        with torch.enable_grad():
            through = [(gate * slopes[name]).sum() for name, gate in self.gates.items()]
            (self.penalty() + torch.stack(through).sum()).backward()

    def after_step(self) -> None:
        """Step the gates; draw those of the next step."""
        self.optimizer.step()
        self.full = {name: weight.detach().clone() for name, weight in self.groups.weights.items()}
        self.noise = {name: self._drawn(logit) for name, logit in self.logits.items()}
        self._hold()

    def epoch_end(self) -> None:
        """Let the model hold what it will be: the weights times the gates of eq. 13."""
        self.noise = None
        self._hold()

    def penalty(self) -> Tensor:
        """``strength`` times the expected number of open gates, eq. 12."""
        shift = BETA * math.log(-GAMMA / ZETA)
        return self.strength * torch.stack([torch.sigmoid(each - shift).sum() for each in self.logits.values()]).sum()

    def plan(self) -> Plan:
        """The Plan that removes every index whose gate is closed; NothingToPrune if none is."""
        closed = {name: _gate(logit.detach(), None) == 0 for name, logit in self.logits.items()}
        return self.groups.plan_without(closed, "L0")

    def state_dict(self) -> dict[str, Any]:
        """The gates, the full weights, the gates' optimizer, and how their generator stands."""
        return {
            "logits": {name: logit.detach() for name, logit in self.logits.items()},
            "noise": self.noise,
            "full": self.full,
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what ``state_dict`` gave."""
        self._follow()
        with torch.no_grad():
            for name, logit in self.logits.items():
                logit.copy_(state["logits"][name])
        self.full = {name: full.to(self.full[name].device) for name, full in state["full"].items()}
        self.optimizer.load_state_dict(state["optimizer"])
        noise = state["noise"]
        self.noise = {n: u.to(self.logits[n].device) for n, u in noise.items()} if noise is not None else None
        self.generator.set_state(state["generator"])
        self._hold()

    def _follow(self) -> None:
        """Go to the device that the model is on: ``fit`` moves it after the hook was made."""
        home = next(iter(self.groups.weights.values())).device
        if next(iter(self.logits.values())).device == home:
            return
        for logit in self.logits.values():
            logit.data = logit.data.to(home)
        self.optimizer.load_state_dict(self.optimizer.state_dict())  # puts its moments where the gates are
        self.full = {name: full.to(home) for name, full in self.full.items()}
        if self.noise is not None:
            self.noise = {name: drawn.to(home) for name, drawn in self.noise.items()}
        self._open()

    def _drawn(self, like: Tensor) -> Tensor:
        return torch.rand(like.shape, generator=self.generator, dtype=like.dtype, device="cpu").to(like.device)

    def _open(self) -> None:
        """Take the gates of the noise drawn, or those of eq. 13."""
        noise = self.noise or dict.fromkeys(self.logits)
        with torch.enable_grad():
            self.gates = {name: _gate(logit, noise[name]) for name, logit in self.logits.items()}

    def _hold(self) -> None:
        """Multiply the weights by the gates."""
        self._open()
        with torch.no_grad():
            for name, weight in self.groups.weights.items():
                mine = [(g, line) for g, lines in self.groups.lines.items() for line in lines if line.name == name]
                torch.mul(self.full[name], self._scale(weight, mine), out=weight)

    def _scale(self, weight: Tensor, lines: Sequence[tuple[str, Line]]) -> Tensor:
        """The product of the gates of these lines, in a shape that broadcasts to the weight's."""
        result = weight.new_ones([1] * weight.dim())
        for group, line in lines:
            shape = [1] * weight.dim()
            shape[line.dim] = -1
            result = result * line.spread(self.gates[group].detach().to(weight), fill=1.0).view(shape)
        return result


def _gate(logit: Tensor, uniform: Tensor | None) -> Tensor:
    """Eq. 10 and 11 with the noise ``uniform``; without it, eq. 13."""
    if uniform is None:
        soft = torch.sigmoid(logit)
    else:
        noise = uniform.clamp(1e-6, 1 - 1e-6)
        soft = torch.sigmoid((noise.log() - (1 - noise).log() + logit) / BETA)
    return (soft * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def _reads(graph: Graph, line: Line) -> bool:
    """Whether a line is the input side of a convolution or a linear layer."""
    path, _, own = line.name.rpartition(".")
    module: nn.Module = graph.model.get_submodule(path)
    if own != "weight" or not isinstance(module, nn.Linear | _ConvNd):
        return False
    return line.dim == (0 if isinstance(module, _ConvTransposeNd) else 1)
