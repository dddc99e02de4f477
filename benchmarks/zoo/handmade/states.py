"""What isn't a plain weight: buffers that alias, count, or are written while the model runs; complex numbers."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.zoo.case import Case
from benchmarks.zoo.handmade.entry import entry


class EveryBuffer(nn.Module):
    """Views of weights, masks, whole and complex numbers, half precision, one number, none, a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.register_buffer("alias", self.a.bias.data)
        self.register_buffer("view", self.b.weight.data[:4])
        self.register_buffer("mask", torch.rand(16) > 0.3)
        self.register_buffer("order", torch.arange(16) % 3)
        self.register_buffer("factor", torch.tensor(0.5))
        self.register_buffer("empty", torch.zeros(0))
        self.register_buffer("turn", torch.randn(16, dtype=torch.complex64))
        self.register_buffer("low", torch.randn(16).half())
        self.register_buffer("calls", torch.tensor(0))
        self.register_buffer("wide", torch.randn(1, 16).expand(3, 16))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        y = self.a(x) * self.factor + self.alias
        y = torch.where(self.mask, y, y * 0.1) + self.order * 0.1
        z = (y * self.turn).real + self.low
        return self.c(self.b(z) + (z @ self.view.T).sum(-1, keepdim=True) + self.wide.sum(0)) + self.empty.sum()


class Running(nn.Module):
    """A running mean that eval mode updates too: no two runs of the model are alike."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 16), nn.Linear(16, 3)
        self.register_buffer("mean", torch.zeros(16))

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        self.mean.mul_(0.9).add_(y.mean((0, 1)), alpha=0.1)
        return self.b(y - self.mean)


class MaxNorm(nn.Module):
    """An embedding that scales down the rows it looks up, in place."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.a, self.b = nn.Embedding(20, 12, max_norm=1.0), nn.Linear(12, 16), nn.Linear(16, 3)

    def forward(self, i: Tensor) -> Tensor:
        return self.b(self.a(self.embed(i)).relu())


class ComplexProduct(nn.Module):
    """A complex product of weights that are stored as pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.pairs, self.b = nn.Linear(5, 12), nn.Parameter(torch.randn(12, 16, 2)), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        z = torch.complex(y, y.tanh()) @ torch.view_as_complex(self.pairs)
        return self.b(z.abs() + z.real * z.imag.sin() + z.angle())


class Spectrogram(nn.Module):
    """A short-time Fourier transform of the input, then convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(8))
        self.a, self.b, self.out = nn.Conv1d(5, 12, 3), nn.Conv1d(12, 16, 1), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        bins = torch.stft(x, 8, 4, window=self.window, return_complex=True).abs().log1p()
        return self.out(self.b(self.a(bins).relu()).mean(-1))


class Fnet(nn.Module):
    """Tokens mixed by a Fourier transform over positions and features: the features stay, the hidden layer is free."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.norm, self.up, self.down = (
            nn.Linear(5, 12),
            nn.LayerNorm(12),
            nn.Linear(12, 48),
            nn.Linear(48, 12),
        )
        self.out = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inp(x)
        y = self.norm(y + torch.fft.fft2(y).real)
        return self.out(y + self.down(F.gelu(self.up(y))))


class OwnTransposed(nn.Module):
    """Functional convolutions, grouped and transposed, with Parameters of the module's own."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.bias = nn.Parameter(torch.randn(12, 5)), nn.Parameter(torch.randn(8))
        self.a, self.b = nn.Parameter(torch.randn(12, 1, 3)), nn.Parameter(torch.randn(12, 8, 4))
        self.c = nn.Parameter(torch.randn(2, 8, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.inp).transpose(1, 2)
        y = F.conv1d(y, self.a, padding=1, groups=self.a.shape[0]).relu()
        return F.conv1d(F.conv_transpose1d(y, self.b, self.bias, stride=2), self.c)


class TiedTransposed(nn.Module):
    """The way back is the way there transposed; one block runs twice under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.there, self.back = nn.Conv2d(3, 12, 3, padding=1), nn.ConvTranspose2d(12, 3, 3, padding=1)
        self.back.weight = self.there.weight
        self.one = self.two = nn.Sequential(nn.Conv2d(12, 20, 1), nn.ReLU(), nn.Conv2d(20, 12, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.there(x).relu()
        return self.back(self.two(y + self.one(y)))


def sequence() -> Tensor:
    return torch.randn(2, 6, 5)


def cases() -> Iterator[Case]:
    yield entry("buffers_of_every_kind", lambda: (EveryBuffer(), sequence()), by_proof="what buffers add isn't zeroed")
    yield entry("running_mean", lambda: (Running(), sequence()))
    yield entry("embedding_max_norm", lambda: (MaxNorm(), torch.randint(20, (2, 5))))
    yield entry("complex_product", lambda: (ComplexProduct(), sequence()))
    yield entry("spectrogram", lambda: (Spectrogram(), torch.randn(2, 40)))
    yield entry("fourier_mixing", lambda: (Fnet(), sequence()))
    yield entry("functional_transposed", lambda: (OwnTransposed(), sequence()))
    yield entry("tied_transposed", lambda: (TiedTransposed(), torch.randn(2, 3, 6, 6)))
