"""Redundancy in the weights: what is like the others can be spared."""

from __future__ import annotations

import torch
from torch import Tensor

from prunus.importance.context import Context, Found, Place


def fpgm(context: Context) -> Found:
    """The sum of the distances to all other indices, over all weights that go with them.

    He et al., "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration" (CVPR 2019),
    eq. 6: the filters nearest to the geometric median go first.
    """
    return _over_rows(context, lambda rows: torch.cdist(rows, rows).sum(1))


def cosine(context: Context) -> Found:
    """One minus the largest ``|cosine|`` with another index: of near-parallel ones, all but one may go.

    After Ayinde, Inanc, Zurada, "Redundant feature pruning for accelerated inference in deep neural networks" (2019),
    eq. 1. So that a pair isn't lost together, an index is compared with those of larger norm alone.
    """

    def score(rows: Tensor) -> Tensor:
        norms = rows.norm(dim=1)
        alike = (rows @ rows.T).abs() / (norms[:, None] * norms).clamp(min=1e-300)
        rank = torch.argsort(torch.argsort(-norms, stable=True))
        larger = rank[None, :] < rank[:, None]
        nearest = (alike * larger).amax(1)
        return torch.where(norms > 0, 1 - nearest.clamp(max=1), -1.0)

    return _over_rows(context, score)


def _over_rows(context: Context, score: object) -> Found:
    found: dict[Place, Tensor] = {}
    for group in context.graph.free:
        rows = context.rows(group)
        if rows.shape[1]:
            found[group] = score(rows)  # type: ignore[operator]
    return found
