"""Graph and scores to Plan: choose what goes, predict the small model, and check the prediction by running it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from prunus import surgery
from prunus.axes import Atom, Keep, atoms, count, keep_vector
from prunus.budget import (
    Asked,
    Points,
    Request,
    confirmed,
    counts_within,
    explained,
    latency_cost,
    read,
    shared_out,
)
from prunus.errors import InputError, NothingToPrune, PlanError
from prunus.fitting import fit, freeze_misfit
from prunus.heads import needed
from prunus.importance import Criterion, Importance, Loss, cross_entropy, name_of, resolve, score
from prunus.layers import layer_changes, mirrored_changes
from prunus.limits import Least, Limits, Multiple
from prunus.plan import Plan
from prunus.running import uncollected
from prunus.selection import Scores, check_ratio, choose_counts, choose_indices
from prunus.surgery import AttributeChange
from prunus.trace import Graph, trace
from prunus.trace.construction import Construction, construction, has_config, tied
from prunus.trace.modes import Record
from prunus.trace.run import record_shapes
from prunus.trace.standins import carry_shadows

_ATTEMPTS = 25

Choose = Callable[..., tuple[dict[Atom, int], dict[str, Any]]]
"""From the graph and its scores: counts, and what to tell of them in the plan."""


def plan(
    graph_or_model: Graph | nn.Module,
    args: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    ratio: float | Mapping[str, float] | None = None,
    budget: Asked | None = None,
    curves: Points | None = None,
    runtime: Any = None,
    importance: str | Criterion | Importance | None = None,
    scope: str | None = None,
    keep: Sequence[str] = (),
    min_keep: Least = 1,
    max_keep: Least | None = None,
    round_to: Multiple | None = None,
    uniform: bool = False,
    data: Iterable[Any] | None = None,
    loss: Loss = cross_entropy,
) -> Plan:
    """Decide what to cut.

    Args:
        graph_or_model: what :func:`prunus.trace` returned, or a model, which is traced on ``args`` and ``kwargs``.
        ratio: the part of every group's indices that goes, in [0, 1), by default 0.5; or a dict to such parts from
            names of groups, modules or tensors, or shell patterns of them. A group's own name counts before patterns,
            of those the first that matches, names of groups before others; groups that nothing matches are left alone.
        importance: a name of ``prunus.importance.CRITERIA``, an ``Importance``, or a function: from a parameter's name
            and the parameter to a saliency of the same shape, or from a ``Context`` to scores; see docs/criteria.md.
            By default ``"auto"`` with data, how far the outputs move for what the best refit leaves, else ``"l2"``.
        scope: whose scores are compared: ``"local"`` takes the ratio from each group, ``"global"`` from all together,
            ``"isomorphic"`` from those together that run through the same kinds of tensors; ``"shared"`` keeps the
            MACs that the ratio of every group would leave, fractions counted, shared out among the groups so that
            the least is lost. By default a ratio is shared where the scores are additive, as those of ``"auto"`` are,
            and else local; a dict of ratios is always local. A budget is global, which means shared, or local: the
            same ratio from each group.
        keep: names of groups, modules, tensors, or shell patterns of them, that stay as they are.
        min_keep, max_keep: how many indices of a group stay at least and at most: an int, a float as a part of it, or a
            dict by pattern. ``max_keep`` cuts more than the ratio asks, where it asks less.
        round_to: round the sizes that are left up to a multiple of this; a target (``"cuda-fp16"``) stands for its own,
            a dict gives them by pattern.
        uniform: tie the counts of layers so that one config fits the small model, and its own class can build it: what
            transformers' ``save_pretrained`` and ``from_pretrained`` need. Without it every layer has a count of its
            own; ``how["config"]`` of the result says whether a config fits all the same.
        data, loss: batches, and ``loss(model, batch) -> scalar``, for criteria that need them.

    Raises:
        InputError: an argument is wrong.
        NothingToPrune: nothing would go; the message says why.
        PlanError: the budget can't be met; the message shows the least that can be reached.
    """
    graph = graph_or_model if isinstance(graph_or_model, Graph) else trace(graph_or_model, args, kwargs)
    limits = Limits(min_keep, max_keep, round_to)
    if importance is None:
        importance = "l2" if data is None else "auto"
    additive = resolve(importance).additive
    if budget is None:
        ratio = 0.5 if ratio is None else ratio
        asked: dict[str, Any] = {"ratio": dict(ratio) if isinstance(ratio, Mapping) else ratio}
        scope = scope or ("shared" if additive and not isinstance(ratio, Mapping) else "local")
        choose = _by_ratio(ratio, Request((), scope, keep, limits, curves, additive), runtime)
    else:
        asked = {"budget": budget}
        scope = scope or "global"
        choose = _by_budget(graph, ratio, Request(read(budget), scope, keep, limits, curves, additive), runtime)
    made = construction(graph) if uniform or has_config(graph.model) else None
    if made is not None and uniform:
        graph = tied(graph, made)
    scores = score(graph, importance, data, loss)
    how = {
        **asked,
        "importance": name_of(importance),
        "scope": scope,
        "keep": list(keep),
        **limits.told(),
        **({"uniform": True} if uniform else {}),
    }
    work = _Decision(graph, scores, made, uniform, {**asked, "keep": list(keep)}, how)
    latency = next((limit for limit in read(budget) if limit.unit == "latency"), None) if budget else None
    if latency is None or not callable(getattr(runtime, "compare", None)):
        return work.plan(choose)
    return confirmed(lambda factor: work.plan(partial(choose, factor=factor)), graph, latency, runtime)


@dataclass(frozen=True)
class _Decision:
    """All that a plan is made from but the counts."""

    graph: Graph
    scores: Scores
    made: Construction | None
    uniform: bool
    asked: Mapping[str, Any]
    how: Mapping[str, Any]

    def plan(self, choose: Choose) -> Plan:
        """Choose counts, make the plan, and run its skeleton; where something doesn't follow, freeze it and go on."""
        graph, made = self.graph, self.made
        for _ in range(_ATTEMPTS):
            counts, told = choose(graph, self.scores)
            if not counts:
                raise NothingToPrune(_why_nothing(graph, self.asked))
            with uncollected():
                result = make_plan(graph, choose_indices(self.scores, counts), {**self.how, **told})
                small = holding(graph, result, counts, reused=made is not None)
            if small is None:
                continue
            if made is None:
                return _explained(graph, result, counts)
            result, wrong = fit(graph, made, result, counts, small)
            if wrong is None or not self.uniform:
                return _explained(graph, result, counts)
            freeze_misfit(graph, wrong, counts)
        raise PlanError(
            f"no plan was found in {_ATTEMPTS} attempts: {type(graph.model).__name__} keeps resisting. "
            "Print the graph and name the groups that fail in keep=[...]."
        )


