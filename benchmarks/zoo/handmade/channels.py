"""Convolutional habits: splits, shuffles, gates, pyramids, and convolutions of every kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.zoo.case import Case
from benchmarks.zoo.handmade.entry import entry


class Between(nn.Module):
    """A convolution, something, a convolution and a head; the something may have layers of its own."""

    def __init__(self, between: Callable[[Tensor], Tensor] | nn.Module, after: int = 16) -> None:
        super().__init__()
        self.a, self.between = nn.Conv2d(3, 16, 3, padding=1), between
        self.b, self.head = nn.Conv2d(after, 12, 3, padding=1), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.between(self.a(x))).relu().mean((2, 3)))


class UNet(nn.Module):
    """Down, up by transposed convolutions, skips by concatenation or addition."""

    def __init__(self, skip: str = "cat", dims: int = 2, up: str = "transposed") -> None:
        super().__init__()
        conv, norm = getattr(nn, f"Conv{dims}d"), getattr(nn, f"BatchNorm{dims}d")
        transposed = getattr(nn, f"ConvTranspose{dims}d")
        self.skip = skip
        self.one = nn.Sequential(conv(2, 8, 3, padding=1), norm(8), nn.ReLU())
        self.two = nn.Sequential(conv(8, 12, 3, stride=2, padding=1), norm(12), nn.ReLU())
        self.three = nn.Sequential(conv(12, 16, 3, stride=2, padding=1), norm(16), nn.ReLU())
        if up == "transposed":
            self.up2, self.up1 = transposed(16, 12, 2, stride=2), transposed(12, 8, 3, 2, 1, output_padding=1)
        else:
            self.up2 = nn.Sequential(nn.Upsample(scale_factor=2), conv(16, 12, 1))
            self.up1 = nn.Sequential(nn.Upsample(scale_factor=2), conv(12, 8, 1))
        wide = 2 if skip == "cat" else 1
        self.join2, self.join1, self.out = (
            conv(12 * wide, 12, 3, padding=1),
            conv(8 * wide, 8, 3, padding=1),
            conv(8, 1, 1),
        )

    def _join(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([a, b], 1) if self.skip == "cat" else a + b

    def forward(self, x: Tensor) -> Tensor:
        a = self.one(x)
        b = self.two(a)
        c = self.three(b)
        c = self.join2(self._join(self.up2(c), b)).relu()
        return self.out(self.join1(self._join(self.up1(c), a)).relu())


class Convolutions(nn.Module):
    """One convolution after the other."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.leaky_relu(layer(x), 0.1)
        return self.layers[-1](x)


class SubPixel(nn.Module):
    """Super-resolution: the last convolution's channels become pixels."""

    def __init__(self, r: int = 2) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 12, 5, padding=2), nn.Conv2d(12, 8 * r * r, 3, padding=1)
        self.up, self.down, self.out = nn.PixelShuffle(r), nn.PixelUnshuffle(r), nn.Conv2d(8 * r * r, 3 * r * r, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(self.b(self.a(x).tanh())).relu()
        return self.up(self.out(self.down(y)))


class SqueezeExcite(nn.Module):
    """Channels gated by a small network on their means; ``conv`` with 1x1 convolutions instead of linears."""

    def __init__(self, conv: bool) -> None:
        super().__init__()
        self.conv = conv
        self.squeeze, self.excite = (
            (nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)) if conv else (nn.Linear(16, 4), nn.Linear(4, 16))
        )

    def forward(self, x: Tensor) -> Tensor:
        b, c, _, _ = x.size()
        y = F.adaptive_avg_pool2d(x, 1)
        y = y if self.conv else y.view(b, c)
        return x * self.excite(self.squeeze(y).relu()).sigmoid().view(b, c, 1, 1)


class EfficientAttention(nn.Module):
    """Channels gated by a one-dimensional convolution along them (ECA): neighbours count, so they stay."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x.mean((2, 3)).unsqueeze(1)).transpose(1, 2).unsqueeze(-1)
        return x * y.sigmoid()


class Spatial(nn.Module):
    """Spatial gate from the maximum over the channels (CBAM)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv(x.square().sum(1, keepdim=True)).sigmoid()


