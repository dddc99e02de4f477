"""From a saliency per weight to a score per index of every group."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from prunus.axes import Atom, Axes, atoms, fold
from prunus.errors import InputError, suggest
from prunus.importance.magnitude import l1, l2, linf
from prunus.importance.random import random
from prunus.importance.taylor import taylor
from prunus.surgery import named_tensors
from prunus.trace import Graph

Criterion = Callable[[str, Tensor], Tensor]

CRITERIA: Mapping[str, Criterion] = {"l1": l1, "l2": l2, "linf": linf, "taylor": taylor}


def criterion(importance: str | Criterion) -> Criterion:
    """The criterion of that name; a function stands for itself. ``"random"`` is none: it reads no weights.

    Raises:
        InputError: there is no criterion of that name.
    """
    if callable(importance):
        return importance
    if importance not in CRITERIA:
        names = [*CRITERIA, "random"]
        hint = suggest(str(importance), names)
        raise InputError(f"there is no importance {importance!r}.{hint} Known: {', '.join(names)}.")
    return CRITERIA[importance]


def score(graph: Graph, importance: str | Criterion = "l2") -> dict[Atom, NDArray[np.float64]]:
    """A score per index of every free atom, from all parameters that the atom runs through.

    Saliencies are summed over each index (their maximum is taken for ``"linf"``). ``"random"`` gives every index noise
    of its own, without reading a weight.
    """
    if importance == "random":
        read = {name for name, _ in graph.model.named_parameters(remove_duplicate=False)}
        return {g.atom: random(g.name, g.size) for g in graph.free if any(m.name in read for m in g.members)}
    saliency = criterion(importance)
    largest = saliency is linf
    result: dict[Atom, NDArray[np.float64]] = {}
    seen: set[int] = set()
    for name, tensor in named_tensors(graph.model).items():
        if isinstance(tensor, nn.Parameter) and id(tensor) not in seen and _is_free(graph, graph.tensors[name]):
            seen.add(id(tensor))
            values = _checked(saliency(name, tensor), name, tensor)
            _gather(graph, graph.tensors[name], values, largest, result)
    return result


def _is_free(graph: Graph, axes: Axes) -> bool:
    return not all(graph.space.is_frozen(axis) for axis in axes)


def _checked(values: Tensor, name: str, tensor: Tensor) -> Tensor:
    if values.is_meta:
        raise InputError(
            f"{name!r} is on the meta device and has no values to score: load the weights first, or use "
            "importance='random'."
        )
    if values.shape != tensor.shape:
        raise InputError(
            f"the criterion must return a tensor of the parameter's shape {list(tensor.shape)}; "
            f"for {name!r} it returned {list(values.shape)}."
        )
    return values.detach()


def _gather(graph: Graph, axes: Axes, values: Tensor, largest: bool, result: dict[Atom, NDArray[np.float64]]) -> None:
    for dim, axis in enumerate(axes):
        if graph.space.is_frozen(axis):
            continue
        others = [d for d in range(values.dim()) if d != dim]
        line = values
        if others:
            line = values.amax(others) if largest else values.sum(others)
        found: dict[Atom, NDArray[np.float64]] = {}
        fold(axis, line.double().cpu().numpy(), found, *((np.max, np.maximum) if largest else (np.sum, np.add)))
        for atom in dict.fromkeys(atoms(axis)):
            if graph.space.reason(atom) is None:
                old = result.get(atom)
                new = found[atom]
                result[atom] = new if old is None else (np.maximum(old, new) if largest else old + new)