def _explained(graph: Graph, plan: Plan, counts: Mapping[Atom, int]) -> Plan:
    """The plan with what it saves and what is frozen, for :meth:`Plan.explain`."""
    return replace(plan, how={**plan.how, "explained": explained(graph, counts)})


def _by_ratio(ratio: float | Mapping[str, float], request: Request, runtime: Any) -> Choose:
    if request.curves is not None or runtime is not None:
        raise InputError("curves and runtime serve a budget: give one, such as budget={'macs': '60%'}.")
    one = None if isinstance(ratio, Mapping) else check_ratio(ratio)
    shared = request.scope == "shared"
    if shared and one is None:
        raise InputError(
            "scope='shared' takes one ratio and chooses each group's; a dict of ratios has chosen already."
        )
    scope = "local" if shared else request.scope

    def choose(graph: Graph, scores: Scores) -> tuple[dict[Atom, int], dict[str, Any]]:
        found = shared_out(graph, scores, one, request) if shared and one is not None else None
        return found or (choose_counts(graph, scores, ratio, scope, request.keep, request.bounds), {})

    return choose


def _by_budget(graph: Graph, ratio: Any, request: Request, runtime: Any) -> Choose:
    if ratio is not None:
        raise InputError("give a ratio or a budget, not both: the budget says how much goes.")
    timed = any(limit.unit == "latency" for limit in request.limits)
    latency_cost(graph, runtime)  # refused early, and kept by the runtime
    return partial(_within, request=request, runtime=runtime if timed else None)


