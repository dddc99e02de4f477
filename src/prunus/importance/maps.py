"""Scores from whole feature maps: their rank, and how little one is made of the others."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from prunus.contractions import Contraction
from prunus.importance.context import Context, Found, Place
from prunus.running import check_finite
from prunus.trace import Member

EXAMPLES = 16


def hrank(context: Context) -> Found:
    """The mean rank of an index's feature map (Lin et al., "HRank", CVPR 2020, eq. 6).

    Of an image ``[H, W]`` it is the rank of each example's map, over all examples. Where the index has no such map, the
    rank of the matrix of examples by positions stands for it.
    """
    sums: dict[Member, Tensor] = {}
    for member, found, x in _maps(context):
        image = x.dim() == 4 and found.groups == 1
        rank = torch.linalg.matrix_rank(x).double().sum(0) if image else _rank_of_positions(context, member, x)
        sums[member] = sums[member] + rank if member in sums else rank
    return sums


def _maps(context: Context) -> Iterator[tuple[Member, Contraction, Tensor]]:
    """What each linear map is given, ``[examples, channels, positions ...]``, fp64."""
    for member, found, _ in context.flows():
        x = found.channels_of_input().double()
        check_finite(f"what {member.name!r} is given", x)
        yield member, found, x


def _rank_of_positions(context: Context, member: Member, x: Tensor) -> Tensor:
    """For each input position the rank over all positions of its index, shared among them."""
    result = torch.zeros(x.shape[1], dtype=torch.float64, device="cpu")
    for atom in context.atoms(member):
        at = context.places(member, atom)
        maps = x[:, at.flatten().to(x.device)].reshape(len(x), *at.shape, -1)  # (examples, size, n, rest)
        rank = torch.linalg.matrix_rank(maps.movedim(1, 0).flatten(2)).double().cpu()
        result[at.flatten()] += (rank / at.shape[1]).repeat_interleave(at.shape[1])
    return result


def chip(context: Context) -> Found:
    """Channel independence: how much the nuclear norm of all maps falls when one is made zero.

    Sui et al., "CHIP: CHannel Independence-based Pruning for Compact Neural Networks" (NeurIPS 2021), eq. 5, averaged
    over the first ``EXAMPLES`` examples of each batch.
    """
    sums: dict[Place, Tensor] = {}
    for member, _, x in _maps(context):
        maps = x[:EXAMPLES].flatten(2) if x.dim() > 2 else x.T[None]  # without positions, examples are the columns
        for each in maps:
            fall = _independence(each)
            sums[member] = sums[member] + fall if member in sums else fall
    return sums


def _independence(maps: Tensor) -> Tensor:
    """For each row of ``[channels, n]`` the nuclear norm of all less that without the row."""
    gram = maps @ maps.T
    whole = _nuclear(gram)
    result = []
    for i in range(len(gram)):
        rest = torch.cat([gram[:i], gram[i + 1 :]])
        result.append(whole - _nuclear(torch.cat([rest[:, :i], rest[:, i + 1 :]], 1)))
    return torch.stack(result)


def _nuclear(gram: Tensor) -> Tensor:
    values: Tensor = torch.linalg.eigvalsh(gram)
    return values.clamp(min=0).sqrt().sum()