class Res2(nn.Module):
    """Slices of the channels, each convolved and added to the next (Res2Net)."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.width, self.how = 4, how
        self.convs = nn.ModuleList([nn.Conv2d(4, 4, 3, padding=1) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.split(x, self.width, 1) if self.how == "split" else torch.chunk(x, 4, 1)
        done, y = [], None
        for conv, part in zip(self.convs, parts, strict=False):
            y = conv(part if y is None else y + part).relu()
            done.append(y)
        return torch.cat([*done, parts[3]], 1)


class Ghost(nn.Module):
    """Half of the channels by a cheap depthwise convolution of the other half."""

    def __init__(self) -> None:
        super().__init__()
        self.main, self.cheap = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.width = 15

    def forward(self, x: Tensor) -> Tensor:
        y = self.main(x)
        return torch.cat([y, self.cheap(y)], 1)[:, : self.width]


class Pyramid(nn.Module):
    """Pooled to grids of several sizes, flattened and joined (SPP)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 10, 3), nn.Linear(10 * (1 + 4 + 9), 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).relu()
        return self.out(torch.cat([F.adaptive_max_pool2d(y, n).flatten(1) for n in (1, 2, 3)], 1))


class Aspp(nn.Module):
    """Dilated branches and an image-level one, resized to meet."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList([nn.Conv2d(16, 6, 3, padding=d, dilation=d) for d in (1, 2, 3)])
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 6, 1), nn.ReLU())
        self.project = nn.Conv2d(24, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        level = F.interpolate(self.pooled(x), size=x.shape[-2:], mode="bilinear", align_corners=False)
        return self.project(torch.cat([*(b(x) for b in self.branches), level], 1))


class Dense(nn.Module):
    """Each layer reads all that came before."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(16 + 4 * i, 4, 3, padding=1) for i in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)).relu())
        return torch.cat(features, 1)


class LayerScale(nn.Module):
    """A ConvNeXt block: depthwise, norm over channels last, inverted bottleneck, learned scale, residual."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(16, 16, 5, padding=2, groups=16), nn.LayerNorm(16)
        self.up, self.down = nn.Linear(16, 48), nn.Linear(48, 16)
        self.gamma = nn.Parameter(1e-6 * torch.ones(16))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.gamma * self.down(F.gelu(self.up(y)))).permute(0, 3, 1, 2)


class Selective(nn.Module):
    """Branches weighed by a softmax over branches (selective kernels)."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(16, 12, k, padding=k // 2) for k in (3, 5)])
        self.squeeze = nn.Linear(12, 6)
        self.weigh = nn.ModuleList([nn.Linear(6, 12) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        ys = torch.stack([conv(x).relu() for conv in self.convs], 1)
        z = self.squeeze(ys.sum(1).mean((2, 3))).relu()
        weights = torch.stack([w(z) for w in self.weigh], 1).softmax(1)
        return (ys * weights[..., None, None]).sum(1)


class Maxout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pieces = 3
        self.a, self.b = nn.Linear(5, 12 * 3), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).view(*x.shape[:-1], -1, self.pieces).amax(-1))


class Gated(nn.Module):
    """A gated convolution along time with a residual and a skip (WaveNet)."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.inp, self.gates = nn.Conv1d(3, 12, 1), nn.Conv1d(12, 24, 2, dilation=2)
        self.residual, self.skip, self.out = nn.Conv1d(12, 12, 1), nn.Conv1d(12, 10, 1), nn.Conv1d(10, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inp(x)
        z = self.gates(F.pad(y, (2, 0)))
        if self.how == "glu":
            z = F.glu(z, dim=1)
        else:
            a, b = z.chunk(2, 1)
            z = a.tanh() * b.sigmoid()
        y = y + self.residual(z)
        return self.out((self.skip(z) + self.skip(y)).relu())


class Warped(nn.Module):
    """Features sampled where a small network says (spatial transformer)."""

    def __init__(self) -> None:
        super().__init__()
        self.look, self.say = nn.Conv2d(3, 8, 3, stride=2), nn.Linear(8, 6)
        self.a, self.b, self.out = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 16, 1), nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        theta = self.say(self.look(x).relu().mean((2, 3))).view(-1, 2, 3)
        y = self.a(x)
        y = F.grid_sample(y, F.affine_grid(theta, y.size(), align_corners=False), align_corners=False)
        return self.out(self.b(y).relu())


class Unpooled(nn.Module):
    """Maxima go back to where they were (SegNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 12, 3, padding=1), nn.Conv2d(12, 2, 1)
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        y, places = self.pool(self.a(x))
        return self.out(self.unpool(self.b(y), places))


def shuffled(x: Tensor, groups: int = 4) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)


def image() -> Tensor:
    return torch.randn(2, 3, 8, 8)