def _within(
    graph: Graph, scores: Scores, request: Request, runtime: Any, factor: float = 1.0
) -> tuple[dict[Atom, int], dict[str, Any]]:
    """Counts within the budget, with ``factor`` on the limit of latency."""
    limits = tuple(limit.times(factor) if limit.unit == "latency" else limit for limit in request.limits)
    return counts_within(graph, scores, replace(request, limits=limits, more=latency_cost(graph, runtime)))


def make_plan(graph: Graph, keep: Mapping[Atom, Keep], how: Mapping[str, Any]) -> Plan:
    """The Plan that keeps the given indices of each atom, with every integer that follows."""
    kept: dict[str, dict[int, tuple[int, ...]]] = {}
    cache: dict[Any, tuple[int, ...]] = {}
    for name, axes in graph.tensors.items():
        for dim, axis in enumerate(axes):
            if any(atom in keep for atom in atoms(axis)):
                if axis not in cache:
                    cache[axis] = tuple(np.flatnonzero(keep_vector(axis, keep)).tolist())
                kept.setdefault(name, {})[dim] = cache[axis]
    shapes = {name: tuple(axis.size for axis in axes) for name, axes in graph.tensors.items()}
    plan = Plan(shapes, kept, (), how)
    freed = needed(graph.model, plan.shape_after)
    return replace(plan, attributes=tuple(_attributes(graph, plan, keep)), freed=freed)


def _attributes(graph: Graph, plan: Plan, keep: Mapping[Atom, Keep]) -> list[AttributeChange]:
    counts = {atom: int(mask.sum()) for atom, mask in keep.items()}
    new = graph.sizes.attributes(counts)
    changes = [AttributeChange(a.module, a.name, a.path, graph.sizes.values[a], n) for a, n in new.items()]
    known = {(a.module, a.name): new.get(a, graph.sizes.values[a]) for a in graph.sizes.definitions}
    changes += mirrored_changes(graph.model, changes.copy())
    return changes + list(layer_changes(graph.model, plan.shape_after, known))


def holding(graph: Graph, plan: Plan, counts: Mapping[Atom, int], reused: bool = False) -> nn.Module | None:
    """The small skeleton, if in a run every operator is as predicted; else None, and what doesn't follow is frozen.

    Only if it is to be ``reused`` is it as it was before the run.
    """
    small = surgery.apply(graph.skeleton, plan.kept, plan.attributes)
    own = carry_shadows(graph.skeleton, small, plan.kept)
    for run in graph.runs:
        last = run is graph.runs[-1] and not reused
        found, error = record_shapes(small, run, graph.real, last=last, own=own.values())
        at = _first_difference(graph, run.records, found, counts)
        if at is not None or error is not None:
            old, new = at or (len(found), len(found))
            strayed = old < len(run.records) and new < len(found) and found[new].name != run.records[old].name
            _freeze_at(graph, run.records, old, counts, error, strayed)
            return None
    return small


