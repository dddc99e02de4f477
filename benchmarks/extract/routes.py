"""What each route from masks to a small network makes of the same masks, on inputs of two sizes.

Half of the filters of every convolution are masked by L1. torch-simplify 1.1.4 runs as by default (``fuse_bn=True``)
and in its exact mode. NNI 3.0's own tracer doesn't run on today's torch: it is given a graph of ``torch.fx``; it takes
for dead what doesn't vary in a sample, so it is exact only where nothing dead emits anything: those rows have "no
shifts" (biases, shifts and running means zero), as a network has before training. "Dropping" is ``mode="drop"`` of
``prunus.extract``: what cutting dead filters without looking comes to.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils import prune

import prunus
from benchmarks.extract.models import awaken, classifier
from benchmarks.nni_speedup import nni_speedup
from benchmarks.zoo.case import randomize

MODELS = (
    *("alexnet", "vgg11_bn", "resnet18", "densenet121"),
    *("googlenet", "squeezenet1_0", "mobilenet_v2", "shufflenet_v2_x1_0"),
)
SIDE, OTHER = 224, 256
Masks = Mapping[str, Tensor]
Way = Callable[[nn.Module, Tensor, Masks], nn.Module]


@dataclass(frozen=True)
class Route:
    """What one route made of one model.

    Attributes:
        error: ``max|small - masked| / max|masked|`` in fp32 on another input of the size it was given.
        elsewhere: the same on a larger image; what it raised, if it did.
        why: what went wrong, if anything did.
    """

    name: str
    route: str
    before: int = 0
    after: int = 0
    error: float = float("inf")
    elsewhere: str = ""
    seconds: float = 0.0
    why: str = ""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    def __str__(self) -> str:
        told = self.why or f"{self.before:,} -> {self.after:,}, {self.error:.1e}, elsewhere {self.elsewhere}"
        return f"{self.name}, {self.route}: {told} ({self.seconds:.1f} s)"


def masked(name: str, shifts: bool) -> tuple[nn.Module, Tensor, dict[str, Tensor]]:
    """A model with its masks made permanent (all tools read zeros), an image, and the masks."""
    torch.manual_seed(0)
    model, inputs = classifier(name, SIDE)
    randomize(model.eval())
    masks = {}
    for path, module in model.named_modules():
        if not shifts and isinstance(module, (_NormBase, nn.Conv2d)):
            _silence(module)
        if isinstance(module, nn.Conv2d):
            masks[path] = prune.ln_structured(module, "weight", 0.5, n=1, dim=0).weight_mask.clone()
            prune.remove(module, "weight")
    if shifts:
        awaken(model, inputs)
    return model, inputs["x"], masks


def _silence(module: Any) -> None:
    with torch.no_grad():
        for tensor in (module.bias, getattr(module, "running_mean", None)):
            if tensor is not None:
                tensor.zero_()


def _prunus(model: nn.Module, x: Tensor, masks: Masks) -> nn.Module:
    return prunus.extract(model, x)


def _drop(model: nn.Module, x: Tensor, masks: Masks) -> nn.Module:
    return prunus.extract(model, x, mode="drop")


def _simplify(fuse: bool) -> Way:
    def work(model: nn.Module, x: Tensor, masks: Masks) -> nn.Module:
        import simplify

        result: nn.Module = simplify.simplify(model, torch.zeros_like(x), fuse_bn=fuse)
        return result

    return work


def _nni(model: nn.Module, x: Tensor, masks: Masks) -> nn.Module:
    nni_speedup(model, x, {name: {"weight": mask} for name, mask in masks.items()})
    return model


ROUTES: Mapping[str, tuple[Way, bool]] = {
    "prunus.extract": (_prunus, True),
    "torch-simplify, fuse_bn=False": (_simplify(False), True),
    "torch-simplify, default": (_simplify(True), True),
    "NNI speedup": (_nni, True),
    "dropping": (_drop, True),
    "prunus.extract, no shifts": (_prunus, False),
    "NNI speedup, no shifts": (_nni, False),
}


def died(name: str, route: str) -> Route:
    """The outcome where the process that judged ended before it did."""
    return Route(name, route, why="the process died")


def judge(name: str, route: str) -> Route:
    torch.set_num_threads(1)
    way, shifts = ROUTES[route]
    model, x, masks = masked(name, shifts)
    before, mine = sum(p.numel() for p in model.parameters()), copy.deepcopy(model)
    start = time.process_time()
    try:
        small = way(mine, x, masks).eval()
    except Exception as error:  # noqa: BLE001 - a peer may fail in any way: that is the result
        return Route(name, route, before, why=f"{type(error).__name__}: {' '.join(str(error).split())[:80]}")
    seconds = time.process_time() - start
    after = sum(p.numel() for p in small.parameters())
    draw = torch.Generator().manual_seed(5)
    try:
        found = _error(model, small, torch.randn(x.shape, generator=draw))
    except Exception as error:  # noqa: BLE001 - see above
        return Route(name, route, before, after, seconds=seconds, why=_told(error))
    try:
        elsewhere = f"{_error(model, small, torch.randn(1, 3, OTHER, OTHER, generator=draw)):.1e}"
    except Exception as error:  # noqa: BLE001 - see above
        elsewhere = _told(error)
    return Route(name, route, before, after, found, elsewhere, seconds)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"


def _error(model: nn.Module, small: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        expected, found = model(x), small(x)
    if found.shape != expected.shape:
        raise ValueError(f"gives {list(found.shape)} for {list(expected.shape)}")
    return float((expected - found).abs().max() / expected.abs().max())
