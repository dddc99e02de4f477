"""Whether the small model's own class can build it from a config, and which: said in the Plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from prunus import surgery
from prunus.axes import Atom, atoms
from prunus.foreign import FITS, NONE_FITS
from prunus.plan import Plan
from prunus.sizes import Attribute, define, evaluate
from prunus.surgery import AttributeChange
from prunus.trace import Graph
from prunus.trace.construction import Construction, misfit


def fit(
    graph: Graph, made: Construction, plan: Plan, counts: Mapping[Atom, int]
) -> tuple[Plan, tuple[str, str] | None]:
    """``plan`` with the fields of the config that fit the small model, if there are such; and what doesn't fit.

    ``plan.how["config"]`` says which of the two it is. What fits is checked by building the small model's class.
    """
    wrong = ("", made.refusal) if made.refusal is not None else None
    changes: tuple[AttributeChange, ...] = ()
    if wrong is None:
        try:
            changes = tuple(_changes(graph, made, plan, counts))
            wrong = misfit(surgery.apply(graph.skeleton, plan.kept, (*plan.attributes, *changes)))
        except ZeroDivisionError:
            wrong = "", "a size that the constructor divides by would be zero"
    if wrong is None:
        how = {**plan.how, "config": f"{FITS}: {type(graph.model).__name__}(config) builds the small model"}
        return replace(plan, attributes=(*plan.attributes, *changes), how=how), None
    return replace(plan, how={**plan.how, "config": f"{NONE_FITS}: {wrong[1]}"}), wrong


def _changes(graph: Graph, made: Construction, plan: Plan, counts: Mapping[Atom, int]) -> list[AttributeChange]:
    """Attributes that the run didn't read but the constructor sets, the fields of the config among them."""
    values = made.values
    known = {*graph.sizes.definitions, *(Attribute(c.module, c.name, c.path) for c in plan.attributes)}
    found = define(graph.space, [*graph.equations, *made.equations], values)
    new = {a: evaluate(expr, counts, values) for a, expr in found.items() if a not in known and not a.is_unnamed}
    return [AttributeChange(a.module, a.name, a.path, values[a], n) for a, n in new.items() if n != values[a]]


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