def _first_difference(
    graph: Graph, expected: Sequence[Record], found: Sequence[Record], counts: Mapping[Atom, int]
) -> tuple[int, int] | None:
    """The places in both where the run departs from the prediction; None if it doesn't."""
    old, new = _without_copies(expected), _without_copies(found)
    for (i, a), (j, b) in zip(old, new, strict=False):
        shapes = tuple(tuple(count(graph.space.resolve(axis), counts) for axis in axes) for axes in a.outputs)
        if (_plain(a.name), a.numbers, a.reads, shapes) != (_plain(b.name), b.numbers, b.reads, b.outputs):
            return i, j
    if len(old) == len(new):
        return None
    return (old[len(new)][0], len(found)) if len(new) < len(old) else (len(expected), new[len(old)][0])


def _without_copies(records: Sequence[Record]) -> list[tuple[int, Record]]:
    """With their places, the operators that compute: whether ``reshape`` has to copy depends on sizes of one."""
    return [(i, record) for i, record in enumerate(records) if record.name != "aten::clone"]


def _plain(name: str) -> str:
    return "aten::view" if name == "aten::_unsafe_view" else name


def _freeze_at(
    graph: Graph,
    records: Sequence[Record],
    at: int,
    counts: Mapping[Atom, int],
    error: Exception | None,
    strayed: bool,
) -> None:
    """Freeze the atoms that are cut where the small model first departs from the prediction.

    Where it runs another operator (it *strayed*), that is most often because a size of one takes a path of its own, as
    queries do that need no repeated keys: then the atoms with one index left keep two.
    """
    at = min(at, len(records) - 1)
    where = records[at].module or "the model"
    twins = _twins(graph, records, at)
    if strayed:
        modules = {records[i].module for i in twins}
        single = {atom: n for atom, n in counts.items() if n == 1}
        found = [atom for r in records if r.module in modules for atom in _cut_in(graph, r, single)]
        if found:
            graph.keep_two(found, f"{where} takes another path where one index is left")
            return
    why = f": {type(error).__name__}: {error}" if error is not None else ""
    reason = f"{records[at].name} in {where} doesn't follow the cut{why}"
    found = [atom for i in twins for atom in _last_cut(graph, records, i, counts)]
    if not found:
        raise PlanError(f"the small model doesn't follow the prediction: {reason}")
    graph.freeze(found, reason)


def _twins(graph: Graph, records: Sequence[Record], at: int) -> list[int]:
    """The call at ``at``; and where such a call of such a module failed before, its like in all other such modules.

    Once may be a coincidence, twice is the class: eighty layers must not take eighty attempts.
    """
    seen: dict[str, int] = defaultdict(int)
    kinds = []
    for record in records:
        kinds.append((type(graph.skeleton.get_submodule(record.module)), record.name, seen[record.module]))
        seen[record.module] += 1
    if kinds[at] in graph.failures:
        return [i for i, kind in enumerate(kinds) if kind == kinds[at]]
    graph.failures.add(kinds[at])
    return [at]


def _last_cut(graph: Graph, records: Sequence[Record], at: int, counts: Mapping[Atom, int]) -> list[Atom]:
    """The atoms that are cut in the outputs of the call at ``at``, or of the last one before it that has any."""
    return next((found for i in range(at, -1, -1) if (found := _cut_in(graph, records[i], counts))), [])


def _cut_in(graph: Graph, record: Record, counts: Mapping[Atom, int]) -> list[Atom]:
    """The atoms in the outputs of an operator call that are in ``counts``."""
    return [a for axes in record.outputs for axis in axes for a in atoms(graph.space.resolve(axis)) if a in counts]


def _why_nothing(graph: Graph, asked: Mapping[str, Any]) -> str:
    free = graph.free
    if not free:
        reasons = list(dict.fromkeys(g.frozen for g in graph.groups if g.frozen))
        return "nothing can be cut, every axis is frozen: " + "; ".join(reasons[:5]) + ". See print(prunus.trace(...))."
    largest = max(g.size for g in free)
    request = " with ".join(f"{name}={value!r}" for name, value in asked.items() if value)
    return (
        f"{request} removes nothing: {len(free)} groups can be cut, the largest has {largest} indices. "
        "Ask for a larger ratio, keep less, or round less."
    )
