"""Whether the small model's own class can build it from a config, and which: said in the Plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from torch import nn

from prunus.axes import Atom, atoms
from prunus.foreign import FITS, NONE_FITS
from prunus.plan import Plan
from prunus.settings import PER_LAYER
from prunus.sizes import Attribute, Equation, define, evaluate
from prunus.sizes.expression import leaves, resolved
from prunus.surgery import AttributeChange, set_attributes
from prunus.trace import Graph
from prunus.trace.construction import CONFIG, Construction, misfit, with_products


def fit(
    graph: Graph, made: Construction, plan: Plan, counts: Mapping[Atom, int], small: nn.Module
) -> tuple[Plan, tuple[str, str] | None]:
    """``plan`` with the fields of the config that fit the small model, if there are such; and what doesn't fit.

    ``small`` is the skeleton that the plan makes; its config is set in place.

    ``plan.how["config"]`` says which of the two it is. What fits is checked by building the small model's class.
    """
    wrong = ("", made.refusal) if made.refusal is not None else None
    changes: tuple[AttributeChange, ...] = ()
    if wrong is None:
        try:
            changes = tuple(_changes(graph, made, plan, counts))
            set_attributes(small, changes)
            wrong = misfit(small)
        except ZeroDivisionError:
            wrong = "", "a size that the constructor divides by would be zero"
    if wrong is None:
        changes = (*plan.attributes, *changes)
        own = ", with values for single layers" if any(PER_LAYER in change.path for change in changes) else ""
        how = {**plan.how, "config": f"{FITS}{own}: {type(graph.model).__name__}(config) builds the small model"}
        return replace(plan, attributes=changes, how=how), None
    how = {**plan.how, "config": f"{NONE_FITS}: {wrong[1]}"}
    return replace(plan, attributes=(*plan.attributes, *_unread(graph, made, counts)), how=how), wrong


def _changes(graph: Graph, made: Construction, plan: Plan, counts: Mapping[Atom, int]) -> list[AttributeChange]:
    """Attributes that the run didn't read but the constructor sets, the fields of the config among them."""
    values = made.values
    known = {*graph.sizes.definitions, *(Attribute(c.module, c.name, c.path) for c in plan.attributes)}
    found = define(graph.space, [*graph.equations, *made.equations], values)
    new = {a: evaluate(expr, counts, values) for a, expr in found.items() if a not in known and not a.is_unnamed}
    return [AttributeChange(a.module, a.name, a.path, values[a], n) for a, n in new.items() if n != values[a]]


def _unread(graph: Graph, made: Construction, counts: Mapping[Atom, int]) -> Iterator[AttributeChange]:
    """Integers of modules that the run didn't read, as the constructor would set them for the sizes of their module.

    Another path through the module may read them: how often keys are repeated, where attention takes no grouped ones.
    """
    read = {x for e in graph.equations for side in (e.left, e.right) for x in leaves(side)}
    places = [p for p in made.local if isinstance(p, Attribute) and p not in read and p.name != CONFIG and p.module]
    cut = {name for name, axes in graph.tensors.items() if any(a in counts for axis in axes for a in atoms(axis))}
    for path in dict.fromkeys(place.module for place in places):
        if any(name.startswith(f"{path}.") for name in cut):
            yield from _set_alike(graph, made, path, [p for p in places if p.module == path], counts)


def _set_alike(
    graph: Graph, made: Construction, path: str, places: Sequence[Attribute], counts: Mapping[Atom, int]
) -> Iterator[AttributeChange]:
    """``places`` of one module, where fields of a config of its own fit what is known of the module.

    What the constructor says of its attributes alone comes first: a matrix may join sizes that one field gave.
    """
    mine = [made.local[p] for p in made.local if isinstance(p, Attribute) and p.module == path]
    new: dict[Attribute, int] = {}
    for local in (mine, made.within(path)):
        new = {**_fitted(graph, made, path, local, places, counts), **new}
    for place, value in new.items():
        if value != made.values[place]:
            yield AttributeChange(place.module, place.name, place.path, made.values[place], value)


def _fitted(
    graph: Graph,
    made: Construction,
    path: str,
    local: Sequence[Equation],
    places: Sequence[Attribute],
    counts: Mapping[Atom, int],
) -> dict[Attribute, int]:
    """Those of ``places`` that follow from ``local`` and what the run read, if all of it can hold together."""
    read = [e for e in graph.equations if _is_of(e, path)]
    found = define(graph.space, [*read, *with_products(local, made.products)], made.values)
    try:
        new = {place: evaluate(expr, counts, made.values) for place, expr in found.items()}
        values = {**made.values, **new}
        if not all(_holds(graph, e, counts, values) for e in (*read, *local)):
            return {}
        asked = {place: with_products([made.local[place]], made.products) for place in places if place in new}
        return {p: new[p] for p, each in asked.items() if all(_holds(graph, e, counts, values) for e in each)}
    except ZeroDivisionError:
        return {}


def _is_of(e: Equation, path: str) -> bool:
    """Whether all attributes in an equation are of that module, and there is one."""
    found = [x for side in (e.left, e.right) for x in leaves(side) if isinstance(x, Attribute)]
    return not e.soft and bool(found) and all(x.module == path for x in found)


def _holds(graph: Graph, e: Equation, counts: Mapping[Atom, int], values: Mapping[Attribute, int]) -> bool:
    left, right = (evaluate(resolved(side, graph.space), counts, values) for side in (e.left, e.right))
    return left == right


def freeze_misfit(graph: Graph, wrong: tuple[str, str], counts: Mapping[Atom, int]) -> None:
    """Freeze what is cut in the tensor or module that no config fits; where nothing is, in the modules around it."""
    place, reason = wrong
    while True:
        inside = [axes for name, axes in graph.tensors.items() if not place or f"{name}.".startswith(f"{place}.")]
        found = [a for axes in inside for axis in axes for a in atoms(axis) if a in counts]
        if found or not place:
            graph.freeze(found, f"{NONE_FITS}: {reason}")
            return
        place = place.rpartition(".")[0]
