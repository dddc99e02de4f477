"""How models are called and what they return: keywords, nested inputs, loops over shapes, checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from benchmarks.zoo.case import Case
from benchmarks.zoo.handmade.entry import entry


class Keywords(nn.Module):
    """Keyword-only and optional inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.image, self.out = nn.Embedding(20, 12), nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, *, ids: Tensor, pixels: Tensor | None = None, scale: float = 1.0) -> dict[str, Any]:
        y = self.text(ids).mean(1)
        if pixels is not None:
            y = y + self.image(pixels) * scale
        return {"logits": self.out(y.relu()), "nothing": None}


class Nested(nn.Module):
    """A dict of lists in, nested tuples out."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.out = nn.ModuleDict({"a": nn.Linear(5, 12), "b": nn.Linear(7, 12)}), nn.Linear(24, 3)

    def forward(self, batch: dict[str, list[Tensor]]) -> tuple[Tensor, list[Tensor]]:
        parts = [sum(self.layers[key](x) for x in batch[key]).relu() for key in self.layers]
        return self.out(torch.cat(parts, -1)), [p.sum(-1) for p in parts]


class Pair(NamedTuple):
    logits: Tensor
    norm: Tensor


class Named(nn.Module):
    """A named tuple is returned, with a statistic beside."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Pair:
        y = self.a(x).relu()
        return Pair(self.b(y), y.square().sum(-1).sqrt())


@dataclass
class Settings:
    width: int = 16
    steps: int = 3


class Configured(nn.Module):
    """Sizes in a config object that is read in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.config = Settings()
        self.a, self.b, self.c = nn.Linear(5, self.config.width), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        for _ in range(self.config.steps):
            y = y + self.b(y).tanh()
        return self.c(y.reshape(-1, 16) if x.dim() > 9 else y)


class Steps(nn.Module):
    """Python loops over the shape of the input, windows cut out and joined."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Conv1d(4, 12, 3), nn.Linear(12, 12), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        pieces = []
        for start in range(0, x.shape[-1] - 4, 3):
            y = self.a(x[..., start : start + 5]).relu().amax(-1)
            pieces.append(self.b(y) if start % 2 else y)
        return self.out(torch.stack(pieces, 1))


class Checkpointed(nn.Module):
    """Blocks run under torch.utils.checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.out = nn.Linear(5, 16), nn.Linear(16, 3)
        self.blocks = nn.ModuleList(
            [nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16)) for _ in range(2)]
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        for block in self.blocks:
            y = y + checkpoint(block, y, use_reentrant=False)
        return self.out(y)


class Ignored(nn.Module):
    """Functions that torch.jit ignores or leaves unscripted, and a scripted helper's Python form."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 16), nn.Linear(16, 3)

    @torch.jit.ignore
    def _mixed(self, y: Tensor) -> Tensor:
        return y * torch.tensor([1.0, -1.0]).repeat(y.shape[-1] // 2)

    @torch.jit.unused
    def _doubled(self, y: Tensor) -> Tensor:
        return y + y

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).relu()
        return self.b(self._doubled(y) if torch.jit.is_scripting() else self._doubled(y).abs())


class Cached(nn.Module):
    """A table that is built on first use and kept on the module."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.table = nn.Linear(5, 12), nn.Linear(12, 3), None

    def _positions(self, n: int, width: int, x: Tensor) -> Tensor:
        if self.table is None or self.table.shape[0] < n:
            self.table = torch.ones(n, width, dtype=x.dtype, device=x.device) * 0.5
        return self.table[:n]

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.b((y + self._positions(y.shape[1], y.shape[2], y)).relu())


class Lists(nn.Module):
    """Layers held in a plain list beside the registered ones, hooks that change outputs, and a closure."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 12), nn.Linear(12, 12), nn.Linear(12, 3)
        self.order = [self.a, self.b]
        self.b.register_forward_hook(lambda module, args, output: output + args[0])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.order:
            x = layer(x).relu()
        return self.c(x)


class Training(nn.Module):
    """An auxiliary head that only training mode runs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out, self.auxiliary = (
            nn.Linear(5, 16),
            nn.Linear(16, 16),
            nn.Linear(16, 3),
            nn.Linear(16, 3),
        )

    def forward(self, x: Tensor) -> Any:
        y = self.a(x).relu()
        z = self.out(self.b(y).relu())
        return (z, self.auxiliary(y)) if self.training else z


class Ensemble(nn.Module):
    """The same network several times, parameters stacked, by vmap-like batched products."""

    def __init__(self, members: int = 3) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(members, 5, 16)), nn.Parameter(torch.randn(members, 16, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("mbh,mho->mbo", torch.einsum("bi,mih->mbh", x, self.a).relu(), self.b).sum(0)


def table() -> Tensor:
    return torch.randn(4, 5)


def cases() -> Iterator[Case]:
    ids, pixels = torch.arange(8).view(2, 4), torch.ones(2, 6)
    yield entry("keyword_inputs", lambda: (Keywords(), {"ids": ids, "pixels": pixels, "scale": 0.5}))
    yield entry("optional_input_missing", lambda: (Keywords(), {"ids": ids}), left=0.65, why="one branch isn't run")
    yield entry(
        "nested_inputs",
        lambda: (Nested(), ({"a": [torch.randn(2, 5), torch.randn(2, 5)], "b": [torch.randn(2, 7)]},)),
    )
    yield entry("named_tuple_output", lambda: (Named(), table()))
    yield entry("config_object", lambda: (Configured(), table()))
    yield entry("loop_over_windows", lambda: (Steps(), torch.randn(2, 4, 14)))
    yield entry("checkpointed", lambda: (Checkpointed(), table()))
    yield entry("ignored_by_jit", lambda: (Ignored(), table()))
    yield entry("cached_table", lambda: (Cached(), torch.randn(2, 6, 5)))
    yield entry("plain_list_and_hook", lambda: (Lists(), table()))
    yield entry("auxiliary_head", lambda: (Training(), table()))
    yield entry("ensemble", lambda: (Ensemble(), table()))
