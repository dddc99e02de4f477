"""Scores from what the consumers of a group would compute without an index: ThiNet, and OBS with an optimal refit."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from prunus.contractions import Contraction, Fit, Moments, names
from prunus.importance.context import Context, Found, Place
from prunus.importance.effects import Effects
from prunus.importance.slopes import Slopes
from prunus.running import check_finite
from prunus.trace import Group, Member

ROWS, STEPS, RIDGE = 4096, 64, 1e-3
MEMORY = 4 << 30


@dataclass
class Consumer:
    """A linear map that reads a group: second moments of its inputs, its weights, the variance of its outputs.

    ``gram`` is (groups, inputs, inputs), ``mean`` (groups, inputs) what it is about, ``weight`` (groups, outputs,
    inputs); ``kernel`` inputs belong to a position of the weight's input dimension. ``call`` is one of its calls.
    """

    gram: Tensor
    mean: Tensor
    weight: Tensor
    variance: float
    kernel: int
    call: Contraction

    def blocks(self, places: Tensor) -> Tensor:
        """``[size, n]``: the inputs that go with each index, for the positions that do."""
        return (places[..., None] * self.kernel + torch.arange(self.kernel, device="cpu")).flatten(1)

    def without(self, gone: Tensor) -> Fit:
        """The weights and the bias that make the most of the other inputs when those in ``gone`` are nought."""
        keep = torch.ones(self.gram.shape[-1], dtype=torch.bool, device=self.gram.device)
        keep[gone.to(keep.device)] = False
        gram, cross = self.gram[:, keep][:, :, keep], self.gram[:, keep] @ self.weight.mT
        weight = torch.zeros_like(self.weight)
        weight[:, :, keep] = torch.cholesky_solve(cross, torch.linalg.cholesky(_firm(gram))).mT
        old = self.call.fit().bias
        bias = None if old is None else old.double() + ((self.weight - weight) @ self.mean[..., None])[..., 0]
        return Fit(weight, bias)


def consumers(context: Context, only: Collection[Member] | None = None, *, centred: bool) -> dict[Member, Consumer]:
    """The linear maps that read a group which can be cut, with moments over the data.

    Args:
        only: those wanted; by default all.
        centred: covariances where a bias takes care of the means, as it does after a refit.
    """
    moments: dict[Member, Moments] = {}
    calls: dict[Member, Contraction] = {}
    for member, found, output, at in context.relevant_flows():
        if only is not None and member not in only:
            continue
        mine = moments.setdefault(member, Moments())
        if len(at) > ROWS:
            order = torch.randperm(len(at), generator=torch.Generator().manual_seed(mine.rows), device="cpu")
            at = at[order.to(at.device)[:ROWS]]
        everything = torch.arange(output.shape[found.channel], device="cpu")
        y = found.flat_output(output, at, everything)
        mine.add(found.rows_of_input(at), found.grouped(y), found.counting(y))
        calls[member] = found
    for member, mine in moments.items():
        check_finite(f"what {member.name!r} is given or gives", mine.xx, mine.yy)
    return {member: _consumer(mine, calls[member], centred) for member, mine in moments.items()}


def waves(context: Context) -> list[tuple[list[Group], set[Member]]]:
    """The groups that linear maps read, with these, in portions whose second moments take at most ``MEMORY`` bytes.

    Where the readers of one group take more, evenly spaced ones of them stand for all.
    """
    sizes: dict[Member, int] = {}
    for member, found, _ in context.flows(1):
        fit = found.fit().weight
        sizes[member] = 8 * fit.shape[0] * fit.shape[2] * (fit.shape[1] + fit.shape[2])
    result: list[tuple[list[Group], set[Member]]] = []
    used = MEMORY + 1
    for group in context.graph.free:
        readers = _spaced([m for m in context.members(group) if m in sizes], sizes)
        new = sum(sizes[m] for m in readers if not result or m not in result[-1][1])
        if used + new > MEMORY and readers:
            result.append(([], set()))
            used, new = 0, sum(sizes[m] for m in readers)
        if readers:
            result[-1][0].append(group)
            result[-1][1].update(readers)
            used += new
    return result


def _spaced(readers: list[Member], sizes: Mapping[Member, int]) -> list[Member]:
    total = sum(sizes[m] for m in readers)
    return readers[:: max(1, -(-total // MEMORY))]


def _consumer(moments: Moments, found: Contraction, centred: bool) -> Consumer:
    gram, mean = moments.xx / moments.n, moments.x / moments.n
    if not centred or found.bias is None:
        mean = torch.zeros_like(mean)
    gram = gram - mean[..., :, None] * mean[..., None, :]
    variance = (moments.yy / moments.n - (moments.y / moments.n).square()).sum().item()
    weight = found.fit().weight.detach().double()
    kernel = weight.shape[-1] // found.weight.shape[found.in_dim]
    return Consumer(gram, mean, weight, max(variance, 1e-300), kernel, found)


def _read_by(context: Context, group: Group, known: Mapping[Member, Consumer]) -> list[tuple[Consumer, Tensor]]:
    members = [member for member in context.members(group) if member in known]
    return [(known[m], known[m].blocks(context.places(m, group.atom))) for m in members]


# -- ThiNet -------------------------------------------------------------------------------------------------------


def thinet(context: Context) -> Found:
    """The place in a greedy order of removal, each time of the index that hurts the consumers' outputs least.

    Luo, Wu, Lin, "ThiNet" (ICCV 2017), eq. 6 and Algorithm 1, over all outputs and positions instead of sampled ones;
    the error is over the variance of each consumer's outputs. The last to go scores highest.
    """
    found: dict[Place, Tensor] = {}
    for groups, members in waves(context):
        known = consumers(context, members, centred=False)
        for group in groups:
            readers = _read_by(context, group, known)
            found[group] = _greedy(torch.stack([_contributions(c, blocks) for c, blocks in readers]).sum(0))
    return found


def _contributions(consumer: Consumer, blocks: Tensor) -> Tensor:
    """``[size, size]``: the mean product of what two indices put into the outputs, over the outputs' variance."""
    spread = torch.zeros(consumer.gram.shape[-1], len(blocks), dtype=torch.float64, device="cpu")
    spread[blocks.flatten(), torch.arange(len(blocks), device="cpu").repeat_interleave(blocks.shape[1])] = 1
    pairs = (consumer.gram * (consumer.weight.mT @ consumer.weight)).sum(0)
    return spread.T.to(pairs) @ pairs @ spread.to(pairs) / consumer.variance


