"""torchvision's detectors in a form that a graph can hold: the same numbers, but no question about how many boxes.

torch.export can't know how many boxes an image gives: it stops where Python asks (``len(boxes)``, a loop over them).
Each function here stands for the one of torchvision that has its name; exported files are compared with that.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor


@contextmanager
def detectors_as_graphs() -> Iterator[None]:
    """Within, those functions of torchvision that ask how many boxes there are, or loop over them, are replaced."""
    with ExitStack() as replaced:
        for module, name, ours in (
            ("ops.boxes", "batched_nms", _batched_nms),
            ("ops.poolers", "_multiscale_roi_align", _multiscale_roi_align),
            ("models.detection.transform", "paste_masks_in_image", _paste_masks_in_image),
            ("models.detection.roi_heads", "heatmaps_to_keypoints", _heatmaps_to_keypoints),
        ):
            theirs = sys.modules.get(f"torchvision.{module}")
            if theirs is not None and name in vars(theirs):
                replaced.enter_context(patch.object(theirs, name, ours))
        yield


def _batched_nms(boxes: Tensor, scores: Tensor, classes: Tensor, threshold: float) -> Any:
    """Boxes of each class are moved to a place of their own, as torchvision does where there are few."""
    largest = torch.cat([boxes.flatten(), boxes.new_zeros(1)]).max()
    offsets = classes.to(boxes) * (largest + 1)
    return _module("ops.boxes").nms(boxes + offsets[:, None], scores, threshold)


def _multiscale_roi_align(
    features: list[Tensor],
    boxes: list[Tensor],
    output_size: Sequence[int],
    sampling_ratio: int,
    scales: list[float],
    mapper: Any,
) -> Tensor:
    """Level by level as torchvision does; then gathered into the boxes' order, instead of written into a result.

    Returns:
        ``[boxes, channels, *output_size]``.
    """
    poolers = _module("ops.poolers")
    regions = poolers._convert_to_roi_format(boxes)
    levels, count = mapper(boxes), regions.shape[0]
    pooled = [
        poolers.roi_align(feature, regions[levels == level], output_size, scale, sampling_ratio)
        for level, (feature, scale) in enumerate(zip(features, scales, strict=True))
    ]
    by_level = (levels * count + torch.arange(count, device=levels.device)).argsort()  # no two alike: a stable order
    return torch.cat(pooled)[by_level.argsort()]


def _paste_masks_in_image(masks: Tensor, boxes: Tensor, image: Sequence[int], padding: int = 1) -> Tensor:
    """Masks ``[boxes, 1, size, size]`` in images ``[boxes, 1, *image]``: bilinear interpolation as two products."""
    heads = _module("models.detection.roi_heads")
    masks, scale = heads.expand_masks(masks, padding=padding)
    left, top, right, bottom = heads.expand_boxes(boxes, scale).to(torch.int64).unbind(1)
    rows = _bilinear(top, bottom, masks.shape[2], image[0])
    columns = _bilinear(left, right, masks.shape[3], image[1])
    return rows[:, None].to(masks) @ masks @ columns[:, None].mT.to(masks)


def _bilinear(first: Tensor, last: Tensor, cells: int, pixels: int) -> Tensor:
    """What ``cells``, stretched from the ``first`` pixel to the ``last``, give each: ``[boxes, pixels, cells]``."""
    pixel, cell = torch.arange(pixels, device=first.device), torch.arange(cells, device=first.device)
    inside = (pixel >= first[:, None]) & (pixel <= last[:, None])
    length = (last - first + 1).clamp(min=1)[:, None]
    place = ((pixel - first[:, None] + 0.5) * (cells / length) - 0.5).clamp(0, cells - 1)
    weight = (1 - (place[..., None] - cell).abs()).clamp(min=0)
    return weight * inside[..., None]


def _heatmaps_to_keypoints(maps: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """The highest point of each heat map ``[boxes, keypoints, size, size]``, stretched to its box: all boxes at once.

    Returns:
        Points ``[boxes, keypoints, 3]`` (x, y, 1) and their heights ``[boxes, keypoints]``.
    """
    sizes = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)  # width and height
    pixels = sizes.ceil()
    widest, tallest = torch.cat([pixels, pixels.new_ones(1, 2)]).amax(0).long()
    column, row = (torch.arange(_size(most), device=boxes.device) for most in (widest, tallest))
    columns, rows = _bicubic(column, pixels[:, 0], maps.shape[3]), _bicubic(row, pixels[:, 1], maps.shape[2])
    outside = (row >= pixels[:, 1, None])[:, :, None] | (column >= pixels[:, 0, None])[:, None]
    points, heights = [], []
    for heat in maps.unbind(1):  # one keypoint at a time: all would be as large as an image for each
        stretched = (rows @ heat @ columns.mT).masked_fill(outside, -torch.inf).flatten(1)
        peak = stretched.argmax(1)
        at = torch.stack([peak % widest, peak // widest], 1)
        places = (at + 0.5) * (sizes / pixels) + boxes[:, :2]
        points.append(torch.cat([places, torch.ones_like(places[:, :1])], 1))
        heights.append(stretched.amax(1))
    return torch.stack(points, 1), torch.stack(heights, 1)


def _size(most: Tensor) -> Any:
    """A number that depends on values, at least 1, as a size."""
    size: Any = most.item()
    torch._check(size >= 1)
    return size


def _bicubic(pixel: Tensor, lengths: Tensor, cells: int) -> Tensor:
    """What ``cells``, stretched to ``lengths`` pixels, give each ``pixel``: ``[boxes, pixels, cells]``.

    Keys' cubic convolution with a = -0.75 and the outermost cells repeated, as ``F.interpolate`` does.
    """
    cell = torch.arange(cells, device=pixel.device)
    place = (pixel + 0.5) * (cells / lengths)[:, None] - 0.5
    weights = place.new_zeros(())
    for tap in (-1, 0, 1, 2):
        source = place.floor() + tap
        far = (place - source).abs()
        within = (1.25 * far - 2.25) * far**2 + 1  # up to one cell away
        beyond = ((-0.75 * far + 3.75) * far - 6) * far + 3  # up to two
        hit = source.clamp(0, cells - 1)[..., None] == cell
        weights = weights + torch.where(far <= 1, within, beyond)[..., None] * hit
    return weights


def _module(name: str) -> Any:
    return sys.modules[f"torchvision.{name}"]
