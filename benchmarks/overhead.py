"""What regularizers and schedules add to a training step of a ResNet-50: python -m benchmarks.overhead [--batch 8]

Each hook's own time is told as a share of what a whole step takes without it (medians; on the CPU, processor time of
all threads). Pruning itself (choosing masks, making a plan) happens once in many steps: its time is told apart, with
the number of steps between two after which it adds less than 1 %.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from fnmatch import fnmatch
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prunus
from prunus import masks
from prunus.report.tables import Table
from prunus.train import EMA
from prunus.train.regularizers import HESSO, L0, GroupLasso, GroupNorm, Growing, Slimming

FAR = 10**6


def network(device: str) -> nn.Module:
    from torchvision.models import resnet50

    torch.manual_seed(0)
    model: nn.Module = resnet50(weights=None).to(device)
    return model


def hooks(example: Tensor) -> dict[str, Callable[[nn.Module, torch.optim.Optimizer], Any]]:
    """What is measured, by name."""

    def sparse(model: nn.Module) -> prunus.Sparsifier:
        return prunus.Sparsifier(model).prune(0.5, "random")

    def fours(model: nn.Module) -> prunus.Sparsifier:
        return prunus.Sparsifier(model, skip=["conv1"])  # of three channels

    def graph(model: nn.Module) -> Any:
        return prunus.trace(model, example)

    return {
        "Slimming": lambda model, _: Slimming(model),
        "GroupLasso, subgradient": lambda model, _: GroupLasso(graph(model)),
        "GroupLasso, proximal": lambda model, optimizer: GroupLasso(graph(model), 1e-4, optimizer),
        "GroupNorm": lambda model, _: GroupNorm(graph(model)),
        "Growing": lambda model, _: Growing(model, prunus.plan(model, example, ratio=0.5)),
        "L0": lambda model, _: L0(graph(model)),
        "HESSO, forgetting": lambda model, _: HESSO(graph(model), 0.5, begin=0, length=FAR, periods=1),
        "masks held (Sparsifier)": lambda model, _: sparse(model),
        "Gradual between prunings": lambda model, _: masks.Gradual(sparse(model), 0.9, end=FAR, every=FAR),
        "RigL between moves": lambda model, _: masks.RigL(sparse(model), every=FAR, end=FAR),
        "SET between moves": lambda model, _: masks.SET(sparse(model), every=FAR),
        "Movement between prunings": lambda model, _: masks.Movement(sparse(model), 0.9, begin=FAR, end=FAR),
        "Movement, soft": lambda model, _: masks.Movement(prunus.Sparsifier(model), threshold=0.45, penalty=0.1),
        "SR-STE": lambda model, _: masks.SRSTE(fours(model)),
        "SoftFilter": lambda model, _: masks.SoftFilter(prunus.Sparsifier(model), 0.5),
        "EMA": lambda model, _: EMA(model),
    }


def rare(example: Tensor, device: str) -> dict[str, float]:
    """Seconds of what is done once in many steps."""
    model = network(device)
    sparse = prunus.Sparsifier(model)
    graph = prunus.trace(model, example)
    return {
        "HESSO chooses (a plan)": _timed(lambda: prunus.plan(graph, ratio=0.5), device),
        "Gradual prunes, local": _timed(lambda: sparse.prune(0.5), device),
        "Gradual prunes, global": _timed(lambda: sparse.prune(0.6, scope="global"), device),
        "SoftFilter chooses": _timed(masks.SoftFilter(prunus.Sparsifier(model), 0.5).epoch_end, device),
    }


def _timed(work: Callable[[], Any], device: str) -> float:
    """On the CPU, processor time: neighbours don't count."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    _wait(device)
    started = clock()
    work()
    _wait(device)
    return clock() - started


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def step_time(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, count: int, device: str) -> float:
    """Median seconds of a step without any hook, after one that isn't counted. Gradients are left."""
    targets = torch.arange(len(inputs), device=device) % 1000

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()

    return statistics.median([_timed(step, device) for _ in range(count + 1)][1:])


def hook_time(hook: Any, count: int, device: str) -> float:
    """Median seconds of ``before_step`` and ``after_step`` together, after a call that isn't counted."""
    found = []
    for _ in range(count + 1):
        found.append(_timed(hook.before_step, device) + _timed(hook.after_step, device))
    return statistics.median(found[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", default="*", help="a shell pattern of names")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    inputs = torch.randn(options.batch, 3, 224, 224, device=options.device)
    model = network(options.device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    step = step_time(model, optimizer, inputs, options.steps, options.device)
    rows = []
    for name, make in hooks(inputs[:1]).items():
        if not fnmatch(name, options.only):
            continue
        added = hook_time(make(model, optimizer), options.steps, options.device)
        rows.append((name, f"{added * 1000:.1f} ms", f"{added / step:.1%}"))
        print(*rows[-1], sep="  ", flush=True)
    title = f"ResNet-50, batch {options.batch} of 224x224, {options.device}, {options.threads} thread(s): {step:.2f} s"
    print(Table(title, ("hook", "time", "of a step"), tuple(rows)).plain())
    seldom = [
        (name, f"{seconds:.2f} s", f"{seconds / step / 0.01:.0f}")
        for name, seconds in rare(inputs[:1], options.device).items()
    ]
    print(Table("Now and then", ("what", "time", "1 % if once in ... steps"), tuple(seldom)).plain())


if __name__ == "__main__":
    main()
