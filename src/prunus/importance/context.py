"""What a criterion is given: the graph, the weights, the data, the loss, and ways to look at them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from prunus.axes import Atom, atoms, places
from prunus.contractions import Contraction, Watch, names, positions, with_rows
from prunus.errors import InputError
from prunus.running import Batches, call, differentiable
from prunus.surgery import named_tensors
from prunus.trace import Graph, Group, Member

Loss = Callable[[nn.Module, Any], Tensor]
"""``loss(model, batch) -> scalar``: it runs the model itself, as in :mod:`prunus.train`."""

Place = str | Member | Group
"""What a score is for: a parameter (by name), one dimension of it, or a group."""

Found = Mapping[Any, Any]  # of Place; a Mapping's keys are invariant
"""Scores: of a parameter, a tensor of its shape; of a dimension, one per position; of a group, one per index."""


def cross_entropy(model: nn.Module, batch: Any) -> Tensor:
    """The default loss, for batches ``(inputs, class indices)``."""
    if not isinstance(batch, list | tuple) or len(batch) != 2:
        raise InputError("this criterion needs a loss: batches aren't (inputs, class indices), so pass loss=function.")
    return F.cross_entropy(model(batch[0]), batch[1])


@dataclass(frozen=True, eq=False)
class Context:
    """What there is to score, and what to judge it by.

    Attributes:
        graph: the model and its groups. While a criterion runs, the model is in eval
            mode, gradients are off and random states are forked.
        data: batches, each what ``loss`` takes and the model's inputs can be read from; None where none were given.
        loss: ``loss(model, batch) -> scalar``, the mean over the batch's examples.
    """

    graph: Graph
    data: Iterable[Any] | None = None
    loss: Loss = cross_entropy

    @property
    def model(self) -> nn.Module:
        """The model that was traced."""
        return self.graph.model

    @cached_property
    def weights(self) -> Mapping[str, nn.Parameter]:
        """Every parameter that a group which can be cut runs through, by name; tied ones once."""
        found: dict[str, nn.Parameter] = {}
        seen: set[int] = set()
        for name, tensor in named_tensors(self.model).items():
            if not isinstance(tensor, nn.Parameter) or id(tensor) in seen:
                continue
            if not all(self.graph.space.is_frozen(axis) for axis in self.graph.tensors[name]):
                seen.add(id(tensor))
                found[name] = tensor
        return found

    def values(self, name: str) -> Tensor:
        """The named parameter, detached.

        Raises:
            InputError: it is on the meta device.
        """
        weight = self.weights[name]
        if weight.is_meta:
            raise InputError(
                f"{name!r} is on the meta device and has no values to score: load the weights first, or use "
                "importance='random'."
            )
        return weight.detach()

    def members(self, group: Group) -> Iterator[Member]:
        """The dimensions of distinct parameters that the group runs through."""
        return (member for member in group.members if member.name in self.weights)

    def rows(self, group: Group) -> Tensor:
        """``[group.size, n]``, fp64: all the weights that go with each index."""
        parts = []
        for member in self.members(group):
            weight = self.values(member.name).double().movedim(member.dim, 0)
            at = self.places(member, group.atom)
            parts.append(weight[at.flatten()].reshape(group.size, -1).cpu())
        return torch.cat(parts, 1) if parts else torch.zeros(group.size, 0, dtype=torch.float64, device="cpu")

    def places(self, member: Member, atom: Atom) -> Tensor:
        """``[atom.size, n]``: the positions of the member's dimension that go through each index of the atom."""
        return torch.from_numpy(places(self.graph.tensors[member.name][member.dim], atom))

    def atoms(self, member: Member) -> list[Atom]:
        """The atoms of the member's dimension that can be cut."""
        found = self.graph.space
        axis = self.graph.tensors[member.name][member.dim]
        return [atom for atom in dict.fromkeys(atoms(axis)) if found.reason(atom) is None]

    # -- data ----------------------------------------------------------------------------------------------------

    def batches(self) -> Iterator[Any]:
        """The batches as given, on the model's device, for ``loss(model, batch)``.

        Raises:
            InputError: there are none.
        """
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        empty = True
        for batch in self._given():
            empty = False
            yield pytree.tree_map_only(Tensor, lambda t: t.to(device), batch)
        if empty:
            raise InputError("data holds no batch.")

    def examples(self, limit: int) -> Iterator[Any]:
        """The batches cut into batches of one example, at most ``limit`` of them."""

        def singles() -> Iterator[Any]:
            for batch in self.batches():
                sizes = [t.shape[0] for t in pytree.tree_leaves(batch) if isinstance(t, Tensor) and t.dim()]
                for i in range(min(sizes, default=0)):
                    yield pytree.tree_map_only(Tensor, partial(_example, i), batch)

        return islice(singles(), limit)

    def inputs(self) -> Batches:
        """The batches as ``(args, kwargs)`` of the model, what else they hold left out."""
        return Batches(self._given(), self.graph.args, self.graph.kwargs or None)

    def flows(self, batches: int | None = None) -> Iterator[tuple[Member, Contraction, Tensor]]:
        """Every call of a linear map that reads an axis which can be cut, in a run over each (of the first) batches.

        With it comes its output; ``Member`` is the dimension of its weight that runs over its inputs.
        """
        for args, kwargs in islice(self.inputs(), batches):
            yield from self._seen(args, kwargs)

    def relevant_flows(self) -> Iterator[tuple[Member, Contraction, Tensor, Tensor]]:
        """``flows``, each with the places of its rows that count: those of padding that a mask hides don't."""
        examples, chosen = with_rows(self.model, self.inputs())
        for (args, kwargs), rows in zip(examples, chosen, strict=False):
            waiting = {name: list(calls) for name, calls in rows.items()}
            for member, found, output in self._seen(args, kwargs):
                known = waiting.get(member.name)
                at = known.pop(0) if known else torch.arange(positions(output, found.channel), device="cpu")
                yield member, found, output, at

    def _seen(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[Member, Contraction, Tensor]]:
        seen: list[tuple[Member, Contraction, Tensor]] = []

        def see(name: str, found: Contraction, output: Tensor) -> None:
            member = Member(name, found.in_dim)
            known = name in self.weights and not found.interleaved
            if known and not self.graph.space.is_frozen(self.graph.tensors[name][member.dim]):
                seen.append((member, found, output))

        with Watch(names(self.model), see):
            call(self.model, args, kwargs)
        return seen

    def _given(self) -> Any:
        if self.data is None:
            raise InputError("this importance needs batches to judge by: pass data=loader (a list of batches will do).")
        if isinstance(self.data, Iterator):
            raise InputError(
                "data is an iterator, which can be read only once; give a list of batches or a DataLoader."
            )
        return [self.data] if isinstance(self.data, Tensor) else self.data

    # -- derivatives ---------------------------------------------------------------------------------------------

    @cached_property
    def gradients(self) -> Mapping[str, Tensor]:
        """The gradient of the mean loss over all batches, by parameter; zero where the loss doesn't depend on one."""
        total = {name: torch.zeros_like(weight) for name, weight in self.weights.items()}
        n = 0
        for batch in self.batches():
            n += 1
            for name, found in self.derivatives(batch).items():
                total[name] += found
        return {name: value / n for name, value in total.items()}

    def derivatives(self, batch: Any) -> dict[str, Tensor]:
        """The gradient of the loss on one batch, by parameter, with parameters frozen for training taken in."""
        with differentiable(self.weights.values()):
            value = self.loss(self.model, batch)
            found = torch.autograd.grad(value, list(self.weights.values()), allow_unused=True)
        return {
            name: torch.zeros_like(weight) if slope is None else slope
            for (name, weight), slope in zip(self.weights.items(), found, strict=True)
        }

    def hessian_times(self, batch: Any, vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The Hessian of the loss on one batch times a vector per parameter, by parameter (B. A. Pearlmutter, 1994)."""
        weights = list(self.weights.values())
        with differentiable(weights):
            value = self.loss(self.model, batch)
            slopes = torch.autograd.grad(value, weights, create_graph=True, allow_unused=True)
            pairs = zip(slopes, vectors.values(), strict=True)
            along = [(slope * vector).sum() for slope, vector in pairs if slope is not None]
            flow = torch.stack(along).sum()
            curved = flow.requires_grad
            found = torch.autograd.grad(flow, weights, allow_unused=True) if curved else [None] * len(weights)
        return {
            name: torch.zeros_like(weight) if product is None else product
            for (name, weight), product in zip(self.weights.items(), found, strict=True)
        }


def _example(i: int, tensor: Tensor) -> Tensor:
    return tensor[i : i + 1] if tensor.dim() else tensor
