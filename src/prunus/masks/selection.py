"""From scores to masks, by exact counts: ties never take more than was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from prunus.errors import InputError
from prunus.masks.units import SUM, Grid, Pattern, Tiles

Masks = dict[str, Tensor]


@dataclass(frozen=True)
class Pool:
    """The units that compete with each other, over one tensor or over all: scores, weights in each, which are left."""

    scores: Tensor
    sizes: Tensor
    alive: Tensor

    def losers(self, sparsity: float, *, single: bool) -> Tensor:
        """Indices of the units still alive that must go for ``sparsity`` (a share of the weights), lowest scores first.

        Where all units have one size the count is exact, rounded as Python does; else it is the count of lowest units
        that brings the weights nearest to the share. Among equal scores ``torch.topk`` chooses: from below for single
        weights and from above for larger units, as torch.nn.utils.prune does, so that both choose the same.
        """
        if single and self._all_alike():
            return _lowest(self.scores, round(sparsity * len(self.scores)))
        places = self.alive.nonzero().squeeze(1)
        scores, sizes = self.scores[places], self.sizes[places]
        dead = int(self.sizes[~self.alive].sum())
        count = self._count(scores, sizes, sparsity, dead)
        if count <= 0:
            return places[:0]
        if single:
            return places[scores.topk(count, largest=False, sorted=False).indices]
        kept = scores.topk(len(places) - count, sorted=False).indices
        gone = torch.ones_like(places, dtype=torch.bool)
        gone[kept] = False
        return places[gone]

    def _all_alike(self) -> bool:
        """Whether all are left, and of one size: an expanded one, as single weights have it."""
        return self.sizes.stride() == (0,) and int(self.alive.count_nonzero()) == len(self.alive)

    def _count(self, scores: Tensor, sizes: Tensor, sparsity: float, dead: int) -> int:
        if len(sizes) == 0:
            return 0
        if bool((self.sizes == self.sizes[0]).all()):
            return round(sparsity * len(self.sizes)) - (len(self.sizes) - len(sizes))
        wanted = sparsity * int(self.sizes.sum()) - dead
        totals = sizes[scores.argsort(stable=True)].cumsum(0)
        reached = torch.cat([totals.new_zeros(1), totals]).double()
        return int((reached - wanted).abs().argmin())


def _lowest(scores: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` lowest: by a threshold, which takes a fifth of the memory of topk, unless it ties.

    On a GPU by topk: torch refuses ``kthvalue`` there where only deterministic algorithms are allowed.
    """
    if count > 0 and scores.device.type == "cpu":
        lost = scores <= scores.kthvalue(count).values
        if int(lost.count_nonzero()) == count:
            return lost.nonzero().squeeze(1)
    return scores.topk(count, largest=False, sorted=False).indices


def choose(
    scores: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    sparsity: float | Mapping[str, float],
    *,
    units: Tiles,
    reduction: float | str,
    scope: str,
) -> Masks:
    """New masks in which, counted over each tensor, over each row or over all, ``sparsity`` of the weights are gone.

    Args:
        scores: name -> a score for each weight, in its shape, or (drawn by chance) one for each unit, in a line; units
            with the lowest go first.
        masks: name -> True where a weight is still there; what is gone stays gone.
        reduction: "sum", or the order of the norm, that makes one score of a unit's.
        scope: "local", "global" or "row" (each row of the weight matrix by itself; single weights only). Globally the
            mean (for norms the root mean, and so on) is compared, so that large units don't win by size.
    """
    single = units.text == "weight"
    if scope == "row":
        return {n: _by_row(scores[n], masks[n], _share(sparsity, n)) for n in masks}
    grids = {name: units.grid(mask, name) for name, mask in masks.items()}
    pools = {n: _pool(n, grids[n], scores[n], masks[n], reduction, scope) for n in masks}
    gone = {name: ~pool.alive for name, pool in pools.items()}
    if scope == "local":
        for name, pool in pools.items():
            gone[name][pool.losers(_share(sparsity, name), single=single)] = True
    else:
        together = Pool(*(torch.cat([getattr(p, f) for p in pools.values()]) for f in ("scores", "sizes", "alive")))
        flat = ~together.alive
        flat[together.losers(_share(sparsity, ""), single=single)] = True
        gone = dict(zip(pools, flat.split([len(p.scores) for p in pools.values()]), strict=True))
    return {name: masks[name] & ~grids[name].expand(gone[name], masks[name].shape) for name in masks}


def choose_pattern(scores: Mapping[str, Tensor], masks: Mapping[str, Tensor], pattern: Pattern) -> Masks:
    """New masks with N of each M kept. What is gone already is the first to go, so that no line loses more."""
    result = {}
    for name, mask in masks.items():
        check_numbers(scores[name], name)
        found = scores[name]
        if int(mask.count_nonzero()) < mask.numel():
            found = found.masked_fill(~mask, torch.finfo(found.dtype).min)
        result[name] = mask & pattern.mask(found, name)
    return result


def below(
    scores: Mapping[str, Tensor], masks: Mapping[str, Tensor], threshold: float, units: Tiles, reduction: float | str
) -> Masks:
    """New masks without the units that score less than ``threshold``."""
    result = {}
    for name, mask in masks.items():
        grid = units.grid(mask, name)
        pool = _pool(name, grid, scores[name], mask, reduction, "local")
        result[name] = mask & grid.expand(pool.scores >= threshold, mask.shape)
    return result


def _share(sparsity: float | Mapping[str, float], name: str) -> float:
    return sparsity[name] if isinstance(sparsity, Mapping) else sparsity


def _pool(name: str, grid: Grid, scores: Tensor, mask: Tensor, reduction: float | str, scope: str) -> Pool:
    check_numbers(scores, name)
    if set(grid.tile) == {1}:
        alive = mask.reshape(-1)
        one = torch.ones(1, dtype=torch.long, device=mask.device)
        return Pool(grid.reduce(scores, reduction), one.expand(len(alive)), alive)
    alive = grid.reduce(mask.float(), SUM) > 0
    sizes = grid.reduce(torch.ones_like(mask, dtype=torch.float64), SUM)
    if scores.shape != mask.shape:
        return Pool(scores, sizes.long(), alive)
    lined = grid.reduce(scores, reduction)
    if scope == "global" and reduction != float("inf"):
        lined = lined / sizes ** (1.0 if reduction == SUM else 1.0 / float(reduction))
    return Pool(lined, sizes.long(), alive)


def _by_row(scores: Tensor, mask: Tensor, sparsity: float) -> Tensor:
    matrix = scores.flatten(1).masked_fill(~mask.flatten(1), -float("inf"))
    lost = matrix.topk(round(sparsity * matrix.shape[1]), dim=1, largest=False).indices
    return mask & torch.ones_like(matrix, dtype=torch.bool).scatter_(1, lost, value=False).view_as(mask)


def check_numbers(scores: Tensor, name: str) -> None:
    """Raise InputError where a score is NaN."""
    if scores.numel() and bool(scores.amax().isnan()):  # which is much quicker than to look at each
        raise InputError(
            f"the criterion gives {name!r} scores that aren't numbers: are weights, gradients and data finite?"
        )
