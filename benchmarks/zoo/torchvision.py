"""torchvision: every model that it registers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torchvision

from benchmarks.zoo.case import Case, Example

# With the part of the parameters that is left when every free atom is halved: more means that something is frozen.
SAMPLE = {
    "convnext_tiny": 0.27,
    "densenet121": 0.29,
    "efficientnet_b0": 0.33,
    "googlenet": 0.32,
    "mnasnet0_5": 0.41,
    "mobilenet_v2": 0.35,
    "mobilenet_v3_small": 0.36,
    "regnet_x_400mf": 0.17,
    "resnet18": 0.27,
    "resnext50_32x4d": 0.18,
    "shufflenet_v2_x0_5": 0.46,
    "squeezenet1_1": 0.36,
    "swin_t": 0.27,
}


def cases() -> Iterator[Case]:
    for name in torchvision.models.list_models(module=torchvision.models):
        yield Case("torchvision", name, _classifier(name), left=SAMPLE.get(name, 0.5), sample=name in SAMPLE)


def _classifier(name: str) -> Callable[[], Example]:
    def build() -> Example:
        more = {"init_weights": False} if name in ("inception_v3", "googlenet") else {}
        size = 299 if name == "inception_v3" else 224
        model = torchvision.models.get_model(name, weights=None, **more)
        return Example(model, (torch.randn(2, 3, size, size),))

    return build
