"""The plots. Each is a Matplotlib figure made without pyplot, so that no global state or window is touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from prunus.report.groups import Network

INK, MUTED, GRID, PALE = "#1c2126", "#5b6570", "#d9dee4", "#c3ccd6"
SERIES = ("#1f6fd1", "#c8560a", "#1d8a5b", "#7a49c2", "#b8336a", "#0b7c8c", "#8a6d00", "#596273")
MARKERS = "osD^vPX*"
KINDS = {"free": SERIES[2], "follows": SERIES[6], "frozen": PALE}

Curves = Mapping[str, Sequence[tuple[float, float]]]


def sensitivity_figure(curves: Curves, *, ylabel: str) -> Figure:
    """One curve per group: the metric against the share of the group's indices that is removed, in percent."""
    figure, axes = _canvas(5.6, 3.5)
    for index, (name, points) in enumerate(curves.items()):
        shares, values = [100 * x for x, _ in points], [y for _, y in points]
        axes.plot(shares, values, color=_colour(index), marker=MARKERS[index % 8], markersize=4.5, label=name)
    axes.set_xlabel("removed from this layer alone (%)")
    axes.set_ylabel(ylabel)
    axes.set_xlim(-2, 100)
    axes.legend(frameon=False, loc="best", labelcolor=INK)
    return figure


def training_figure(runs: Mapping[str, Sequence[float]], *, ylabel: str) -> Figure:
    """One curve per run: the metric after each epoch, counted from 1."""
    figure, axes = _canvas(5.6, 2.9)
    for index, (name, values) in enumerate(runs.items()):
        epochs = range(1, len(values) + 1)
        axes.plot(epochs, values, color=_colour(index), marker=MARKERS[index % 8], markersize=4.5, label=name)
    axes.set_xlabel("epoch")
    axes.set_ylabel(ylabel)
    axes.locator_params(axis="x", integer=True)
    axes.legend(frameon=False, loc="lower right", labelcolor=INK)
    return figure


def widths_figure(widths: Mapping[str, tuple[int, int]]) -> Figure:
    """For each layer, a pale bar as wide as it was with a solid one as wide as it is, both in percent of before."""
    figure, axes = _canvas(5.6, 0.9 + 0.36 * len(widths))
    names = list(widths)
    for place, (before, after) in enumerate(widths.values()):
        axes.barh(place, 100, height=0.62, color=PALE)
        axes.barh(place, 100 * after / before, height=0.62, color=SERIES[0])
        axes.text(103, place, f"{before} → {after}", va="center", color=INK)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 128)
    axes.set_xticks([0, 25, 50, 75, 100])
    axes.set_xlabel("outputs of the layer that remain (%)")
    axes.grid(False, axis="y")
    return figure


def speedup_figure(speedups: Mapping[str, float]) -> Figure:
    """One bar per runtime: how many times faster the small model is. 1 means no gain."""
    figure, axes = _canvas(5.6, 0.9 + 0.36 * len(speedups))
    for place, value in enumerate(speedups.values()):
        axes.barh(place, value, height=0.62, color=SERIES[0])
        axes.annotate(f"{value:.2f}×", (value, place), (5, 0), textcoords="offset points", va="center", color=INK)
    axes.axvline(1, color=MUTED, linewidth=1, linestyle=(0, (3, 3)))
    axes.set_yticks(range(len(speedups)), list(speedups))
    axes.invert_yaxis()
    axes.set_xlim(0, 1.2 * max([1.0, *speedups.values()]))
    axes.set_xlabel("times faster than the unpruned model (dashed: equal)")
    axes.grid(False, axis="y")
    return figure


def tradeoff_figure(points: Sequence[tuple[float, float, float | None]]) -> Figure:
    """A point per ratio: parts of the parameters and MACs that are left, against the score or, without, each other."""
    figure, axes = _canvas(5.6, 3.1)
    parameters, macs = [100 * p for p, _, _ in points], [100 * m for _, m, _ in points]
    scores = [score for _, _, score in points if score is not None]
    if scores:
        axes.plot(macs, scores, color=SERIES[0], marker="o", markersize=4.5, label="MACs left (%)")
        axes.plot(parameters, scores, color=SERIES[1], marker="s", markersize=4.5, label="parameters left (%)")
        axes.legend(frameon=False, loc="best", labelcolor=INK)
        axes.set_ylabel("score")
    else:
        axes.plot(parameters, macs, color=SERIES[0], marker="o", markersize=4.5)
        axes.set_xlabel("parameters left (%)")
        axes.set_ylabel("MACs left (%)")
    axes.set_xlim(102, 0)
    return figure


def groups_figure(network: Network) -> Figure:
    """A row per group, as long a bar as its share of the parameters; arcs for the weights from one group to another.

    Solid arcs lead to a later group of the model, dashed ones back to an earlier one.
    """
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    nodes, reach = network.nodes, max((abs(a - b) for a, b, _ in network.links), default=1)
    figure, axes = _canvas(8.0, 0.7 + 0.24 * len(nodes))
    for place, node in enumerate(nodes):
        axes.barh(place, 100 * node.share, height=0.62, color=KINDS[node.kind])
        axes.text(100 * node.share + 1, place, f"{node.name}  {node.size}", va="center", color=INK, fontsize=8)
    for a, b, _ in network.links:
        out = -2 - 28 * abs(a - b) / reach
        curve = Path([(-1, a), (out, a), (out, b), (-1, b)], [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4])
        style = "solid" if a <= b else "dashed"
        axes.add_patch(PathPatch(curve, fill=False, edgecolor=MUTED, linewidth=0.7, linestyle=style, alpha=0.7))
    for text, colour in (("can be cut", "free"), ("follows others", "follows"), ("frozen", "frozen")):
        axes.barh([0], [0], color=KINDS[colour], label=text)
    axes.legend(frameon=False, loc="lower right", labelcolor=INK, fontsize=8)
    axes.set_yticks([])
    axes.set_ylim(len(nodes) - 0.4, -0.6)
    axes.set_xlim(-30, 130)
    axes.set_xticks([0, 25, 50, 75, 100])
    axes.set_xlabel("share of the parameters that the group runs through (%)")
    axes.grid(False, axis="y")
    return figure


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure of ``width`` x ``height`` inches with quiet axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.tick_params(colors=MUTED, labelcolor=INK, length=0)
    axes.xaxis.label.set_color(MUTED)
    axes.yaxis.label.set_color(MUTED)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _colour(index: int) -> str:
    return SERIES[index % len(SERIES)]
