"""Mixtures of experts whose weights are stacked: the router's rows go with the experts' slabs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.zoo.case import Case
from benchmarks.zoo.handmade.entry import entry

EXPERTS, CHOSEN, WIDTH, INNER = 8, 2, 12, 20


class Mixture(nn.Module):
    """Experts ``[experts, width, inner]`` and back; how they are chosen and run is a function of the caller's."""

    def __init__(self, run: Callable[[Mixture, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.run, self.num_experts, self.top_k = run, EXPERTS, CHOSEN
        self.groups, self.chosen_groups = 2, 1
        self.inp, self.router, self.out = nn.Linear(5, WIDTH), nn.Linear(WIDTH, EXPERTS), nn.Linear(WIDTH, 3)
        self.up = nn.Parameter(torch.randn(EXPERTS, WIDTH, INNER) / 3)
        self.down = nn.Parameter(torch.randn(EXPERTS, INNER, WIDTH) / 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inp(x).flatten(0, 1)
        y: Tensor = self.out(x + self.run(self, x, self.router(x)))
        return y

    def chosen(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Weights ``[tokens, chosen]`` and which experts."""
        values, indices = logits.softmax(-1).topk(self.top_k, dim=-1)
        return values / values.sum(-1, keepdim=True), indices

    def looked_up(self, x: Tensor, weights: Tensor, indices: Tensor) -> Tensor:
        """Each token through its own experts' matrices."""
        y = torch.einsum("td,tkdh->tkh", x, self.up[indices]).relu()
        return torch.einsum("tkh,tkhd,tk->td", y, self.down[indices], weights)

    def gated(self, x: Tensor, gates: Tensor) -> Tensor:
        """Every token through all experts, of which ``gates [tokens, experts]`` weighs most with zero."""
        y = torch.einsum("td,edh->teh", x, self.up).relu()
        return torch.einsum("teh,ehd,te->td", y, self.down, gates)


def dense(m: Mixture, x: Tensor, logits: Tensor) -> Tensor:
    return m.gated(x, logits.softmax(-1))


def by_index(m: Mixture, x: Tensor, logits: Tensor) -> Tensor:
    return m.looked_up(x, *m.chosen(logits))


def by_select(m: Mixture, x: Tensor, logits: Tensor) -> Tensor:
    weights, indices = m.chosen(logits)
    up = m.up.index_select(0, indices.flatten()).unflatten(0, (-1, m.top_k))
    y = torch.einsum("td,tkdh->tkh", x, up).relu()
    return torch.einsum("tkh,tkhd,tk->td", y, m.down[indices], weights)


def by_embedding(m: Mixture, x: Tensor, logits: Tensor) -> Tensor:
    weights, indices = m.chosen(logits)
    up = F.embedding(indices, m.up.flatten(1)).unflatten(-1, (WIDTH, -1))
    y = torch.einsum("td,tkdh->tkh", x, up).relu()
    return torch.einsum("tkh,tkhd,tk->td", y, m.down[indices], weights)


def by_scatter(m: Mixture, x: Tensor, logits: Tensor) -> Tensor:
    weights, indices = m.chosen(logits)
    return m.gated(x, torch.zeros_like(logits).scatter(-1, indices, weights))


def by_one_hot(m: Mixture, x: Tensor, logits: Tensor) -> Tensor:
    weights, indices = m.chosen(logits)
    return m.gated(x, (F.one_hot(indices, m.num_experts).to(weights.dtype) * weights[..., None]).sum(1))


def by_sigmoid(m: Mixture, x: Tensor, logits: Tensor) -> Tensor:
    """As DeepSeek-V3 has it: values are looked up where they were chosen."""
    scores = logits.sigmoid()
    indices = (2 * scores).topk(m.top_k, dim=-1, sorted=False)[1]
    return m.looked_up(x, scores.gather(1, indices), indices)


def best(m: Mixture, x: Tensor, logits: Tensor) -> Tensor:
    """As Switch has it: one expert for each token."""
    weights, indices = logits.softmax(-1).max(-1, keepdim=True)
    return m.looked_up(x, weights, indices)


def best_position(m: Mixture, x: Tensor, logits: Tensor) -> Tensor:
    indices = logits.argmax(-1, keepdim=True)
    return m.looked_up(x, logits.gather(1, indices), indices)


def one_after_another(m: Mixture, x: Tensor, logits: Tensor) -> Tensor:
    """As Phi-3.5-MoE has it: the best expert, then the best of the others."""
    first, best = logits.max(-1, keepdim=True)
    second, next_best = logits.scatter(-1, best, -torch.inf).max(-1, keepdim=True)
    weights = torch.cat([first, second], dim=-1).softmax(-1)
    return m.looked_up(x, weights, torch.cat([best, next_best], dim=-1))


def sorted_rows(m: Mixture, x: Tensor, logits: Tensor) -> Tensor:
    """Rows in the order of their experts, as grouped products want them."""
    weights, indices = m.chosen(logits)
    chosen, order = indices.flatten().sort()
    rows = torch.einsum("sd,sdh->sh", x[order // m.top_k], m.up[chosen]).relu()
    rows = torch.einsum("sh,shd->sd", rows, m.down[chosen]) * weights.flatten()[order, None]
    return rows[order.argsort()].unflatten(0, (-1, m.top_k)).sum(1)


def numbers(m: Mixture, x: Tensor, logits: Tensor) -> Tensor:
    """The numbers of experts are computed with: they must stay."""
    weights, indices = m.chosen(logits)
    return m.looked_up(x, weights * (1 + indices), indices)


def in_groups(m: Mixture, x: Tensor, logits: Tensor) -> Tensor:
    """As DeepSeek-V3 has it with groups: the best groups of experts first, then the best of those."""
    scores = logits.sigmoid()
    in_groups = scores.unflatten(-1, (m.groups, -1))
    of_groups = in_groups.topk(2, dim=-1)[0].sum(-1)
    mask = torch.zeros_like(of_groups).scatter(1, of_groups.topk(m.chosen_groups, dim=-1)[1], 1)
    mask = mask[:, :, None].expand(in_groups.shape).flatten(1)
    indices = scores.masked_fill(mask == 0, -torch.inf).topk(m.top_k, dim=-1)[1]
    return m.looked_up(x, scores.gather(1, indices), indices)


def in_best_groups(m: Mixture, x: Tensor, logits: Tensor) -> Tensor:
    """As DeepSeek-V2 has it: a group is as good as the best of its experts."""
    scores = logits.softmax(-1)
    in_groups = scores.view(-1, m.groups, m.num_experts // m.groups)
    of_groups = in_groups.max(dim=-1).values
    mask = torch.zeros_like(of_groups).scatter(1, of_groups.topk(m.chosen_groups, dim=-1, sorted=False)[1], 1)
    mask = mask[:, :, None].expand(-1, m.groups, m.num_experts // m.groups).reshape(-1, m.num_experts)
    return m.looked_up(x, *scores.masked_fill(~mask.bool(), 0.0).topk(m.top_k, dim=-1))


def of_two_parts(m: Mixture, x: Tensor, logits: Tensor) -> Tensor:
    """Chosen of two halves of which one is favoured: how many of which stay would be unclear, and all do."""
    first, second = logits.sigmoid().split(EXPERTS // 2, dim=-1)
    weights, indices = torch.cat([first + 1, second], dim=-1).topk(m.top_k, dim=-1)
    return m.looked_up(x, weights, indices)


WAYS = (by_index, by_select, by_embedding, by_scatter, by_one_hot, by_sigmoid, best, best_position, sorted_rows, dense)
WAYS += (in_groups, in_best_groups, one_after_another)
STAY = (numbers, of_two_parts)


def cases() -> Iterator[Case]:
    for way in (*WAYS, *STAY):
        yield entry(
            f"experts_{way.__name__}",
            lambda way=way: (Mixture(way), torch.randn(2, 6, 5)),
            routers=("router.weight",),
            left=0.3 if way in WAYS else 0.6,
        )
