"""Masks to a small network, beside torch-simplify 1.1.4: the same masks, in turns, one thread.

    make bench-extract        (installs the peer into .bench-peers, for this only)

Half of the filters of every convolution are masked by L1; biases and batch norms are random. Printed for each: the
parameters that are left, ``max|small - masked| / max|masked|`` in fp32, and the seconds that the extraction took.
torch-simplify runs with ``fuse_bn=False``, its exact mode; it is given the size of the input, which its result is bound
to, and prunus isn't.
"""

from __future__ import annotations

import copy
import sys
import time
import warnings
from collections.abc import Callable

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.utils import prune

import prunus
from benchmarks.zoo.case import randomize

MODELS = (
    *("alexnet", "vgg11_bn", "resnet18", "densenet121"),
    *("googlenet", "squeezenet1_0", "mobilenet_v2", "shufflenet_v2_x1_0"),
)
AMOUNT = 0.5


def masked(name: str) -> nn.Module:
    """The model with its masks made permanent: both tools read zeros."""
    torch.manual_seed(0)
    model: nn.Module = torchvision.models.get_model(name, weights=None).eval()
    randomize(model)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            prune.ln_structured(module, "weight", AMOUNT, n=1, dim=0)
            prune.remove(module, "weight")
    return model


def ours(model: nn.Module, x: Tensor) -> nn.Module:
    return prunus.extract(model, x)


def peers(model: nn.Module, x: Tensor) -> nn.Module:
    import simplify

    result: nn.Module = simplify.simplify(model, torch.zeros_like(x), fuse_bn=False)
    return result


def judged(work: Callable[[nn.Module, Tensor], nn.Module], model: nn.Module, x: Tensor) -> str:
    mine = copy.deepcopy(model)
    start = time.process_time()
    try:
        small = work(mine, x)
    except Exception as error:  # noqa: BLE001 - the peer may fail in any way: that is a result
        return f"{type(error).__name__}: {str(error)[:60]}"
    seconds = time.process_time() - start
    with torch.no_grad():
        expected, found = model(x), small.eval()(x)
    parameters = f"{sum(p.numel() for p in small.parameters()):>11,}"
    if found.shape != expected.shape:
        return f"{parameters}  gives {list(found.shape)} for {list(expected.shape)}"
    error = float((expected - found).abs().max() / expected.abs().max())
    return f"{parameters}  {error:.1e}  {seconds:5.1f} s"


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    print(f"{'':<20}{'dense':>12}   {'prunus':<32} torch-simplify")
    for name in sys.argv[1:] or MODELS:
        model, x = masked(name), torch.randn(1, 3, 224, 224)
        dense = sum(p.numel() for p in model.parameters())
        print(f"{name:<20}{dense:>12,}   {judged(ours, model, x):<32} {judged(peers, model, x)}", flush=True)


if __name__ == "__main__":
    main()
