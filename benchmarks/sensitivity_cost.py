"""What sensitivity costs beyond its evaluations.

    python -m benchmarks.sensitivity_cost [--model resnet50] [--size 64] [--groups 4] [--images 64] [--repeats 3]

Processor seconds of `prunus.sensitivity` at 8 ratios, over (points x one evaluation of the uncut model). At most 1.2 is
the goal. Points are independent: each makes one network and evaluates it, so a few groups stand for all; what is done
once (trace and scores) is shared out over fewer points than it would be, so it is told apart. Timed with whichever way
is faster, and with really smaller networks alone. Medians, one thread, random weights. Exit code 1 where it is missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import torch
import torchvision
from torch import nn

import prunus

RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
GOAL = 1.2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--groups", type=int, default=4, help="evenly spaced ones of all")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = torchvision.models.get_model(options.model).eval()
    images = torch.randn(options.images, 3, options.size, options.size)

    @torch.no_grad()
    def evaluate(network: nn.Module) -> float:
        return sum(float(network(part).std()) for part in images.split(32))

    graph = prunus.trace(model, images[:1])
    free = [g.name for g in graph.free if g.size > 1 and g.atom not in graph.sizes.followers]
    chosen = free[:: max(1, len(free) // options.groups)][: options.groups]
    print(
        f"{options.model}: {len(chosen)} of {len(free)} groups, 8 ratios, {options.images} images of {options.size}²\n"
    )
    print("| way | one evaluation | a point | once | cost over points x one evaluation | for all groups |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    missed = 0
    for method in ("auto", "small"):
        runs = [_run(model, images[:1], evaluate, chosen, method) for _ in range(options.repeats)]
        one, once, points = (statistics.median(run[i] for run in runs) for i in range(3))
        number, every = len(chosen) * len(RATIOS), len(free) * len(RATIOS)
        ratio = (once + points) / (number * one)
        whole = (once + points / number * every) / (every * one)
        missed += whole > GOAL
        each = points / number
        print(f"| {method} | {one:.2f} s | {each:.2f} s | {once:.2f} s | {ratio:.2f} | {whole:.2f} |", flush=True)
    return int(missed > 0)


def _run(model: nn.Module, x: torch.Tensor, evaluate: object, groups: list[str], method: str) -> list[float]:
    """Processor seconds of: one evaluation, what is done before the first point, all points."""
    evaluations: list[float] = []
    started: list[float] = []

    def timed(network: nn.Module) -> float:
        start = time.process_time()
        started.append(start)
        value: float = evaluate(network)  # type: ignore[operator]
        evaluations.append(time.process_time() - start)
        return value

    timed(model)
    begin = time.process_time()
    prunus.sensitivity(model, x, evaluate=timed, ratios=RATIOS, groups=groups, method=method)
    end = time.process_time()
    one = statistics.median(evaluations[:2])  # both of the uncut model
    return [one, started[1] - begin, end - started[1] - evaluations[1]]


if __name__ == "__main__":
    sys.exit(main())
