"""Operators that pair, sum up or choose: which axes they leave free is easy to get wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.zoo.case import Case
from benchmarks.zoo.handmade.entry import entry


class Mlp(nn.Module):
    """Linear, something, linear, with a residual hidden layer."""

    def __init__(self, between: Callable[[Tensor], Tensor], after: int = 16) -> None:
        super().__init__()
        self.a, self.mix, self.b, self.between = nn.Linear(5, 16), nn.Linear(after, after), nn.Linear(after, 3), between

    def forward(self, x: Tensor) -> Tensor:
        y = self.between(self.a(x))
        return self.b(y + self.mix(y).relu())


class Swiglu(nn.Module):
    """Halves by slices at an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.half, self.a, self.b = 12, nn.Linear(5, 24), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.b(F.silu(y[..., : self.half]) * y[..., self.half :])


class Bilinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 10), nn.Linear(4, 12)
        self.join, self.out = nn.Bilinear(10, 12, 14), nn.Linear(14, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.out(self.join(self.a(x).tanh(), self.b(y).tanh()).relu())


class Distances(nn.Module):
    """Towers compared by distance and by cosine."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 8))
        self.b = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 8))

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        a, b = self.a(x), self.b(y)
        cosine = F.cosine_similarity(a[:, None], b[None], dim=-1)
        return torch.cdist(a, b), cosine, F.pairwise_distance(a, b), F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T


class Prototypes(nn.Module):
    """Learned centres; soft assignment by distance."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.centres, self.out = nn.Linear(5, 12), nn.Parameter(torch.randn(6, 12)), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        weights = (-torch.cdist(y, self.centres)).softmax(-1)
        return self.out(weights @ self.centres + y)


class Experts(nn.Module):
    """A mixture of experts; the chosen ones run on the rows that a mask picks."""

    def __init__(self, how: str, experts: int = 4, top: int = 2) -> None:
        super().__init__()
        self.how, self.top = how, top
        self.inp, self.router, self.out = nn.Linear(5, 12), nn.Linear(12, experts), nn.Linear(12, 3)
        self.experts = nn.ModuleList(
            [nn.Sequential(nn.Linear(12, 20), nn.GELU(), nn.Linear(20, 12)) for _ in range(experts)]
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.inp(x).flatten(0, 1)
        weights, chosen = self.router(y).softmax(-1).topk(self.top, -1)
        weights = weights / weights.sum(-1, keepdim=True)
        total = torch.zeros_like(y)
        for i, expert in enumerate(self.experts):
            if self.how == "mask":
                share = (weights * (chosen == i)).sum(-1, keepdim=True)
                total = total + share * expert(y)
            else:
                rows, slots = torch.where(chosen == i)
                total.index_add_(0, rows, expert(y[rows]) * weights[rows, slots, None])
        return self.out(total).view(*x.shape[:2], -1)


class Graph(nn.Module):
    """Messages along edges, gathered and scattered."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.message, self.update = nn.Linear(5, 12), nn.Linear(24, 16), nn.Linear(28, 12)
        self.out = nn.Linear(12, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        y = self.inp(x)
        source, target = edges
        m = self.message(torch.cat([y[source], y[target]], -1)).relu()
        gathered = torch.zeros(x.shape[0], m.shape[1], dtype=x.dtype).index_add(0, target, m)
        return self.out(y + self.update(torch.cat([y, gathered], -1)).tanh())


class Pointnet(nn.Module):
    """Neighbours found by distance in the input, features gathered along points, the maximum over them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Conv1d(3, 12, 1), nn.Conv2d(24, 16, 1), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        nearest = torch.cdist(x, x).topk(3, largest=False).indices
        y = self.a(x.transpose(1, 2))
        b, c, n = y.shape
        at = nearest.flatten(1)[:, None].expand(-1, c, -1)
        around = y.gather(2, at).view(b, c, n, -1)
        pairs = torch.cat([around - y[..., None], y[..., None].expand_as(around)], 1)
        return self.out(self.b(pairs).relu().amax((2, 3)))


class Fourier(nn.Module):
    """Filters in the frequency domain, over the positions alone (GFNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.out = nn.Conv2d(3, 12, 2, stride=2), nn.Linear(12, 3)
        self.filter = nn.Parameter(torch.randn(4, 3, 12, 2))
        self.mlp = nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 12))

    def forward(self, x: Tensor) -> Tensor:
        y = self.inp(x).permute(0, 2, 3, 1)
        z = torch.fft.rfft2(y, dim=(1, 2), norm="ortho") * torch.view_as_complex(self.filter)
        z = torch.fft.irfft2(z, s=y.shape[1:3], dim=(1, 2), norm="ortho")
        return self.out((y + self.mlp(z)).mean((1, 2)))


class StateSpace(nn.Module):
    """A gated linear recurrence over time, per channel (a Mamba block written plainly)."""

    def __init__(self, width: int = 8, inner: int = 16, states: int = 4) -> None:
        super().__init__()
        self.inp, self.split, self.inner = nn.Linear(5, width), nn.Linear(width, 2 * inner), inner
        self.conv = nn.Conv1d(inner, inner, 3, groups=inner, padding=2)
        self.select, self.step = nn.Linear(inner, 4 + 2 * states), nn.Linear(4, inner)
        self.a, self.d = nn.Parameter(torch.randn(inner, states)), nn.Parameter(torch.ones(inner))
        self.rank, self.states, self.join, self.out = 4, states, nn.Linear(inner, width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inp(x)
        z, gate = self.split(y).chunk(2, -1)
        z = F.silu(self.conv(z.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2))
        step, b, c = self.select(z).split([self.rank, self.states, self.states], -1)
        step = F.softplus(self.step(step))
        decay = torch.exp(step[..., None] * -self.a.exp())
        h, ys = torch.zeros(x.shape[0], self.inner, self.states, dtype=x.dtype), []
        for t in range(x.shape[1]):
            h = decay[:, t] * h + (step[:, t] * z[:, t])[..., None] * b[:, t, None]
            ys.append((h * c[:, t, None]).sum(-1))
        return self.out(y + self.join((torch.stack(ys, 1) + self.d * z) * F.silu(gate)))


class Factorized(nn.Module):
    """Fields of embeddings, their pairwise products, linear and deep parts summed (DeepFM)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.linear = nn.Embedding(30, 8), nn.Embedding(30, 1)
        self.deep = nn.Sequential(nn.Linear(4 * 8, 24), nn.ReLU(), nn.Linear(24, 1))

    def forward(self, i: Tensor) -> Tensor:
        v = self.embed(i)
        pairs = 0.5 * (v.sum(1).square() - v.square().sum(1)).sum(1, keepdim=True)
        return self.linear(i).sum(1) + pairs + self.deep(v.flatten(1))


class Variational(nn.Module):
    """Mean and logarithm of variance from halves of one layer; the mean is used in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.halves = nn.Linear(5, 16), nn.Linear(16, 2 * 6)
        self.decode, self.out = nn.Linear(6, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log = self.halves(self.encode(x).relu()).chunk(2, -1)
        z = mean + torch.randn_like(mean) * (0.5 * log).exp() if self.training else mean
        return self.out(self.decode(z).relu()), (1 + log - mean.square() - log.exp()).sum(-1)


class Conditional(nn.Module):
    """Scale and shift from a condition (FiLM)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12, affine=False)
        self.film, self.out = nn.Linear(4, 24), nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        scale, shift = self.film(z)[..., None, None].chunk(2, 1)
        return self.out((self.norm(self.conv(x)) * (1 + scale) + shift).relu())


class Modulated(nn.Module):
    """Convolution weights scaled per example and run as one grouped convolution (StyleGAN)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.style = nn.Conv2d(3, 12, 1), nn.Linear(4, 12)
        self.weight, self.out = nn.Parameter(torch.randn(16, 12, 3, 3)), nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        y = self.conv(x)
        b, c, h, w = y.shape
        weight = self.weight[None] * self.style(z)[:, None, :, None, None]
        weight = weight * weight.square().sum((2, 3, 4), keepdim=True).add(1e-8).rsqrt()
        y = F.conv2d(y.reshape(1, b * c, h, w), weight.flatten(0, 1), padding=1, groups=b)
        return self.out(y.view(b, -1, h, w))


class Deep(nn.Module):
    """Layers of many widths, one after the other, some skipped by a loop over indices."""

    def __init__(self) -> None:
        super().__init__()
        widths = [5, 12, 16, 12, 8, 3]
        self.layers = nn.ModuleList([nn.Linear(a, b) for a, b in pairwise(widths)])
        self.skip = nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for i, layer in enumerate(self.layers):
            x = layer(x).tanh() if i < len(self.layers) - 1 else layer(x)
            if i in (0, 2):
                kept.append(x)
                x = sum(self.skip(y) for y in kept)
        return x


def table() -> Tensor:
    return torch.randn(4, 5)


def cases() -> Iterator[Case]:
    yield entry("bilinear", lambda: (Bilinear(), (table(), torch.randn(4, 4))))
    yield entry("distances", lambda: (Distances(), (table(), torch.randn(4, 4))))
    yield entry("prototypes", lambda: (Prototypes(), table()), by_proof="a softmax over the centres")
    yield entry("experts_by_mask", lambda: (Experts("mask"), torch.randn(2, 6, 5)))
    yield entry("experts_by_rows", lambda: (Experts("rows"), torch.randn(2, 6, 5)))
    yield entry("graph_messages", lambda: (Graph(), (table(), torch.tensor([[0, 1, 2, 3, 0], [1, 2, 3, 0, 2]]))))
    yield entry("nearest_points", lambda: (Pointnet(), torch.randn(2, 7, 3)))
    yield entry("fourier_filter", lambda: (Fourier(), torch.randn(2, 3, 8, 8)))
    yield entry("state_space", lambda: (StateSpace(), torch.randn(2, 6, 5)))
    yield entry("factorization_machine", lambda: (Factorized(), torch.randint(30, (3, 4))))
    yield entry("variational", lambda: (Variational(), table()))
    yield entry("film", lambda: (Conditional(), (torch.randn(2, 3, 6, 6), torch.randn(2, 4))))
    yield entry("modulated_convolution", lambda: (Modulated(), (torch.randn(2, 3, 6, 6), torch.randn(2, 4))))
    yield entry("loop_with_skips", lambda: (Deep(), table()))
    yield entry("swiglu", lambda: (Swiglu(), table()))
    yield entry("swiglu_chunk", lambda: (Mlp(lambda y: torch.mul(*y.chunk(2, -1)), 8), table()))
    yield entry("pairs_multiplied", lambda: (Mlp(lambda y: y[..., ::2] * y[..., 1::2], 8), table()))
    yield entry("stacked_and_summed", lambda: (Mlp(lambda y: torch.stack([y, y.tanh(), y.relu()], 1).sum(1)), table()))
    yield entry("outer_product", lambda: (Mlp(lambda y: torch.einsum("bi,bj->bij", y, y).sum(2)), table()))
    yield entry("in_place", lambda: (Mlp(lambda y: y.clone().mul_(2).add_(y).clamp_(min=0)), table()))
    yield entry("written_slices", lambda: (Mlp(written), table()))


def written(y: Tensor) -> Tensor:
    z = torch.zeros_like(y)
    z[:, :] = y.tanh()
    return z
