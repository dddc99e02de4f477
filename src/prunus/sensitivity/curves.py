"""What was measured: each group cut alone, at several ratios; as curves, tables, CSV and a plot."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunus.budget import Asked
from prunus.errors import InputError, suggest
from prunus.plan import Plan
from prunus.planning import plan
from prunus.sensitivity.table import PruningTable
from prunus.trace import Graph

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
        model: the model's class.
    """

    baseline: Mapping[str, float]
    rows: tuple[Row, ...]
    sizes: Mapping[str, int]
    model: str = ""

    def table(self, max_drop: float, metric: str | None = None) -> PruningTable:
        """The pruning table: for each group the largest ratio up to which no measured drop exceeds ``max_drop``.

        ``max_drop`` is in the metric's own unit. Groups that bear no cut at all are left out, so that the result can
        be given to :func:`prunus.plan` as ``ratio=``. Each group was measured *alone*: cut together they lose more.
        """
        metric = self._metric(metric)
        found: dict[str, Row] = {}
        for group in self.sizes:
            for row in self._of(group):
                if self.baseline[metric] - row.metrics[metric] > max_drop:
                    break
                found[group] = row
        notes = {g: f"{r.size} -> {r.kept}, {metric} {r.metrics[metric]:g} alone" for g, r in found.items()}
        goal = f"{metric} drops by at most {max_drop:g} from {self.baseline[metric]:g}, each group alone"
        return PruningTable({g: r.ratio for g, r in found.items()}, notes=notes, model=self.model, goal=goal)

    def plan(self, graph: Graph, budget: Asked, metric: str | None = None, **rest: Any) -> Plan:
        """The plan within ``budget`` that loses least by these curves; the other arguments are :func:`prunus.plan`'s.

        The drop of several groups is taken as the sum of their drops: the plan is to be evaluated as a whole.
        """
        return plan(graph, budget=budget, curves=self.curves(metric), **rest)

    def budget_table(self, graph: Graph, budget: Asked, metric: str | None = None, **rest: Any) -> PruningTable:
        """The same plan as a pruning table, for a person to edit."""
        metric = self._metric(metric)
        cut, ratios, notes = self.plan(graph, budget, metric, **rest), {}, {}
        kept = cut.how["kept"]
        for group, size in self.sizes.items():
            if kept.get(group, size) < size:
                ratios[group] = math.ceil(1e6 * (1 - kept[group] / size)) / 1e6
                notes[group] = f"{size} -> {kept[group]}"
        goal = ", ".join(f"{unit} {value}" for unit, value in budget.items())
        return PruningTable(ratios, notes=notes, model=self.model, goal=goal)

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
