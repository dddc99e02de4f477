"""Where weights live: tied, listed, parametrized, normalized, computed; and buffers of every kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
import torch.nn.utils.parametrize as parametrize
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from benchmarks.zoo.case import Case
from benchmarks.zoo.handmade.entry import entry


class Bag(nn.Module):
    """Categories pooled by EmbeddingBag."""

    def __init__(self, mode: str, weighted: bool = False) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(30, 12, mode=mode)
        self.hidden, self.out, self.weighted = nn.Linear(12, 16), nn.Linear(16, 3), weighted

    def forward(self, i: Tensor, offsets: Tensor | None = None, weights: Tensor | None = None) -> Tensor:
        return self.out(self.hidden(self.bag(i, offsets, weights)).relu())


class TiedHead(nn.Module):
    """The embedding is the head; one layer is used twice; two layers share a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(20, 12), nn.Linear(12, 20, bias=False)
        self.head.weight = self.embed.weight
        self.a, self.b, self.again = nn.Linear(12, 24), nn.Linear(24, 24), nn.Linear(24, 12)
        self.b.bias = self.a.bias

    def forward(self, i: Tensor) -> Tensor:
        y = self.a(self.embed(i)).relu()
        return self.head(self.again(self.b(self.b(y).relu()).relu()))


class TiedAutoencoder(nn.Module):
    """The decoder is the encoder's weight transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.bias = nn.Linear(10, 16), nn.Parameter(torch.zeros(10))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.encode(x).sigmoid(), self.encode.weight.t(), self.bias)


class Listed(nn.Module):
    """Parameters in a ParameterList and a ParameterDict, used by functions."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList([torch.randn(16, 5), torch.randn(16, 16), torch.randn(3, 16)])
        self.more = nn.ParameterDict({"scale": torch.randn(16), "shift": torch.randn(16)})

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weights[0]) * self.more["scale"] + self.more["shift"]
        return F.linear(F.relu(y @ self.weights[1].T), self.weights[2])


class Functional(nn.Module):
    """Convolutions with Parameters of the module's own, scaled on the way (weight standardization by hand)."""

    def __init__(self) -> None:
        super().__init__()
        self.w1, self.b1 = nn.Parameter(torch.randn(12, 3, 3, 3)), nn.Parameter(torch.zeros(12))
        self.w2, self.gain = nn.Parameter(torch.randn(16, 12, 3, 3)), nn.Parameter(torch.ones(16, 1, 1, 1))
        self.fc = nn.Parameter(torch.randn(16, 4))

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv2d(x, self.w1, self.b1, padding=1).relu()
        return F.conv2d(y, self.w2 * self.gain, stride=2).relu().mean((2, 3)) @ self.fc


class Stack(nn.Module):
    """Three layers to be parametrized."""

    def __init__(self, wrap: Callable[[nn.Module], nn.Module], conv: bool = False) -> None:
        super().__init__()
        self.conv = conv
        if conv:
            layers = nn.Conv1d(5, 12, 3, padding=1), nn.Conv1d(12, 16, 3, padding=1), nn.Conv1d(16, 3, 1)
        else:
            layers = nn.Linear(5, 12), nn.Linear(12, 16), nn.Linear(16, 3)
        self.layers = nn.ModuleList([wrap(layer) for layer in layers])

    def forward(self, x: Tensor) -> Tensor:
        y = x.transpose(1, 2) if self.conv else x
        for layer in self.layers[:-1]:
            y = layer(y).relu()
        return self.layers[-1](y)


class Doubled(nn.Module):
    """A parametrization of one's own: softplus, then half of it."""

    def forward(self, weight: Tensor) -> Tensor:
        return F.softplus(weight) * 0.5


