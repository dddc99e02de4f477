"""Which layers can lose how much? Each group is pruned alone, at several ratios, and the network evaluated."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from torch import nn

from prunus.errors import InputError
from prunus.importance import name_of, score
from prunus.matching import by_pattern
from prunus.sensitivity.candidates import Candidates
from prunus.sensitivity.curves import Row, Sensitivity
from prunus.sensitivity.journal import Journal, identity_of
from prunus.trace import Graph, Group, trace

Evaluate = Callable[[nn.Module], "float | Mapping[str, float]"]
METHODS = ("auto", "small", "masked")


def sensitivity(
    model: nn.Module,
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    *,
    evaluate: Evaluate,
    ratios: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    groups: Sequence[str] | None = None,
    importance: Any = "l2",
    method: str = "auto",
    stop: float | None = None,
    cache: str | os.PathLike[str] | None = None,
    accelerator: Any = None,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> Sensitivity:
    """Measure every free group of ``model``: cut it alone at each ratio and call ``evaluate(network)``.

    The model is traced, and its groups are scored, once. After H. Li et al., "Pruning Filters for Efficient ConvNets",
    2017, section 3.

    Args:
        evaluate: returns a number, higher is better, or ``{name: number}``, of which the first counts; use data that
            is not the test set. It must leave the network as it is.
        ratios: shares to remove, in [0, 1).
        groups: names of the groups to measure, or shell patterns; ``None`` is all that can be cut.
        importance: as in :func:`prunus.plan`.
        method: ``"small"`` evaluates networks that are really smaller, ``"masked"`` the model with zeros in their
            place, where that computes the same (it is compared on the example; where it doesn't, the small one is
            evaluated). ``"auto"`` takes whichever of the two turned out faster.
        stop: once the drop of a group's metric exceeds this, its deeper cuts aren't measured.
        cache: a file that measurements are written to as they are made. The same call goes on from it after any end,
            a killed process too; a point that is in it is not measured again.
        accelerator: an ``accelerate.Accelerator`` whose processes share the groups; each returns the whole result.
        on_progress: called as ``on_progress(done, of, group name)`` after each point.

    Raises:
        InputError: a ratio outside [0, 1), a group that doesn't exist or can't be cut, an evaluation without a number,
            a cache of another model.
    """
    ratios = sorted({_checked(ratio) for ratio in ratios} - {0.0})
    if method not in METHODS:
        raise InputError(f"method must be one of {', '.join(METHODS)}, not {method!r}.")
    graph = trace(model, args, kwargs)
    chosen = _chosen(graph, groups)
    process, processes = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    journal = Journal(cache, identity_of(model, name_of(importance)) if cache else "", process)
    run = _Run(evaluate, Candidates(graph, score(graph, importance)), journal, method, stop)
    run.start(model)
    mine = chosen[process::processes]
    for i, group in enumerate(mine):
        for j, kept in enumerate(_counts(group, ratios)):
            run.measure(group, kept)
            if on_progress is not None:
                on_progress(i * len(ratios) + j + 1, len(mine) * len(ratios), group.name)
    known = _shared(journal.known, accelerator)
    rows = [
        Row(group.name, ratio, group.size, kept, known[group.name, kept])
        for group in chosen
        for ratio, kept in zip(ratios, _counts(group, ratios), strict=True)
        if kept < group.size and (group.name, kept) in known
    ]
    sizes = {group.name: group.size for group in chosen}
    return Sensitivity(known["", 0], tuple(_until(rows, known["", 0], stop)), sizes, type(model).__name__)


class _Run:
    """The points of one process, one after another."""

    def __init__(
        self, evaluate: Evaluate, candidates: Candidates, journal: Journal, method: str, stop: float | None
    ) -> None:
        self.evaluate, self.candidates, self.journal = evaluate, candidates, journal
        self.method, self.stop = method, stop
        self.baseline: Mapping[str, float] = {}
        self.over: set[str] = set()  # groups whose deeper cuts aren't wanted
        self.alike: dict[str, bool] = {}
        self.seconds: dict[str, list[float]] = {"small": [], "masked": []}

    def start(self, model: nn.Module) -> None:
        """Evaluate the uncut model."""
        if ("", 0) not in self.journal.known:
            self.journal.add(("", 0), _metrics(self.evaluate(model), None))
        self.baseline = self.journal.known["", 0]

    def measure(self, group: Group, kept: int) -> None:
        """Evaluate one point, unless it is known, isn't wanted, or can't be made."""
        if kept == group.size or group.name in self.over:
            return
        metrics = self.journal.known.get((group.name, kept))
        if metrics is None:
            value = self._evaluated(group, kept)
            if value is None:
                self.over.add(group.name)
                return
            metrics = _metrics(value, self.baseline)
            self.journal.add((group.name, kept), metrics)
        if self.stop is not None and _drop(metrics, self.baseline) > self.stop:
            self.over.add(group.name)

    def _evaluated(self, group: Group, kept: int) -> float | Mapping[str, float] | None:
        start = time.perf_counter()
        method = "masked" if self._wants_masked() and self._same(group, kept) else "small"
        small = self.candidates.small(group, kept) if method == "small" else None
        if method == "small" and small is None:
            return None
        network = nullcontext(small) if small is not None else self.candidates.masked(group, kept)
        with network as found:
            value = self.evaluate(found)
        self.seconds[method].append(time.perf_counter() - start)
        return value

    def _wants_masked(self) -> bool:
        """By ``auto`` each way is tried twice, then the faster one is taken."""
        if self.method != "auto":
            return self.method == "masked"
        small, masked = self.seconds["small"], self.seconds["masked"]
        if len(small) < 2 or len(masked) < 2:
            return len(small) > len(masked)
        return sum(masked) / len(masked) < sum(small) / len(small)

    def _same(self, group: Group, kept: int) -> bool:
        """Whether zeros compute what the small network does, for this group; tried once."""
        if group.name not in self.alike:
            small = self.candidates.small(group, kept)
            self.alike[group.name] = small is not None and self.candidates.alike(group, kept, small)
        return self.alike[group.name]


def _counts(group: Group, ratios: Sequence[float]) -> list[int]:
    return [group.size - int(ratio * group.size) for ratio in ratios]


def _shared(known: Mapping[Any, Any], accelerator: Any) -> dict[Any, Any]:
    """What all processes measured."""
    if accelerator is None or accelerator.num_processes == 1:
        return dict(known)
    from accelerate.utils import gather_object

    return dict(gather_object(list(known.items())))


def _until(rows: Sequence[Row], baseline: Mapping[str, float], stop: float | None) -> list[Row]:
    """The rows of each group up to the first whose drop exceeds ``stop``: what a run that never stopped has too."""
    over: set[str] = set()
    result = []
    for row in rows:
        if row.group not in over:
            result.append(row)
        if stop is not None and _drop(row.metrics, baseline) > stop and row.group not in over:
            over.add(row.group)
    return result


def _drop(metrics: Mapping[str, float], baseline: Mapping[str, float]) -> float:
    first = next(iter(baseline))
    return baseline[first] - metrics[first]


def _checked(ratio: float) -> float:
    if not 0 <= ratio < 1:
        raise InputError(f"ratio {ratio} is outside [0, 1): it is the share to remove, 0.5 for half.")
    return float(ratio)


def _chosen(graph: Graph, wanted: Sequence[str] | None) -> list[Group]:
    """The groups to measure, in the order asked for."""
    free = {g.name: g for g in graph.free if g.size > 1 and g.atom not in graph.sizes.followers}
    if wanted is None:
        return list(free.values())
    found: dict[str, Group] = {}
    for name in wanted:
        if set("*?[") & set(name):
            hits = by_pattern(graph, list(free.values()), {name: True}, "groups")
            found.update({g.name: g for g in free.values() if g.atom in hits})
            continue
        if name not in free:
            group = graph.group(name)
            why = group.frozen or ("its count follows others" if group.size > 1 else "it has one index")
            raise InputError(f"the group {name!r} can't be cut by itself: {why}.")
        found[name] = free[name]
    return list(found.values())


def _metrics(value: float | Mapping[str, float], like: Mapping[str, float] | None) -> Mapping[str, float]:
    metrics = dict(value) if isinstance(value, Mapping) else {"score": value}
    for name, number in metrics.items():
        if not isinstance(number, int | float) or math.isnan(number):
            raise InputError(f"evaluate() returned {number!r} for {name!r}; it must return numbers, higher is better.")
    if not metrics or (like is not None and set(metrics) != set(like)):
        raise InputError("evaluate() must return the same metrics each time, at least one.")
    return {name: float(number) for name, number in metrics.items()}
