"""From what a criterion found to a score per index of every group: fold, aggregate, normalize."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from prunus.axes import Atom, Axis, fold
from prunus.errors import InputError, suggest
from prunus.importance.context import Context, Found, Place
from prunus.importance.normalization import NORMALIZATIONS
from prunus.trace import Graph, Group, Member

Array = NDArray[np.float64]
Criterion = Callable[[Context], Found] | Callable[[str, Tensor], Tensor]
"""``f(context)`` gives scores by place; ``f(name, weight)`` gives each weight of a parameter its saliency."""

_WITHIN: Mapping[str, Any] = {"sum": np.sum, "mean": np.mean, "max": np.max}
AGGREGATIONS: Mapping[str, Callable[[Array], Array]] = {
    "sum": lambda rows: rows.sum(0),
    "mean": lambda rows: rows.mean(0),
    "max": lambda rows: rows.max(0),
    "product": lambda rows: rows.prod(0),
    "first": lambda rows: rows[0],
}


@dataclass(frozen=True)
class Importance:
    """A criterion, and how its scores become one per index of a group.

    Attributes:
        criterion: a name of ``importance.CRITERIA``, or a function; see :data:`Criterion`.
        within: how the scores of all positions that go through an index of *one* dimension of one parameter become
            one: ``"sum"``, ``"mean"`` or ``"max"``.
        aggregate: how those of the group's members become one: ``"sum"``, ``"mean"``, ``"max"``, ``"product"``, or
            ``"first"``, which reads the first member in the order of the model's tensors alone.
        normalize: what makes groups comparable, where they are compared: ``"none"``, ``"mean"`` (over the group's
            mean), ``"max"``, ``"gaussian"`` (less the mean, over the deviation), ``"lamp"`` (over the sum of all that
            are at least as high; Lee et al., ICLR 2021, eq. 4).
        additive: whether the scores are losses that add up, over a group's indices and over groups. Then a budget is
            met at the least sum; else where the product of the shares of importance that stay is largest.
    """

    criterion: str | Criterion
    within: str = "sum"
    aggregate: str = "sum"
    normalize: str = "none"
    additive: bool = False

    def __post_init__(self) -> None:
        """Raises InputError for an unknown way."""
        for name, known in (("within", _WITHIN), ("aggregate", AGGREGATIONS), ("normalize", NORMALIZATIONS)):
            value = getattr(self, name)
            if value not in known:
                raise InputError(
                    f"there is no {name} {value!r}.{suggest(str(value), known)} Known: {', '.join(known)}."
                )


def gather(context: Context, importance: Importance) -> dict[Atom, Array]:
    """A score per index of every free atom that the criterion says something about.

    Raises:
        InputError: the criterion returned what can't be scores.
    """
    function: Any = importance.criterion
    found = _by_weight(context, function) if _takes_weights(function) else function(context)
    parts: dict[Atom, list[tuple[int, Array]]] = {}
    order = {member: i for g in context.graph.groups for i, member in enumerate(g.members)}
    for place, values in found.items():
        _fold(context.graph, place, _array(values), importance.within, order, parts)
    result = {}
    for atom, rows in parts.items():
        in_order = np.stack([row for _, row in sorted(rows, key=lambda pair: pair[0])])
        result[atom] = NORMALIZATIONS[importance.normalize](AGGREGATIONS[importance.aggregate](in_order))
    return result


def _takes_weights(function: Any) -> bool:
    """Whether a criterion is ``f(name, weight)``: it has two parameters that must be given."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise InputError(f"{function!r} is no criterion: it must be f(name, weight) or f(context).") from error
    needed = [p for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(needed) not in (1, 2):
        raise InputError(f"{function!r} is no criterion: it must be f(name, weight) or f(context).")
    return len(needed) == 2


def _by_weight(context: Context, saliency: Any) -> Found:
    found: dict[Place, Tensor] = {}
    for name, weight in context.weights.items():
        context.values(name)
        found[name] = saliency(name, weight)
        if found[name].shape != weight.shape:
            raise InputError(
                f"the criterion must return a tensor of the parameter's shape {list(weight.shape)}; "
                f"for {name!r} it returned {list(found[name].shape)}."
            )
    return found


def _array(values: Any) -> Array:
    array = values.detach().double().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values, dtype=float)
    if not np.isfinite(array).all():
        raise InputError(
            "the criterion returned scores that are not finite numbers: nan or inf. Look for such values in the weights"
            " and in the data."
        )
    return array


def _fold(
    graph: Graph,
    place: Place,
    values: Array,
    within: str,
    order: Mapping[Member, int],
    parts: dict[Atom, list[tuple[int, Array]]],
) -> None:
    if isinstance(place, Group):
        _check(place.name, values.shape, (place.size,))
        _add(graph, {place.atom: values}, -1, parts)
    elif isinstance(place, Member):
        axis = graph.tensors[place.name][place.dim]
        _check(str(place), values.shape, (axis.size,))
        _add(graph, _by_atom(axis, values, within), order.get(place, -1), parts)
    else:
        axes = graph.tensors.get(place, ())
        _check(place, values.shape, tuple(axis.size for axis in axes))
        for dim, axis in enumerate(axes):
            if not graph.space.is_frozen(axis):
                others = tuple(d for d in range(values.ndim) if d != dim)
                line = _WITHIN[within](values, axis=others) if others else values
                _add(graph, _by_atom(axis, line, within), order.get(Member(place, dim), -1), parts)


def _check(name: str, shape: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if shape != wanted:
        raise InputError(f"the criterion gave {name!r} scores of shape {list(shape)}; there must be {list(wanted)}.")


def _by_atom(axis: Axis, values: Array, within: str) -> dict[Atom, Array]:
    found: dict[Atom, Array] = {}
    fold(axis, values, found, _WITHIN[within], np.maximum if within == "max" else np.add)
    return found


def _add(graph: Graph, found: Mapping[Atom, Array], order: int, parts: dict[Atom, list[tuple[int, Array]]]) -> None:
    for atom, values in found.items():
        if graph.space.reason(atom) is None:
            parts.setdefault(atom, []).append((order, values))
