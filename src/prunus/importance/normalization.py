"""What makes the scores of one group comparable with those of another. None of them changes the order in a group."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_TINY = 1e-300


def _mean(scores: Array) -> Array:
    return scores / max(float(np.abs(scores).mean()), _TINY)


def _max(scores: Array) -> Array:
    return scores / max(float(np.abs(scores).max()), _TINY)


def _gaussian(scores: Array) -> Array:
    standard: Array = (scores - scores.mean()) / max(float(scores.std()), _TINY)
    return standard


def _lamp(scores: Array) -> Array:
    """Each over the sum of itself and all higher ones; of equal ones the first counts as higher, as it is kept."""
    order = np.argsort(scores[::-1], kind="stable")  # ascending, the last of equal ones first
    ascending = scores[::-1][order]
    rest = np.cumsum(ascending[::-1])[::-1]
    result = np.empty_like(scores)
    result[len(scores) - 1 - order] = ascending / np.maximum(rest, _TINY)
    return result


NORMALIZATIONS: Mapping[str, Callable[[Array], Array]] = {
    "none": lambda scores: scores,
    "mean": _mean,
    "max": _max,
    "gaussian": _gaussian,
    "lamp": _lamp,
}
