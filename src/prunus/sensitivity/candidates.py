"""The networks that are evaluated: really smaller, or the model with zeros, whichever is faster and the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from prunus.axes import Atom, Keep, atoms, keep_vector
from prunus.planning import holding, make_plan
from prunus.running import each_input, outputs_in, undisturbed
from prunus.selection import Scores, choose_indices
from prunus.surgery import copy_model, named_tensors
from prunus.trace import Graph, Group

_SAME = 1e-4


class Candidates:
    """Makes one group's candidates, alone, from scores that are taken once."""

    def __init__(self, graph: Graph, scores: Scores) -> None:
        self.graph, self.scores = graph, scores
        self._masked: nn.Module | None = None

    def small(self, group: Group, kept: int) -> nn.Module | None:
        """The really smaller network; None where the run shows that the group can't be cut (it is frozen then)."""
        while self.graph.space.reason(group.atom) is None:
            keep = self._keep(group, kept)
            plan = make_plan(self.graph, keep, {"ratio": {group.name: 1 - kept / group.size}})
            if holding(self.graph, plan, {atom: int(mask.sum()) for atom, mask in keep.items()}) is not None:
                return plan.apply(self.graph.model)
        return None

    @contextmanager
    def masked(self, group: Group, kept: int) -> Iterator[nn.Module]:
        """A copy of the model with zeros where the small network has nothing, until the end of the context."""
        if self._masked is None:
            self._masked = copy_model(self.graph.model, {})
        keep, tensors = self._keep(group, kept), named_tensors(self._masked)
        before: dict[str, Tensor] = {}
        try:
            with torch.no_grad():
                for name, axes in self.graph.tensors.items():
                    cut = any(atom in keep for axis in axes for atom in atoms(axis))
                    if cut and isinstance(tensors[name], nn.Parameter):
                        before.setdefault(name, tensors[name].detach().clone())
                        _zero(tensors[name], axes, keep)
            yield self._masked
        finally:
            with torch.no_grad():
                for name, values in reversed(before.items()):  # of a tied tensor, the first copy is the whole one
                    tensors[name].copy_(values)

    def alike(self, group: Group, kept: int, small: nn.Module) -> bool:
        """Whether the masked and the small network agree on the example inputs."""
        args, kwargs = each_input(self.graph.args, self.graph.kwargs)[0]
        with self.masked(group, kept) as masked:
            ours, theirs = (_outputs(m, args, kwargs) for m in (masked, small))
        return len(ours) == len(theirs) and all(
            a.shape == b.shape and bool((a - b).abs().max() <= _SAME * b.abs().max().clamp(min=1e-12))
            for a, b in zip(ours, theirs, strict=True)
            if a.numel()
        )

    def _keep(self, group: Group, kept: int) -> dict[Atom, Keep]:
        counts = self.graph.sizes.complete({group.atom: kept})
        return choose_indices(self.scores, {atom: n for atom, n in counts.items() if n < atom.size})


def _zero(tensor: Tensor, axes: Any, keep: Mapping[Atom, Keep]) -> None:
    for dim, axis in enumerate(axes):
        gone = torch.from_numpy(~keep_vector(axis, keep)).nonzero().flatten()
        if len(gone):
            tensor.index_fill_(dim, gone.to(tensor.device), 0)


def _outputs(model: nn.Module, args: Any, kwargs: Any) -> list[Tensor]:
    with undisturbed(model):
        return [t.double() for t in outputs_in(model(*args, **kwargs))]