def _greedy(products: Tensor) -> Tensor:
    n = len(products)
    added, own = torch.zeros_like(products[0]), products.diagonal()
    score, gone = torch.zeros_like(own), torch.zeros(n, dtype=torch.bool, device=own.device)
    for step in range(n):
        worst = (own + 2 * added).masked_fill(gone, float("inf")).argmin()
        score[worst], gone[worst] = step, True
        added = added + products[worst]
    return score


# -- OBS ----------------------------------------------------------------------------------------------------------


def obs(context: Context) -> Found:
    """What removing an index adds to the error of its consumers' outputs *after* all other weights are solved anew.

    Optimal Brain Surgeon (Hassibi, Stork, 1992, eq. 5) for blocks of weights, with the second moments of the layer's
    inputs as its Hessian: ``tr(W_i (G^-1_ii)^-1 W_i^T)``. Indices are removed one after another (a few at a time where
    there are many), the weights solved anew each time (eq. 6), so that the scores of what goes add up to the error that
    :func:`prunus.compensate` leaves; for that they must not fall along the way, and the larger one is taken. Errors are
    over the variance of each consumer's outputs. Groups that nothing of the kind reads have no score.
    """
    return _refitted(context, {})


def _refitted(context: Context, costs: Mapping[Member, Tensor], effects: Effects | None = None) -> dict[Place, Tensor]:
    """The scores of :func:`obs`; the errors of layers in ``costs`` by what each output's is worth, and all scores of a
    group by what ``effects`` say of it.
    """
    found: dict[Place, Tensor] = {}
    tensors = names(context.model)
    for groups, members in waves(context):
        known = consumers(context, members, centred=True)
        worth = {m: _worth(c, m, costs) for m, c in known.items()}
        for group in groups:
            readers = [_Elimination(c, blocks) for c, blocks in _read_by(context, group, worth)]
            found[group] = eliminate(readers, group.size)
            if effects is not None:
                change = partial(_refit_without, tensors, _read_by(context, group, known))
                found[group] = effects.scaled(found[group], change)
    return found


def _refit_without(
    tensors: Mapping[int, str], readers: list[tuple[Consumer, Tensor]], gone: Tensor
) -> dict[str, Tensor]:
    """The parameters of a group's readers, by name, when these of its indices go and the others make up for it."""
    found = {}
    for consumer, blocks in readers:
        call = consumer.call
        pairs = zip((call.weight, call.bias), call.laid_out(consumer.without(blocks[gone].flatten())), strict=True)
        found.update({tensors[id(old)]: new.to(old) for old, new in pairs if old is not None and new is not None})
    return found


def _worth(consumer: Consumer, member: Member, costs: Mapping[Member, Tensor]) -> Consumer:
    cost = costs.get(Member(member.name, 1 - member.dim))
    if cost is None:
        return consumer
    rows = cost.sqrt().reshape(consumer.weight.shape[0], -1, 1)
    return replace(consumer, weight=consumer.weight * rows.to(consumer.weight), variance=1.0)


