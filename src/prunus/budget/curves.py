"""What it costs in quality to keep so many of a group: curves for the solver, lower is better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from prunus.axes import Atom
from prunus.selection import Scores
from prunus.trace import Group

Curve = NDArray[np.float64]
"""``curve[n]`` is the loss where ``n`` indices stay, for n from 0 (never asked for) to the group's size (0.0)."""

_FLOOR = 1e-6
_STEP = 1e-9


def importance_curves(groups: Sequence[Group], scores: Scores, additive: bool = False) -> dict[Atom, Curve]:
    """Minus the logarithm of the share of a group's importance that stays; of *additive* scores, the sum of what goes.

    So the solver seeks the plan in which the *product* of these shares is largest: no group can be used up to save
    others, and shares make groups of any size and scale comparable. Losses that add up are comparable as they are.
    """
    curve = _lost if additive else _kept_share
    return {group.atom: curve(scores[group.atom]) for group in groups}


def _lost(scores: NDArray[np.float64]) -> Curve:
    """A little more for each index, so that none goes for nothing."""
    lowest = np.sort(np.maximum(scores, 0.0)) + _STEP
    curve: Curve = np.concatenate([[0.0], np.cumsum(lowest)])[::-1]
    return curve


def _kept_share(scores: NDArray[np.float64]) -> Curve:
    best = np.sort(np.maximum(scores, 0.0))[::-1]
    total = float(best.sum())
    if total <= 0:
        best, total = np.ones_like(best), float(len(best))
    share = np.concatenate([[0.0], np.cumsum(best) / total])
    curve: Curve = -np.log(np.clip(share, _FLOOR, 1.0))
    return curve


def sensitivity_curves(
    groups: Sequence[Group], points: Mapping[str, Sequence[tuple[float, float]]]
) -> dict[Atom, Curve]:
    """The measured drop of the metric, between the points by straight lines and beyond the last at its steepest.

    ``points`` has (share removed, metric) for each group by name, the uncut model first, as
    :meth:`prunus.Sensitivity.curves` gives it. A drop never becomes smaller as more goes: noise is taken out. Groups
    without points have no curve.
    """
    return {g.atom: _drops(g.size, points[g.name]) for g in groups if len(points.get(g.name, ())) > 1}


def _drops(size: int, points: Sequence[tuple[float, float]]) -> Curve:
    shares = np.array([share for share, _ in points])
    drops = np.maximum.accumulate(points[0][1] - np.array([metric for _, metric in points]))
    gone = 1 - np.arange(size + 1) / size
    slope = float(np.max(np.diff(drops) / np.diff(shares), initial=0.0))
    inside = np.interp(gone, shares, drops)
    beyond = drops[-1] + np.maximum(gone - shares[-1], 0.0) * 4 * max(slope, 1e-9)
    curve: Curve = np.where(gone > shares[-1], beyond, inside) + 1e-9 * gone
    return curve