class LowRank(nn.Module):
    """A parametrization of two factors that are added to the frozen weight, as in LoRA."""

    def __init__(self, rows: int, columns: int, rank: int = 4) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(rank, columns)), nn.Parameter(torch.randn(rows, rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.b @ self.a


def old_weight_norm(layer: nn.Module) -> nn.Module:
    with torch.no_grad():  # its weight is computed at once, and a weight with a history can't be copied
        return nn.utils.weight_norm(layer)


def doubled(layer: nn.Module) -> nn.Module:
    return parametrize.register_parametrization(layer, "weight", Doubled())


def orthogonal(layer: nn.Module) -> nn.Module:
    return parametrizations.orthogonal(layer, orthogonal_map="matrix_exp")  # householder reads signs off the diagonal


def low_rank(layer: nn.Module) -> nn.Module:
    return parametrize.register_parametrization(layer, "weight", LowRank(*layer.weight.shape))


class Lora(nn.Module):
    """A linear layer with a low-rank path beside it."""

    def __init__(self, inner: nn.Linear, rank: int = 4, alpha: int = 8) -> None:
        super().__init__()
        self.inner, self.scale = inner, alpha / rank
        self.down, self.up = (
            nn.Linear(inner.in_features, rank, bias=False),
            nn.Linear(rank, inner.out_features, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + self.up(self.down(x)) * self.scale


class Buffers(nn.Module):
    """Position tables, causal masks, scales, frozen statistics, None and non-persistent buffers."""

    def __init__(self, width: int = 16, longest: int = 12) -> None:
        super().__init__()
        self.embed, self.q, self.k, self.v = nn.Embedding(20, width), *(nn.Linear(width, width) for _ in range(3))
        at, rate = torch.arange(longest)[:, None], torch.exp(-torch.arange(0, width, 2) / 3)
        table = torch.zeros(longest, width)
        table[:, 0::2], table[:, 1::2] = torch.sin(at * rate), torch.cos(at * rate)
        self.register_buffer("table", table)
        self.register_buffer("causal", torch.tril(torch.ones(longest, longest)).bool(), persistent=False)
        self.register_buffer("nothing", None)
        self.register_buffer("mean", torch.randn(width))
        self.register_buffer("deviation", torch.rand(width) + 0.5)
        self.scale = torch.full((), 0.25)
        self.out = nn.Linear(width, 20)

    def forward(self, i: Tensor) -> Tensor:
        n = i.shape[1]
        y = (self.embed(i) + self.table[:n] - self.mean) / self.deviation
        scores = self.q(y) @ self.k(y).transpose(1, 2) * self.scale
        y = scores.masked_fill(~self.causal[:n, :n], float("-inf")).softmax(-1) @ self.v(y)
        return self.out(y if self.nothing is None else y + self.nothing)


class Positions(nn.Module):
    """Learned positions looked up by a range, a class token in front, a final pooled head."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 4, stride=4)
        self.token, self.table = nn.Parameter(torch.zeros(1, 1, width)), nn.Embedding(5, width)
        self.register_buffer("ids", torch.arange(5)[None], persistent=False)
        self.mlp, self.norm, self.out = nn.Linear(width, width), nn.LayerNorm(width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.patch(x).flatten(2).transpose(1, 2)
        y = torch.cat([self.token.expand(x.shape[0], -1, -1), y], 1) + self.table(self.ids)
        return self.out(self.norm(y + self.mlp(y))[:, 0])


class Ema(nn.Module):
    """A codebook in buffers, nearest entry by distance (vector quantization)."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(5, 24), nn.Linear(24, 5)
        self.inner, self.outer = nn.Linear(24, 8), nn.Linear(8, 24)
        self.register_buffer("codes", torch.randn(10, 8))

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(self.encode(x).relu())
        nearest = torch.cdist(y, self.codes.expand(x.shape[0], -1, -1)).argmin(-1)
        return self.decode(self.outer(F.embedding(nearest, self.codes)).relu())


class Hyper(nn.Module):
    """A small network makes the weights of another, per example."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 12
        self.hyper, self.inner, self.out = nn.Linear(4, 5 * 12), nn.Linear(12, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        weight = self.hyper(z).view(z.shape[0], -1, self.width)
        return self.out(self.inner(torch.bmm(x, weight).relu()).relu())


def sequence() -> Tensor:
    return torch.randn(2, 6, 5)


def cases() -> Iterator[Case]:
    for mode in ("sum", "mean", "max"):
        yield entry(f"embedding_bag_{mode}", lambda mode=mode: (Bag(mode), torch.randint(30, (3, 4))))
    yield entry("embedding_bag_offsets", lambda: (Bag("mean"), (torch.randint(30, (10,)), torch.tensor([0, 4, 7]))))
    yield entry(
        "embedding_bag_weighted",
        lambda: (Bag("sum"), {"i": torch.randint(30, (3, 4)), "weights": torch.rand(3, 4)}),
    )
    yield entry("tied_head", lambda: (TiedHead(), torch.randint(20, (2, 5))))
    yield entry("tied_autoencoder", lambda: (TiedAutoencoder(), torch.randn(4, 10)))
    yield entry("parameter_list", lambda: (Listed(), sequence()))
    yield entry("functional_convolution", lambda: (Functional(), torch.randn(2, 3, 8, 8)))
    for conv in (False, True):
        after = "_conv" if conv else ""
        for name, wrap in {"weight_norm": parametrizations.weight_norm, "old_weight_norm": old_weight_norm}.items():
            yield entry(
                f"{name}{after}",
                lambda conv=conv, wrap=wrap: (Stack(wrap, conv), sequence()),
                by_proof="a weight is divided by its norm, outside any layer",
            )
        yield entry(
            f"spectral_norm{after}", lambda conv=conv: (Stack(parametrizations.spectral_norm, conv), sequence())
        )
        yield entry(f"old_spectral_norm{after}", lambda conv=conv: (Stack(nn.utils.spectral_norm, conv), sequence()))
    yield entry(
        "orthogonal",
        lambda: (Stack(orthogonal), sequence()),
        by_proof="rows of a buffer go, which aren't zeroed",
        left=0.98,
        why="a part of an orthogonal matrix isn't orthogonal: its factors are frozen",
    )
    yield entry(
        "own_parametrization",
        lambda: (Stack(doubled), sequence()),
        by_proof="the softplus of a zeroed entry isn't zero",
    )
    yield entry("low_rank_parametrization", lambda: (Stack(low_rank), sequence()))
    yield entry("lora", lambda: (Stack(Lora), sequence()))
    yield entry("buffers", lambda: (Buffers(), torch.randint(20, (2, 6))))
    yield entry("positions_learned", lambda: (Positions(), torch.randn(2, 3, 8, 8)))
    yield entry("codebook", lambda: (Ema(), sequence()), by_proof="distances to rows of a buffer, no parameter")
    yield entry("hypernetwork", lambda: (Hyper(), (sequence(), torch.randn(2, 4))))
