"""The cost table of a graph: every layer's time on a grid of its sizes, with straight lines between."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunus.axes import Axes, Axis, atoms, count
from prunus.budget import Cost, Costs
from prunus.budget.polynomial import Counts
from prunus.deploy.latency.layers import Layer
from prunus.operators import Work
from prunus.trace import Graph

_GRID = (0.125, 0.375, 0.6875, 1.0)
_MOST = (
    2  # sizes of one layer that are measured against each other; with more it is taken to cost as its arithmetic does
)

Time = Callable[[Layer], float]


@dataclass(frozen=True)
class Timed:
    """One layer's times: the sizes that may change, the values of each that were measured, and milliseconds."""

    axes: tuple[Axis, ...]
    grids: tuple[tuple[int, ...], ...]
    times: NDArray[np.float64]
    step: int

    def __call__(self, counts: Counts, candidates: int) -> NDArray[np.float64]:
        """Milliseconds of each candidate, by multilinear interpolation; below the grid by the last straight line."""
        places = [self._place(axis, grid, counts, candidates) for axis, grid in zip(self.axes, self.grids, strict=True)]
        result = np.zeros(candidates)
        for corner in itertools.product((0, 1), repeat=len(places)):
            weight = np.ones(candidates)
            index: list[NDArray[np.intp]] = []
            for side, (low, share) in zip(corner, places, strict=True):
                weight = weight * (share if side else 1 - share)
                index.append(low + side)
            result += weight * self.times[tuple(index)]
        return np.maximum(result, float(self.times.min()) * 0.25)

    def _place(
        self, axis: Axis, grid: tuple[int, ...], counts: Counts, candidates: int
    ) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        sizes: Any = count(axis, counts)  # type: ignore[arg-type]
        sizes = np.broadcast_to(np.minimum(-(-np.asarray(sizes) // self.step) * self.step, axis.size), candidates)
        knots = np.array(grid)
        low = np.clip(np.searchsorted(knots, sizes, side="right") - 1, 0, len(knots) - 2)
        share = (sizes - knots[low]) / (knots[low + 1] - knots[low])
        return low, share


class LatencyTable:
    """Milliseconds of the whole model for any candidate: its layers' times, and the rest by what is written to memory.

    Args:
        graph: whose first run's layers are meant.
        time: milliseconds of one layer alone.
        whole: milliseconds of the uncut model, which the estimate is scaled to.
        step: the multiple of sizes that the runtime computes.
    """

    def __init__(self, graph: Graph, time: Time, whole: float, step: int) -> None:
        self.whole = whole
        costs = Costs(graph)
        self._written: Cost = costs.of["activation_memory"]
        self._layers: list[tuple[int, Cost]] = []
        self._now = costs.complete({})
        for work, times in _alike(graph):
            self._layers.append((times, _timed(graph, work, time, step)))
        self.layers_ms = float(self._sum(self._now, 1)[0])
        self.share = min(1.0, self.layers_ms / whole)

    def __call__(self, counts: Counts, candidates: int) -> NDArray[np.float64]:
        """Milliseconds of each candidate."""
        layers = self._sum(counts, candidates) / self.layers_ms
        written = self._written(counts, candidates) / float(self._written(self._now, 1)[0])
        result: NDArray[np.float64] = self.whole * (self.share * layers + (1 - self.share) * written)
        return result

    def _sum(self, counts: Counts, candidates: int) -> NDArray[np.float64]:
        total = np.zeros(candidates)
        for times, layer in self._layers:
            total += times * layer(counts, candidates)
        return total


def _alike(graph: Graph) -> list[tuple[Work, int]]:
    """The layers of the first run, those with the same axes once, and how often each occurs."""
    found: dict[Any, tuple[Work, int]] = {}
    for _, work in graph.runs[0].work:
        now = Work(work.kind, tuple(_now(graph, axes) for axes in work.operands), work.output, work.settings)
        key = (now.kind, now.operands, now.settings)
        found[key] = (now, found.get(key, (now, 0))[1] + 1)
    return list(found.values())


def _now(graph: Graph, axes: Axes) -> Axes:
    return tuple(graph.space.resolve(axis) for axis in axes)


def _timed(graph: Graph, work: Work, time: Time, step: int) -> Cost:
    free = {axis for axes in work.operands for axis in axes if any(graph.space.reason(a) is None for a in atoms(axis))}
    varying = tuple(sorted(free, key=lambda axis: [axis in axes for axes in work.operands], reverse=True))
    grouped = "convolution" in work.kind and work.operands[0][1] != work.operands[1][1] and not _is_depthwise(work)
    if work.kind == "transposed convolution":
        grouped = work.operands[0][1] != work.operands[1][0]
    if len(varying) > _MOST or grouped:
        return _by_arithmetic(graph, work, time)
    grids = tuple(_grid(axis, step) for axis in varying)
    times = np.array(
        [time(_layer(work, dict(zip(varying, sizes, strict=True)))) for sizes in itertools.product(*grids)]
    )
    return Timed(varying, grids, times.reshape([len(grid) for grid in grids]), step)


def _is_depthwise(work: Work) -> bool:
    x, weight = work.operands
    return work.kind == "convolution" and weight[1].size == 1 and x[1] == weight[0]


def _grid(axis: Axis, step: int) -> tuple[int, ...]:
    sizes = {min(axis.size, max(1, round(share * axis.size / step) * step)) for share in _GRID}
    return tuple(sorted({*sizes, axis.size} if len({*sizes, axis.size}) > 1 else {1, axis.size}))


def _layer(work: Work, sizes: dict[Axis, int]) -> Layer:
    shapes = tuple(tuple(sizes.get(axis, axis.size) for axis in axes) for axes in work.operands)
    return Layer(work.kind, shapes, work.settings)


def _by_arithmetic(graph: Graph, work: Work, time: Time) -> Cost:
    """A layer whose sizes are too many to measure: its time now, times what is left of its multiplications."""
    now, full = time(_layer(work, {})), _macs(work.products, {}, 1)

    def cost(counts: Counts, candidates: int) -> NDArray[np.float64]:
        share: NDArray[np.float64] = _macs(work.products, counts, candidates) / full
        return now * share

    return cost


def _macs(products: Sequence[Axes], counts: Counts, candidates: int) -> NDArray[np.float64]:
    total = np.zeros(candidates)
    for axes in products:
        value = np.ones(candidates)
        for axis in axes:
            value = value * np.asarray(count(axis, counts))  # type: ignore[arg-type]
        total += value
    return total
