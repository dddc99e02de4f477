"""What a candidate would cost, predicted from the axes without building it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from prunus.axes import Atom, Axes
from prunus.budget.polynomial import Counts, Polynomial
from prunus.surgery import named_tensors
from prunus.trace import Graph

UNITS = ("parameters", "macs", "bytes", "activation_memory", "latency")


class Cost(Protocol):
    """A cost in one unit, for many candidates at a time."""

    def __call__(self, counts: Counts, candidates: int) -> NDArray[Any]:
        """The cost of each candidate; ``counts`` holds arrays with a value per candidate, followers included."""


class Costs:
    """The costs of every candidate of a graph, by unit, as :func:`prunus.profile` counts them on the real small model.

    ``parameters``, ``macs``, ``bytes`` (of parameters) and ``activation_memory`` (bytes of all tensors that the modules
    make in one run on the graph's example) are exact. Others, such as ``latency`` in milliseconds, are given.

    ``parameters`` is also the list of the axes of every parameter, tied ones once.
    """

    def __init__(self, graph: Graph, more: Mapping[str, Cost] | None = None) -> None:
        self.graph = graph
        own = list(_parameters_of(graph))
        self.parameters = [axes for axes, _ in own]
        self.of: dict[str, Cost] = {**_exact(graph, own), **(more or {})}

    def table(self, counts: Counts, candidates: int, units: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """The cost of each candidate in every unit, or in those asked for."""
        complete = self.complete(counts)
        return {unit: self.of[unit](complete, candidates) for unit in units or self.of}

    def __call__(self, counts: Mapping[Atom, int]) -> dict[str, Any]:
        """Every unit's cost of one candidate; atoms that aren't in ``counts`` keep all."""
        one = {atom: np.array([n], dtype=np.int64) for atom, n in counts.items()}
        return {unit: value[0].item() for unit, value in self.table(one, 1).items()}

    def complete(self, counts: Counts) -> Counts:
        """``counts`` with those of the atoms that follow others."""
        followers = self.graph.sizes.followers
        if not followers:
            return counts
        full = {g.atom: np.int64(g.size) for g in self.graph.groups if g.atom not in followers}
        return self.graph.sizes.complete({**full, **counts})  # type: ignore[dict-item, return-value]


def _exact(graph: Graph, parameters: Sequence[tuple[Axes, int]]) -> dict[str, Polynomial]:
    def is_free(atom: Atom) -> bool:
        return graph.space.reason(atom) is None

    def now(axes: Axes) -> Axes:
        return tuple(graph.space.resolve(axis) for axis in axes)

    run = graph.runs[0]
    return {
        "parameters": Polynomial([(1, axes) for axes, _ in parameters], is_free),
        "macs": Polynomial([(1, now(axes)) for _, work in run.work for axes in work.products], is_free),
        "bytes": Polynomial([(size, axes) for axes, size in parameters], is_free),
        "activation_memory": Polynomial([(size, now(axes)) for axes, size in run.made], is_free),
    }


def _parameters_of(graph: Graph) -> Iterator[tuple[Axes, int]]:
    """The axes of every parameter, tied ones once, and the bytes of each of its values."""
    seen: set[int] = set()
    for name, tensor in named_tensors(graph.model).items():
        if isinstance(tensor, nn.Parameter) and id(tensor) not in seen:
            seen.add(id(tensor))
            yield tuple(graph.space.resolve(axis) for axis in graph.tensors[name]), tensor.element_size()
