"""More attention by hand: relative keys, rotary in part, causal without softmax, low-rank keys, a cache of its own."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import flex_attention

from benchmarks.zoo.case import Case
from benchmarks.zoo.handmade.attention import DEPTH, HEADS, WIDTH, Around, softmax_attention, tokens
from benchmarks.zoo.handmade.entry import entry


class RelativeKeys(nn.Module):
    """Queries meet a key for each distance: looked up (Shaw), or shifted into place (Transformer-XL)."""

    def __init__(self, shifted: bool, n: int = 6) -> None:
        super().__init__()
        self.heads, self.shifted = HEADS, shifted
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.keys = nn.Parameter(torch.randn(HEADS, 2 * n - 1, DEPTH))
        self.register_buffer("distance", torch.arange(n)[None] - torch.arange(n)[:, None] + n - 1)

    def _relative(self, q: Tensor) -> Tensor:
        b, heads, n, _ = q.shape
        if not self.shifted:
            return torch.einsum("bhid,hijd->bhij", q, self.keys[:, self.distance])
        r = F.pad(torch.einsum("bhid,hrd->bhir", q, self.keys), (0, 1)).flatten(2)
        return F.pad(r, (0, n - 1)).view(b, heads, n + 1, 2 * n - 1)[:, :, :n, n - 1 :]

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = ((q @ k.transpose(-2, -1) + self._relative(q)) * 0.4).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(b, n, -1))


def turned(y: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = y.chunk(2, -1)
    return y * cos + torch.cat([-b, a], -1) * sin


class PartialRotary(nn.Module):
    """Rotary positions on the first part of each head alone (GPT-NeoX)."""

    def __init__(self, n: int = 6, part: int = 4) -> None:
        super().__init__()
        self.heads, self.part = HEADS, part
        self.q, self.k, self.v, self.proj = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.register_buffer("cos", torch.rand(n, part))
        self.register_buffer("sin", torch.rand(n, part))

    def _turned(self, y: Tensor) -> Tensor:
        return torch.cat([turned(y[..., : self.part], self.cos, self.sin), y[..., self.part :]], -1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for proj in (self.q, self.k, self.v))
        y = softmax_attention(self._turned(q), self._turned(k), v, 0.4)
        return self.proj(y.transpose(1, 2).flatten(2))


class CausalLinear(nn.Module):
    """Attention without softmax, summed up over time."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = HEADS
        self.q, self.k, self.v, self.proj = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for proj in (self.q, self.k, self.v))
        q, k = F.elu(q) + 1, F.elu(k) + 1
        pairs = torch.einsum("bhnd,bhne->bhnde", k, v).cumsum(2)
        total = torch.einsum("bhnd,bhnd->bhn", q, k.cumsum(2))
        return self.proj((torch.einsum("bhnd,bhnde->bhne", q, pairs) / total[..., None]).transpose(1, 2).flatten(2))


class TalkingHeads(nn.Module):
    """Heads mixed by a layer before the softmax and by one after it."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = HEADS
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.before, self.after = nn.Linear(HEADS, HEADS), nn.Linear(HEADS, HEADS)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        scores = self.before((q * 0.4 @ k.transpose(-2, -1)).permute(0, 2, 3, 1))
        weights = self.after(scores.softmax(-2)).permute(0, 3, 1, 2)
        return self.proj((weights @ v).transpose(1, 2).flatten(2))


class Latent(nn.Module):
    """Keys and values from one narrow vector; positions turn a part that all heads share (DeepSeek)."""

    def __init__(self, n: int = 6) -> None:
        super().__init__()
        self.heads, self.plain, self.turned, self.depth, self.rank = HEADS, 6, 4, 8, 10
        self.q, self.down = nn.Linear(WIDTH, HEADS * (6 + 4)), nn.Linear(WIDTH, 10 + 4)
        self.norm, self.up, self.proj = nn.LayerNorm(10), nn.Linear(10, HEADS * (6 + 8)), nn.Linear(HEADS * 8, WIDTH)
        self.register_buffer("cos", torch.rand(n, 4))
        self.register_buffer("sin", torch.rand(n, 4))

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        plain, rotary = q.split([self.plain, self.turned], -1)
        narrow, shared = self.down(x).split([self.rank, self.turned], -1)
        kv = self.up(self.norm(narrow)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key, value = kv.split([self.plain, self.depth], -1)
        shared = turned(shared[:, None], self.cos, self.sin).expand(-1, self.heads, -1, -1)
        q, k = torch.cat([plain, turned(rotary, self.cos, self.sin)], -1), torch.cat([key, shared], -1)
        return self.proj(softmax_attention(q, k, value, 0.35).transpose(1, 2).flatten(2))


class OwnCache(nn.Module):
    """A loop over time that keeps keys and values on the module."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.cache = HEADS, None
        self.embed, self.out = nn.Embedding(20, WIDTH), nn.Linear(WIDTH, 20)
        self.q, self.k, self.v, self.proj = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def _step(self, y: Tensor) -> Tensor:
        q, k, v = (proj(y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for proj in (self.q, self.k, self.v))
        if self.cache is not None:
            k, v = torch.cat([self.cache[0], k], 2), torch.cat([self.cache[1], v], 2)
        self.cache = (k, v)
        return self.proj(softmax_attention(q, k, v, 0.4).transpose(1, 2).flatten(2))

    def forward(self, i: Tensor) -> Tensor:
        self.cache = None
        return self.out(torch.cat([self._step(self.embed(i[:, t : t + 1])) for t in range(i.shape[1])], 1))


class Flex(nn.Module):
    """FlexAttention with a bias by distance, which torch compiles by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = HEADS
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y = flex_attention(q, k, v, score_mod=lambda s, b, h, i, j: s - 0.1 * (i - j).abs(), scale=0.4)
        return self.proj(y.transpose(1, 2).flatten(2))


def cases() -> Iterator[Case]:
    yield entry("relative_keys", lambda: (Around(RelativeKeys(False)), tokens()))
    yield entry("relative_keys_shifted", lambda: (Around(RelativeKeys(True)), tokens()))
    yield entry("positions_partly_rotary", lambda: (Around(PartialRotary()), tokens()))
    yield entry(
        "linear_attention_causal",
        lambda: (Around(CausalLinear()), tokens()),
        by_proof="the feature of a zeroed query isn't zero: elu(0) + 1",
    )
    yield entry("talking_heads", lambda: (Around(TalkingHeads()), tokens()))
    yield entry("latent_attention", lambda: (Around(Latent()), tokens()))
    yield entry("own_key_value_cache", lambda: (OwnCache(), torch.randint(20, (2, 4))))
    yield entry("flex_attention", lambda: (Around(Flex()), tokens()))
