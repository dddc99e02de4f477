"""What can't be cut, or only in part: the axis stays whole, with the reason, and all around it goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.zoo.case import Case
from benchmarks.zoo.handmade.entry import entry


class Stopped(nn.Module):
    """A function over the features of one layer of four; the layers around it are free."""

    def __init__(self, stop: Callable[[Tensor], Tensor], after: int = 8) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 24), nn.Linear(24, 8)
        self.stop, self.c, self.d = stop, nn.Linear(after, 24), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stop(self.b(self.a(x).relu()))
        return self.d(self.c(y).relu())


def sorted_(y: Tensor) -> Tensor:
    return y.sort(-1).values


STOPS: dict[str, Callable[[Tensor], Tensor]] = {
    "flip": lambda y: y.flip(-1),
    "roll": lambda y: y.roll(1, -1),
    "sort": sorted_,
    "positions": lambda y: y * y.topk(4, -1).indices.sum(-1, keepdim=True),
    "argsort_gather": lambda y: y.gather(-1, y.argsort(-1)),
    "permuted_by_index": lambda y: y[:, [3, 1, 0, 2, 7, 6, 5, 4]],
    "index_select": lambda y: y.index_select(-1, torch.tensor([7, 6, 5, 4, 3, 2, 1, 0])),
    "fourier": lambda y: torch.fft.fft(y, dim=-1).real,
    "real_fourier": lambda y: torch.fft.irfft(torch.fft.rfft(y) * 2, n=8),
    "literal_view": lambda y: y.view(-1, 2, 4).transpose(1, 2).reshape(-1, 8),
    "literal_slice": lambda y: torch.cat([y[:, 3:], y[:, :3]], -1),
    "as_strided": lambda y: y.as_strided((y.shape[0], 8), (8, 1), 0).contiguous() * 2,
    "unfold": lambda y: y.unfold(-1, 3, 1).sum(-1).repeat(1, 2)[:, :8],
    "width_as_number": lambda y: y / y.shape[-1] ** 0.5,
    "width_as_power": lambda y: y * 0.9 ** y.shape[1],
    "argmax": lambda y: F.one_hot(y.argmax(-1), 8).to(y.dtype) + y,
    "masked_select": lambda y: y.where(y > 0, 0.1) + torch.arange(8, dtype=y.dtype),
    "determinant": lambda y: y * torch.linalg.det(y.view(-1, 2, 2, 2)).sum(),
    "triangle": lambda y: torch.tril(y[:, None] * y[:, :, None]).sum(-1),
    "inverse": lambda y: y @ torch.linalg.inv(torch.eye(8, dtype=y.dtype) * 3 + 0.1),
    "quantile": lambda y: y - y.quantile(0.5, dim=-1, keepdim=True),
    "complex_pairs": lambda y: torch.view_as_real(torch.view_as_complex(y.view(-1, 4, 2)) * 1j).flatten(1),
    "convolved_channels": lambda y: F.conv1d(y[:, None], torch.ones(1, 1, 3, dtype=y.dtype), padding=1)[:, 0],
    "pooled_channels": lambda y: F.avg_pool1d(y[:, None], 3, 1, 1)[:, 0],
    "local_response": lambda y: F.local_response_norm(y[..., None], 3)[..., 0],
    "interpolated_channels": lambda y: F.interpolate(y[:, None], size=8, mode="nearest")[:, 0].roll(1, 1),
    "bit_tricks": lambda y: y * (y.shape[-1] >> 1),
    "cumulative_maximum": lambda y: y.cummax(-1).values,
}


def cases() -> Iterator[Case]:
    x = torch.randn(4, 5)
    for name, stop in STOPS.items():
        yield entry(f"stopped_by_{name}", lambda stop=stop: (Stopped(stop), x))
