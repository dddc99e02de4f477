"""Speed of trace + plan + apply, beside Torch-Pruning 1.6.1 doing the same work in the same process, and its growth.

    make bench        (installs the peer into .bench-peers, for this only)

Both halve every layer by L2 magnitude with the classifier kept, one thread, in turns; the medians of the processor time
and the median of the paired ratios are printed. Torch-Pruning is given what its README asks for: the head counts of
attention layers. A run of it that takes longer than the cap is stopped.
"""

from __future__ import annotations

import copy
import signal
import statistics
import time
import warnings
from collections.abc import Callable
from types import FrameType

import torch
import torchvision
from torch import nn

import prunus

CAP = 60
PAIRS = 5
MODELS = ("resnet50", "vit_b_16", "convnext_tiny", "swin_t")


class TooSlowError(Exception):
    """The peer's time was up."""


def ours(model: nn.Module, x: torch.Tensor) -> nn.Module:
    return prunus.plan(model, x, ratio=0.5, importance="l2").apply(model)


def peers(model: nn.Module, x: torch.Tensor) -> nn.Module:
    import torch_pruning as tp

    heads = {m: m.num_heads for m in model.modules() if isinstance(m, nn.MultiheadAttention)}
    kept = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == 1000]
    pruner = tp.pruner.MagnitudePruner(
        model,
        x,
        importance=tp.importance.MagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=kept,
        num_heads=heads,
        prune_num_heads=bool(heads),
        head_pruning_ratio=0.5,
    )
    pruner.step()
    return model


def timed(work: Callable[[nn.Module, torch.Tensor], nn.Module], model: nn.Module, x: torch.Tensor) -> float:
    """Processor seconds that the work takes on a fresh copy (made before the clock starts); infinity at the cap."""
    mine = copy.deepcopy(model)

    def stop(signum: int, frame: FrameType | None) -> None:
        raise TooSlowError

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(CAP)
    start = time.process_time()
    try:
        work(mine, x)
        return time.process_time() - start
    except TooSlowError:
        return float("inf")
    finally:
        signal.alarm(0)


def compare(name: str) -> None:
    """Pairs of runs in turn, after one of each to warm up."""
    model, x = torchvision.models.get_model(name, weights=None).eval(), torch.randn(1, 3, 224, 224)
    timed(ours, model, x)
    first = timed(peers, model, x)
    pairs = PAIRS if first < CAP / 4 else 1
    found = [(timed(ours, model, x), timed(peers, model, x) if first < CAP else first) for _ in range(pairs)]
    mine, theirs = (statistics.median(column) for column in zip(*found, strict=True))
    ratio = statistics.median(b / a for a, b in found)
    told = f"{theirs:7.2f} s  {ratio:5.1f}x" if theirs < CAP else f"not within {CAP} s"
    print(f"{name:<16} prunus {mine:6.3f} s   Torch-Pruning {told}", flush=True)


def growth() -> None:
    """A ViT of 12, 24, 48 and 96 layers."""
    times = {}
    for layers in (12, 24, 48, 96):
        model = torchvision.models.VisionTransformer(224, 16, layers, 6, 192, 768).eval()
        x = torch.randn(1, 3, 224, 224)
        times[layers] = statistics.median(timed(ours, model, x) for _ in range(3))
        print(
            f"ViT, {layers:>2} layers  {times[layers]:6.3f} s   {times[layers] / layers * 1e3:5.1f} ms a layer",
            flush=True,
        )


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    for name in MODELS:
        compare(name)
    growth()


if __name__ == "__main__":
    main()
