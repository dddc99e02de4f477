"""Pooling, resizing and sampling: batch and channels pass, spatial positions are frozen."""

from __future__ import annotations

from prunus.axes import Axes, Axis, product
from prunus.operators.table import Call, row


def _spatial(call: Call, n: int) -> list[Axes]:
    """All but the last ``n`` dimensions pass; those are positions, before and after."""
    axes = call.first()
    for axis in axes[len(axes) - n :]:
        call.freeze(axis, f"positions of {call.name}()")
    leading = axes[: len(axes) - n]
    positions = [tuple(call.fresh(s, f"positions of {call.name}()") for s in out.shape[-n:]) for out in call.outputs]
    return [(*leading, *p) for p in positions]


def _enter(names: str, n: int, preserves_zero: bool = True) -> None:
    for name in names.split():
        row(name, preserves_zero=preserves_zero)(lambda call, n=n: _spatial(call, n))  # type: ignore[misc]


_enter("max_pool2d_with_indices adaptive_max_pool2d", 2, preserves_zero=False)  # indices
_enter("max_pool3d_with_indices adaptive_max_pool3d", 3, preserves_zero=False)
_enter("avg_pool1d max_pool1d adaptive_avg_pool1d upsample_nearest1d _upsample_nearest_exact1d upsample_linear1d", 1)
_enter("reflection_pad1d replication_pad1d", 1)
_enter("avg_pool2d max_pool2d adaptive_avg_pool2d _adaptive_avg_pool2d", 2)
_enter("mkldnn_max_pool2d mkldnn_adaptive_avg_pool2d", 2)
_enter("upsample_nearest2d _upsample_nearest_exact2d upsample_bilinear2d _upsample_bilinear2d_aa", 2)
_enter("upsample_bicubic2d _upsample_bicubic2d_aa reflection_pad2d replication_pad2d", 2)
_enter("avg_pool3d adaptive_avg_pool3d _adaptive_avg_pool3d", 3)
_enter("upsample_nearest3d _upsample_nearest_exact3d upsample_trilinear3d reflection_pad3d replication_pad3d", 3)


@row("fractional_max_pool2d", preserves_zero=False)
def fractional_max_pool2d(call: Call) -> list[Axes]:
    """Each plane has random samples of its own, ``[batch, channels, 2]``."""
    samples = call.axes("random_samples")
    call.freeze(samples[-1], "coordinates")
    for mine, theirs in zip(call.first()[-3::-1], samples[-2::-1], strict=False):
        call.unify(mine, theirs)
    return _spatial(call, 2)


@row("max_unpool2d", "max_unpool3d")
def max_unpool(call: Call) -> list[Axes]:
    """Each plane is written where its own maxima were."""
    x, places = call.first(), call.axes("indices")
    for mine, theirs in zip(x, places, strict=True):
        call.unify(mine, theirs)
    return _spatial(call, 2 if "2d" in call.name else 3)


@row("affine_grid_generator", preserves_zero=False)
def affine_grid(call: Call) -> Axes:
    """A matrix ``[n, 2, 3]`` or ``[n, 3, 4]`` gives coordinates ``[n, h, w, 2]`` or ``[n, d, h, w, 3]``."""
    theta = call.axes("theta")
    for axis in theta[1:]:
        call.freeze(axis, "a matrix of affine_grid()")
    call.sized("size", 0, theta[0])
    return (theta[0], *(call.fresh(n, "positions of affine_grid()") for n in call.outputs[0].shape[1:]))


@row("grid_sampler_2d", "grid_sampler_3d", "grid_sampler", "cudnn_grid_sampler", preserves_zero=False)
def grid_sampler(call: Call) -> Axes:
    x, grid = call.first(), call.axes("grid")
    for axis in (*x[2:], grid[-1]):
        call.freeze(axis, "positions of grid_sampler()")
    call.unify(x[0], grid[0])
    return (x[0], x[1], *grid[1:-1])


@row("im2col")
def im2col(call: Call) -> Axes:
    """``[n, c, ...]`` to ``[n, c * window, positions]``."""
    axes = call.first()
    for axis in axes[-2:]:
        call.freeze(axis, "positions of unfold()")
    out = call.outputs[0].shape
    window = call.fresh(out[-2] // axes[-3].size, "a window of unfold()")
    return (*axes[:-3], product([axes[-3], window]), call.fresh(out[-1], "positions of unfold()"))


@row("col2im")
def col2im(call: Call) -> Axes:
    """``[n, c * window, positions]`` to ``[n, c, ...]``."""
    axes = call.first()
    out = call.outputs[0].shape
    channels, window = call.space.regroup([axes[-2]], [out[-3], axes[-2].size // out[-3]])
    for axis in (window, axes[-1]):
        call.freeze(axis, "positions of fold()")
    spatial: list[Axis] = [call.fresh(n, "positions of fold()") for n in out[-2:]]
    return (*axes[:-2], channels, *spatial)
