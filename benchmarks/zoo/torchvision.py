"""torchvision: every model that it registers, with inputs as small as its architecture takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models import detection, optical_flow, quantization, segmentation, video
from torchvision.models.optical_flow import raft
from torchvision.models.video import mvit

from benchmarks.zoo.case import Case, Example, randomize

# With the part of the parameters that is left when every free atom is halved: more means that something is frozen.
SAMPLE = {
    "convnext_tiny": 0.27,
    "densenet121": 0.29,
    "efficientnet_b0": 0.33,
    "fasterrcnn_mobilenet_v3_large_320_fpn": 0.26,
    "googlenet": 0.32,
    "lraspp_mobilenet_v3_large": 0.27,
    "mc3_18": 0.26,
    "mnasnet0_5": 0.41,
    "mobilenet_v2": 0.35,
    "mobilenet_v3_small": 0.36,
    "regnet_x_400mf": 0.17,
    "quantizable_resnet18": 0.27,
    "raft_small": 0.27,
    "resnet18": 0.27,
    "resnext50_32x4d": 0.18,
    "shufflenet_v2_x0_5": 0.46,
    "squeezenet1_1": 0.36,
    "ssdlite320_mobilenet_v3_large": 0.29,
    "swin_t": 0.27,
}

SIZES = {"inception_v3": 96, "maxvit_t": 224}  # of the images, where 64 is too small


def cases() -> Iterator[Case]:
    yield from _of(models, _classifier)
    yield from _of(segmentation, _segmenter)
    yield from _of(detection, _detector)
    yield from _of(video, _video)
    yield from _of(optical_flow, _flow)
    for name in models.list_models(module=quantization):
        yield Case("torchvision", name, _quantized(name, True), refused="is quantized, and can't be cut: prune first")
        yield _case(name.replace("quantized", "quantizable"), _quantized(name, False))


def _of(module: ModuleType, builder: Callable[[str], Callable[[], Example]]) -> Iterator[Case]:
    for name in models.list_models(module=module):
        yield _case(name, builder(name))


def _case(name: str, build: Callable[[], Example]) -> Case:
    return Case("torchvision", name, build, left=SAMPLE.get(name, 0.5), sample=name in SAMPLE)


def _model(name: str, **options: Any) -> nn.Module:
    model: nn.Module = models.get_model(name, weights=None, **options)
    return model


def _classifier(name: str) -> Callable[[], Example]:
    def build() -> Example:
        more: dict[str, Any] = {"init_weights": False} if name in ("inception_v3", "googlenet") else {}
        if name.startswith("vit"):
            more = {"image_size": 56 if name == "vit_h_14" else 64}
        size = more.get("image_size", SIZES.get(name, 64))
        model = _model(name, **more)
        if name == "vit_h_14":  # all 32 blocks in fp64, several times over, don't fit into 24 GB
            del model.encoder.layers[8:]
        return Example(model, (torch.randn(2, 3, size, size),))

    return build


def _segmenter(name: str) -> Callable[[], Example]:
    def build() -> Example:
        more = {} if name.startswith("lraspp") else {"aux_loss": True}
        model = _model(name, weights_backbone=None, num_classes=5, **more)
        return Example(model, (torch.randn(1, 3, 64, 64),))

    return build


def _detector(name: str) -> Callable[[], Example]:
    def build() -> Example:
        options: dict[str, Any] = {"detections_per_img": 10, "topk_candidates": 20, "score_thresh": 0.0}
        if "rcnn" in name:
            options = {"box_detections_per_img": 10, "box_score_thresh": 0.0, "rpn_score_thresh": 0.0}
            options |= {"rpn_post_nms_top_n_test": 20, "rpn_pre_nms_top_n_test": 30}
        if not name.startswith("ssd"):  # those have one size
            options |= {"min_size": 96, "max_size": 128}
        model = _model(name, weights_backbone=None, num_classes=4, **options).eval()
        args = ([torch.rand(3, 96, 128), torch.rand(3, 80, 128)],)
        randomize(model)
        _spread(model, args)
        return Example(model, args)

    return build


def _spread(model: nn.Module, args: tuple[Any, ...]) -> None:
    """Scale each layer so that its outputs differ from place to place as much as its inputs do: with random weights as
    they come, all scores are alike, up to ties in the last digit, and boxes are empty.
    """
    seen: set[nn.Module] = set()

    def scale(layer: nn.Module, given: Any, out: Tensor) -> Tensor | None:
        if layer in seen or not out.numel():
            return None
        seen.add(layer)
        factor = 0.5 / out.std().item()
        layer.weight.mul_(factor)
        return layer.forward(*given)

    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)]
    hooks = [layer.register_forward_hook(scale) for layer in layers]
    with torch.no_grad():
        model(*args)
    for hook in hooks:
        hook.remove()


def _video(name: str) -> Callable[[], Example]:
    def build() -> Example:
        frames, size = (16, 224) if name == "s3d" else (4, 64)
        small = partial(mvit._mvit, spatial_size=(size, size), temporal_size=frames)
        with patch.object(mvit, "_mvit", lambda **options: small(**{**options, **small.keywords})):
            return Example(_model(name), (torch.randn(1, 3, frames, size, size),))

    return build


def _flow(name: str) -> Callable[[], Example]:
    def build() -> Example:
        images = tuple(torch.rand(1, 3, 128, 128) for _ in range(2))
        model = _model(name, corr_block=_Correlation())
        model.update_block.motion_encoder.register_forward_pre_hook(_in_one_precision)
        return Example(model, images, {"num_flow_updates": 2})

    return build


class _Correlation(raft.CorrBlock):  # type: ignore[misc]
    """torchvision makes coordinates in fp32; this runs in fp64 too."""

    def index_pyramid(self, centroids_coords: Tensor) -> Tensor:
        found: Tensor = super().index_pyramid(centroids_coords.to(self.corr_pyramid[0].dtype))
        return found


def _in_one_precision(module: nn.Module, args: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return args[0].to(args[1].dtype), args[1]


def _quantized(name: str, quantize: bool) -> Callable[[], Example]:
    def build() -> Example:
        model = _model(name, quantize=quantize)
        size = 96 if "inception" in name else 64
        return Example(model, (torch.randn(1, 3, size, size),))

    return build
