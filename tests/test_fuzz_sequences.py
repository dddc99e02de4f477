"""Random small sequence models from a grammar, as tests/test_fuzz.py has them of images: none may be wrong or crash.

``PRUNUS_FUZZ=5000 pytest tests/test_fuzz_sequences.py`` looks further; a seed that fails is a test case by itself.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.test_fuzz import COUNT, Do, fuzz_model

VOCABULARY, LENGTH = 11, 5


def rotate_half(x: Tensor, angle: Tensor) -> Tensor:
    """Rotary positions, the two halves of a head together (Llama)."""
    left, right = x.chunk(2, -1)
    cos, sin = angle.cos().repeat(1, 2), angle.sin().repeat(1, 2)
    return x * cos + torch.cat([-right, left], -1) * sin


def rotate_pairs(x: Tensor, angle: Tensor) -> Tensor:
    """Rotary positions, neighbours together (GPT-J)."""
    even, odd = x[..., ::2], x[..., 1::2]
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)


class GroupedAttention(nn.Module):
    """Grouped queries in the ways people write them, with rotary positions or without."""

    def __init__(self, rng: random.Random, width: int) -> None:
        super().__init__()
        self.groups, self.repeat, self.dim = rng.choice([1, 2]), rng.choice([1, 2, 3]), rng.choice([4, 6])
        self.way = rng.choice(["interleave", "expand", "enable_gqa", "einsum"])
        self.turn = rng.choice([None, rotate_half, rotate_pairs])
        self.causal = rng.random() < 0.5
        heads = self.groups * self.repeat
        self.q = nn.Linear(width, heads * self.dim, bias=rng.random() < 0.5)
        self.k, self.v = nn.Linear(width, self.groups * self.dim), nn.Linear(width, self.groups * self.dim)
        self.o = nn.Linear(heads * self.dim, width)
        self.register_buffer("rates", 1.0 / 10 ** torch.arange(self.dim // 2))
        self.scale = self.dim**-0.5

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (layer(x).view(n, t, -1, self.dim).transpose(1, 2) for layer in (self.q, self.k, self.v))
        if self.turn is not None:
            angle = torch.outer(torch.arange(t, device=x.device), self.rates)
            q, k = self.turn(q, angle), self.turn(k, angle)
        return x + self.o(self.mix(q, k, v).transpose(1, 2).reshape(n, t, -1))

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.way == "enable_gqa":
            return F.scaled_dot_product_attention(q, k, v, is_causal=self.causal, scale=self.scale, enable_gqa=True)
        if self.way == "expand":
            n, g, t, d = k.shape
            k, v = (a[:, :, None].expand(n, g, self.repeat, t, d).reshape(n, g * self.repeat, t, d) for a in (k, v))
        else:
            k, v = (a.repeat_interleave(self.repeat, 1) for a in (k, v))
        if self.way == "einsum":
            return torch.einsum("bhij,bhjd->bhid", torch.einsum("bhid,bhjd->bhij", q, k).mul(self.scale).softmax(-1), v)
        scores = q @ k.transpose(-2, -1) * self.scale
        if self.causal:
            scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), -math.inf)
        return scores.softmax(-1) @ v


class Experts(nn.Module):
    """A dense mixture: every expert computes, a softmax over the router weighs them."""

    def __init__(self, width: int, experts: int, hidden: int) -> None:
        super().__init__()
        self.router = nn.Linear(width, experts)
        self.up = nn.Parameter(torch.randn(experts, width, hidden) * 0.3)
        self.down = nn.Parameter(torch.randn(experts, hidden, width) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.silu(torch.einsum("ntc,ech->neth", x, self.up))
        return x + torch.einsum("neth,ehc,nte->ntc", hidden, self.down, self.router(x).softmax(-1))


class Sequence(nn.Module):
    """Tokens, steps at one width or another, and logits, by a matrix of its own or by that of the embedding."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.rng = rng = random.Random(seed)
        width = rng.choice([8, 12])
        self.embedding, self.steps = nn.Embedding(VOCABULARY, width), nn.Sequential()
        start = width
        for _ in range(rng.randint(1, 5)):
            width = getattr(self, f"grow_{rng.choice(GROWTH)}")(width)
        self.tied = width == start and rng.random() < 0.5
        self.head = nn.Identity() if self.tied else nn.Linear(width, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.steps(self.embedding(tokens))
        return x @ self.embedding.weight.t() if self.tied else self.head(x)

    def grow_attention(self, c: int) -> int:
        self.steps.append(GroupedAttention(self.rng, c))
        return c

    def grow_norm(self, c: int) -> int:
        self.steps.append(self.rng.choice([nn.LayerNorm(c), nn.RMSNorm(c), nn.LayerNorm(c, elementwise_affine=False)]))
        return c

    def grow_mlp(self, c: int) -> int:
        self.steps.append(Do(lambda x, a, b: x + b(F.gelu(a(x))), nn.Linear(c, 2 * c), nn.Linear(2 * c, c)))
        return c

    def grow_gated(self, c: int) -> int:
        parts = nn.Linear(c, 16), nn.Linear(8, c)
        ways = [
            lambda x, a, b: x + b(F.glu(a(x))),
            lambda x, a, b: x + b(F.silu(a(x)[..., :8]) * a(x)[..., 8:]),
            lambda x, a, b: x + b(torch.mul(*a(x).split(8, -1))),
        ]
        self.steps.append(Do(self.rng.choice(ways), *parts))
        return c

    def grow_experts(self, c: int) -> int:
        self.steps.append(Experts(c, self.rng.choice([2, 4]), 6))
        return c

    def grow_recurrent(self, c: int) -> int:
        kind, both = self.rng.choice([nn.LSTM, nn.GRU, nn.RNN]), self.rng.random() < 0.5
        layers = self.rng.choice([1, 2])
        self.steps.append(Do(lambda x, rnn: rnn(x)[0], kind(c, 6, layers, batch_first=True, bidirectional=both)))
        return 12 if both else 6

    def grow_convolution(self, c: int) -> int:
        groups = self.rng.choice([1, c])
        mix: Callable[..., Tensor] = lambda x, conv: conv(x.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2)  # noqa: E731
        self.steps.append(Do(mix, nn.Conv1d(c, c, 3, padding=2, groups=groups)))
        return c

    def grow_joined(self, c: int) -> int:
        self.steps.append(Do(lambda x, a: torch.cat([a(x), x], -1), nn.Linear(c, 4)))
        return c + 4

    def grow_pieces(self, c: int) -> int:
        """Unequal parts go different ways and come together in another order."""

        def pieces(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
            first, middle, last = a(x).split([4, 6, 2], -1)
            return b(torch.cat([last, first.tanh(), middle], -1))

        self.steps.append(Do(pieces, nn.Linear(c, 12), nn.Linear(12, 8)))
        return 8

    def grow_positions(self, c: int) -> int:
        self.steps.append(Do(lambda x, table: x + table.weight[: x.shape[1]], nn.Embedding(LENGTH + 2, c)))
        return c

    def grow_pooled(self, c: int) -> int:
        """One vector for all positions, given back to each."""
        self.steps.append(Do(lambda x, a: x + a(x.amax(1, keepdim=True)).expand_as(x), nn.Linear(c, c)))
        return c


GROWTH = [name.removeprefix("grow_") for name in vars(Sequence) if name.startswith("grow_")]


def fuzz(seed: int) -> bool:
    torch.manual_seed(seed)
    return fuzz_model(Sequence(seed), torch.randint(0, VOCABULARY, (2, LENGTH)), seed)


@pytest.mark.parametrize("start", range(0, COUNT, 10))
def test_random_sequences(start: int) -> None:
    cut = [fuzz(seed) for seed in range(start, min(start + 10, COUNT))]
    assert any(cut), "nothing was cut from any of them"
