"""Which layers can lose how much? Each group is pruned alone, at several ratios, and the small network evaluated."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import prunus
from prunus.errors import InputError, NothingToPrune, suggest

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import nn

    from prunus.trace import Graph

Evaluate = Callable[["nn.Module"], "float | Mapping[str, float]"]


@dataclass(frozen=True)
class Row:
    """One measurement: ``group`` alone cut from ``size`` to ``kept`` indices, and what that left of each metric."""

    group: str
    ratio: float
    size: int
    kept: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Sensitivity:
    """The measurements, in the order they were made: group by group, by ascending ratio.

    Attributes:
        baseline: the metrics of the model as it was given.
        rows: one per group and ratio; ratios that remove nothing (of a group of 6, say, 0.1) are left out.
        sizes: group name -> its size, for every group that was measured.
    """

    baseline: Mapping[str, float]
    rows: tuple[Row, ...]
    sizes: Mapping[str, int]

    def table(self, max_drop: float, metric: str | None = None) -> dict[str, float]:
        """The pruning table: for each group the largest ratio up to which no measured drop exceeds ``max_drop``.

        ``max_drop`` is in the metric's own unit. Groups that bear no cut at all are left out, so that the result can
        be given to :func:`prunus.plan` as ``ratio=``. Each group was measured *alone*: cut together they lose more.
        """
        metric = self._metric(metric)
        found: dict[str, float] = {}
        for group in self.sizes:
            for row in self._of(group):
                if self.baseline[metric] - row.metrics[metric] > max_drop:
                    break
                found[group] = row.ratio
        return found

    def curves(self, metric: str | None = None) -> dict[str, list[tuple[float, float]]]:
        """Group name -> ``(share removed, metric)`` points, from the uncut model on."""
        metric = self._metric(metric)
        start = (0.0, self.baseline[metric])
        shares = {
            group: {1 - row.kept / row.size: row.metrics[metric] for row in self._of(group)} for group in self.sizes
        }
        return {group: [start, *points.items()] for group, points in shares.items()}

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write one line per measurement; the first line after the header is the uncut model."""
        names = list(self.baseline)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["group", "ratio", "size", "kept", *names])
        writer.writerow(["", 0, "", "", *(self.baseline[name] for name in names)])
        for row in self.rows:
            writer.writerow([row.group, row.ratio, row.size, row.kept, *(row.metrics[name] for name in names)])
        Path(path).write_text(text.getvalue(), encoding="utf-8")

    def plot(self, path: str | os.PathLike[str] | None = None, metric: str | None = None) -> Figure:
        """Draw the curves with Matplotlib; save them where a path is given (the ending says the format)."""
        from prunus.report.charts import sensitivity_figure

        metric = self._metric(metric)
        figure = sensitivity_figure(self.curves(metric), ylabel=metric)
        if path is not None:
            figure.savefig(path)
        return figure

    def __str__(self) -> str:
        metric = self._metric(None)
        lines = [f"{metric} of the uncut model: {self.baseline[metric]:g}"]
        for group, points in self.curves(metric).items():
            steps = "  ".join(f"-{share:.0%}: {value:g}" for share, value in points[1:])
            lines.append(f"{group} ({self.sizes[group]})  {steps}")
        return "\n".join(lines)

    def _of(self, group: str) -> list[Row]:
        return [row for row in self.rows if row.group == group]

    def _metric(self, name: str | None) -> str:
        if name is None:
            return next(iter(self.baseline))
        if name not in self.baseline:
            raise InputError(f"no metric {name!r} was measured.{suggest(name, self.baseline)}")
        return name


def sensitivity(
    model: nn.Module,
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    *,
    evaluate: Evaluate,
    ratios: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    groups: Sequence[str] | None = None,
    importance: Any = "l2",
    on_progress: Callable[[int, int, str], None] | None = None,
) -> Sensitivity:
    """Measure every free group of ``model``: cut it alone at each ratio and call ``evaluate(small)``.

    The small networks are real (built from a :class:`prunus.Plan`), so the evaluation gets faster as the cut gets
    deeper; the model is traced once. After H. Li et al., "Pruning Filters for Efficient ConvNets", 2017, section 3.

    Args:
        evaluate: returns a number, higher is better, or ``{name: number}``; use data that is not the test set.
        ratios: shares to remove, in [0, 1).
        groups: names of the groups to measure; ``None`` is all that can be cut.
        importance: as in :func:`prunus.plan`.
        on_progress: called as ``on_progress(done, of, group name)`` after each evaluation.

    Raises:
        InputError: a ratio outside [0, 1), a group that doesn't exist or can't be cut, an evaluation without a number.
    """
    ratios = sorted({_checked(ratio) for ratio in ratios} - {0.0})
    graph = prunus.trace(model, args, kwargs)
    sizes = _chosen(graph, groups)
    baseline = _metrics(evaluate(model), None)
    rows: list[Row] = []
    for i, (name, size) in enumerate(sizes.items()):
        known: dict[int, Mapping[str, float]] = {}
        for j, ratio in enumerate(ratios, start=1):
            kept = size - int(ratio * size)
            if kept not in known and kept < size:
                small = _cut(graph, model, name, ratio, importance)
                if small is None:
                    break
                known[kept] = _metrics(evaluate(small), baseline)
            if kept < size:
                rows.append(Row(name, ratio, size, kept, known[kept]))
            if on_progress is not None:
                on_progress(i * len(ratios) + j, len(sizes) * len(ratios), name)
    return Sensitivity(baseline, tuple(rows), sizes)


def _checked(ratio: float) -> float:
    if not 0 <= ratio < 1:
        raise InputError(f"ratio {ratio} is outside [0, 1): it is the share to remove, 0.5 for half.")
    return float(ratio)


def _chosen(graph: Graph, wanted: Sequence[str] | None) -> dict[str, int]:
    """Name -> size of the groups to measure, in the order asked for."""
    free = {g.name: g.size for g in graph.free if g.size > 1 and g.atom not in graph.sizes.followers}
    if wanted is None:
        return free
    for name in wanted:
        if name not in free:
            group = graph.group(name)
            why = group.frozen or ("its count follows others" if group.size > 1 else "it has one index")
            raise InputError(f"the group {name!r} can't be cut by itself: {why}.")
    return {name: free[name] for name in wanted}


def _cut(graph: Graph, model: nn.Module, name: str, ratio: float, importance: Any) -> nn.Module | None:
    """The small network, or None where planning finds that the group can't be cut after all (it is frozen then)."""
    try:
        return prunus.plan(graph, ratio={name: ratio}, importance=importance).apply(model)
    except (InputError, NothingToPrune):
        if graph.group(name).frozen is None:
            raise
        return None


def _metrics(value: float | Mapping[str, float], like: Mapping[str, float] | None) -> Mapping[str, float]:
    metrics = dict(value) if isinstance(value, Mapping) else {"score": value}
    for name, number in metrics.items():
        if not isinstance(number, int | float) or math.isnan(number):
            raise InputError(f"evaluate() returned {number!r} for {name!r}; it must return numbers, higher is better.")
    if not metrics or (like is not None and set(metrics) != set(like)):
        raise InputError("evaluate() must return the same metrics each time, at least one.")
    return {name: float(number) for name, number in metrics.items()}