def auto(context: Context) -> Found:
    """:func:`obs`, its errors by how far they move the model's outputs: the scores of all groups add up.

    The gradient of the outputs tells what an error of each consumer's output is worth, to first order, as a share of
    the outputs' variance (:class:`prunus.importance.slopes.Slopes`). For groups that no linear map reads, as those in
    which queries meet keys, it is what leaving out an index of those that write it is worth (of two, the smaller one:
    both go together); for others the share in the squared weights. First order takes the errors of different positions
    as independent, which those of attention are not: the scores of each group are scaled so that its lower half costs
    what it does cost the outputs of a few examples (:class:`prunus.importance.effects.Effects`).
    """
    slopes = Slopes(context)
    effects = Effects(context) if slopes.errors else None
    found = _refitted(context, slopes.errors, effects)
    for group in context.graph.free:
        if group not in found and any(True for _ in context.members(group)):
            found[group] = _carried(context, group, slopes.values)
            if effects is not None:
                found[group] = effects.scaled(found[group], partial(_masked, context, group))
    return found


def _masked(context: Context, group: Group, gone: Tensor) -> dict[str, Tensor]:
    """The parameters that the group runs through, by name, with nought at these of its indices."""
    found: dict[str, Tensor] = {}
    for member in context.members(group):
        weight = found.setdefault(member.name, context.values(member.name).clone())
        weight.index_fill_(member.dim, context.places(member, group.atom)[gone].flatten().to(weight.device), 0)
    return found


def _carried(context: Context, group: Group, values: Mapping[Member, Tensor]) -> Tensor:
    written = [
        values[member].cpu()[context.places(member, group.atom)].sum(1)
        for member in context.members(group)
        if member in values
    ]
    if written:
        return torch.stack(written).amin(0)
    share = context.rows(group).square().sum(1)
    return share / share.sum().clamp(min=1e-300)


def _firm(gram: Tensor) -> Tensor:
    """Second moments made positive by a little of their mean diagonal."""
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    return gram + torch.diag_embed(RIDGE * diagonal.mean(-1, keepdim=True).expand_as(diagonal) + 1e-12)


class _Elimination:
    """One consumer, while indices are removed and its weights solved anew.

    By Cholesky factors alone: they keep the inverse symmetric, and MKL's LU of batches doesn't return on several
    threads (torch 2.14, matrices of 192 and more).
    """

    def __init__(self, consumer: Consumer, blocks: Tensor) -> None:
        self.inverse = torch.cholesky_inverse(torch.linalg.cholesky(_firm(consumer.gram)))
        self.weight, self.variance = consumer.weight.clone(), consumer.variance
        self.at = blocks.to(self.weight.device)

    def costs(self, left: Tensor) -> Tensor:
        """What the removal of each index that is left would add to the error."""
        at = self.at[left]
        inner = self.inverse[:, at[:, :, None], at[:, None, :]]  # (groups, left, n, n)
        weight = self.weight[:, :, at].movedim(1, 2)  # (groups, left, outputs, n)
        halves = torch.linalg.solve_triangular(torch.linalg.cholesky(inner), weight.mT, upper=False)
        costs: Tensor = halves.square().sum((0, 2, 3)) / self.variance
        return costs

    def remove(self, gone: Tensor) -> None:
        """Solve the weights that stay as they are best without those of the indices ``gone``; forget the latter."""
        out = self.at[gone].flatten()
        keep = torch.ones(self.weight.shape[-1], dtype=torch.bool, device=out.device)
        keep[out] = False
        inner, cross = self.inverse[:, out[:, None], out[None, :]], self.inverse[:, out][:, :, keep]
        lower = torch.linalg.cholesky(inner)
        halves = torch.linalg.solve_triangular(lower, cross, upper=False)
        shares = torch.linalg.solve_triangular(lower, self.weight[:, :, out].mT, upper=False)
        self.weight = self.weight[:, :, keep] - shares.mT @ halves
        self.inverse = self.inverse[:, keep][:, :, keep] - halves.mT @ halves
        place = torch.cumsum(keep, 0) - 1
        self.at = torch.where(keep[self.at], place[self.at], 0)


def eliminate(readers: list[_Elimination], size: int) -> Tensor:
    """``[size]``: the error that each index adds when its turn to go comes."""
    left = torch.arange(size, device="cpu")
    score, floor = torch.zeros(size, dtype=torch.float64, device="cpu"), 0.0
    while len(left):
        costs = torch.stack([reader.costs(left.to(reader.at.device)).cpu() for reader in readers]).sum(0)
        order = torch.argsort(costs, stable=True)
        turn = order[: max(1, len(left) // STEPS)]
        score[left[turn]] = costs[turn].clamp(min=floor)
        floor = float(score[left[turn]].max())
        for reader in readers:
            reader.remove(left[turn].to(reader.at.device))
        stays = torch.ones(len(left), dtype=torch.bool, device="cpu")
        stays[turn] = False
        left = left[stays]
    return score