def cases() -> Iterator[Case]:
    yield entry("unet", lambda: (UNet(), torch.randn(1, 2, 8, 8)))
    yield entry("unet_added", lambda: (UNet("add"), torch.randn(1, 2, 8, 8)))
    yield entry("unet_1d", lambda: (UNet(dims=1), torch.randn(1, 2, 16)))
    yield entry("unet_3d", lambda: (UNet(dims=3), torch.randn(1, 2, 4, 4, 4)))
    yield entry("unet_upsampled", lambda: (UNet(up="upsample"), torch.randn(1, 2, 8, 8)))
    yield entry(
        "grouped_convolutions",
        lambda: (
            Convolutions(
                nn.Conv2d(3, 16, 3),
                nn.Conv2d(16, 24, 3, groups=4),
                nn.Conv2d(24, 24, 3, groups=24),
                nn.Conv2d(24, 2, 1),
            ),
            image(),
        ),
    )
    yield entry(
        "grouped_transposed_convolutions",
        lambda: (
            Convolutions(
                nn.Conv2d(3, 16, 1),
                nn.ConvTranspose2d(16, 12, 3, stride=2, padding=1, output_padding=1, groups=4),
                nn.ConvTranspose2d(12, 12, 2, groups=12, dilation=2),
                nn.Conv2d(12, 2, 1),
            ),
            image(),
        ),
    )
    yield entry(
        "temporal_convolutions",
        lambda: (
            Convolutions(nn.Conv1d(3, 12, 3, dilation=2), nn.Conv1d(12, 16, 3, padding="same"), nn.Conv1d(16, 2, 1)),
            torch.randn(2, 3, 20),
        ),
    )
    yield entry(
        "circular_convolutions",
        lambda: (
            Convolutions(
                nn.Conv2d(3, 12, 3, padding=1, padding_mode="circular"),
                nn.Conv2d(12, 12, 3, padding=1, padding_mode="reflect"),
                nn.Conv2d(12, 2, 3, padding=1, padding_mode="replicate"),
            ),
            image(),
        ),
    )
    yield entry(
        "separable_3d",
        lambda: (
            Convolutions(nn.Conv3d(2, 8, (1, 3, 3)), nn.Conv3d(8, 12, (3, 1, 1)), nn.Conv3d(12, 2, 1)),
            torch.randn(1, 2, 4, 5, 5),
        ),
    )
    yield entry("spatial_transformer", lambda: (Warped(), image()))
    yield entry("unpooled", lambda: (Unpooled(), image()))
    yield entry("sub_pixel", lambda: (SubPixel(), image()))
    yield entry("channel_shuffle", lambda: (Between(shuffled), image()))
    yield entry("channel_shuffle_layer", lambda: (Between(nn.ChannelShuffle(4)), image()))
    yield entry("squeeze_excite", lambda: (Between(SqueezeExcite(False)), image()))
    yield entry("squeeze_excite_convolved", lambda: (Between(SqueezeExcite(True)), image()))
    yield entry("spatial_gate", lambda: (Between(Spatial()), image()))
    yield entry(
        "efficient_channel_attention",
        lambda: (Between(EfficientAttention()), image()),
        left=0.61,
        why="a convolution along the channels: their neighbours count",
    )
    yield entry("res2_split", lambda: (Between(Res2("split")), image()))
    yield entry("res2_chunk", lambda: (Between(Res2("chunk")), image()))
    yield entry("ghost", lambda: (Between(Ghost(), 15), image()))
    yield entry("spatial_pyramid", lambda: (Pyramid(), image()))
    yield entry("atrous_pyramid", lambda: (Between(Aspp()), image()))
    yield entry("dense_block", lambda: (Between(Dense(), 28), image()))
    yield entry("layer_scale", lambda: (Between(LayerScale()), image()))
    yield entry("selective_kernels", lambda: (Between(Selective(), 12), image()))
    yield entry("glu", lambda: (Between(nn.GLU(1), 8), image()))
    yield entry("maxout", lambda: (Maxout(), torch.randn(3, 5)))
    yield entry("wavenet_gate", lambda: (Gated("chunk"), torch.randn(2, 3, 10)))
    yield entry("wavenet_glu", lambda: (Gated("glu"), torch.randn(2, 3, 10)))
    yield entry("flip_halves", lambda: (Between(lambda x: torch.cat([x[:, 8:], x[:, :8]], 1)), image()))
    yield entry("flip_space", lambda: (Between(lambda x: x.flip(-1) + x.roll(1, 2)), image()))
    yield entry("crelu", lambda: (Between(lambda x: torch.cat([x, -x], 1).relu(), 32), image()))
    yield entry("every_second", lambda: (Between(lambda x: torch.cat([x[:, ::2], x[:, 1::2]], 1)), image()))
