"""Budgets of latency in ONNX Runtime, and what cut arithmetic brings there.

    python -m benchmarks.latency            # ResNet-50, MobileNetV2 and ViT-B/16 at batch 8, then CREPE-tiny
    python -m benchmarks.latency resnet50   # one of them
    python -m benchmarks.latency vit_b_16 --budget macs

For each model: a plan for half of the latency, timed whole; a plan for half of the MACs with channels in the runtime's
steps, and its speed-up beside the ratio of MACs. For CREPE-tiny, pretrained: the plan for half of the MACs beside the
plan for the latency that it comes to, at most 75 %, both mended on the same data. Exit code 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

import prunus
from benchmarks.accuracy.tasks import TASKS
from prunus.deploy.latency import Runtime

UNITS = ("latency", "macs")
GOALS = {"resnet50": 0.9, "mobilenet_v2": 0.8, "vit_b_16": 0.8}
BATCH, THREADS, REPEATS = 8, 1, 9


def main() -> int:
    """Print the tables; the number of goals that were missed decides the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=[*GOALS, "crepe"])
    parser.add_argument("--budget", choices=UNITS, help="this one alone, for the models of torchvision")
    options = parser.parse_args()
    names, units = options.names, [options.budget] if options.budget else UNITS
    torch.set_num_threads(THREADS)
    runtime = Runtime("onnx", repeats=REPEATS)
    missed = 0
    print("| model | budget | taken | share of dense | error | MACs left | speed-up | per MACs cut | goal | s |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for name in names:
        if name in GOALS:
            missed += vision(name, runtime, units)
    if "crepe" in names:
        missed += same_accuracy(runtime)
    return int(missed > 0)


def vision(name: str, runtime: Runtime, units: Sequence[str]) -> int:
    """A line for half of each unit of a torchvision model; random weights, whose sizes are all that counts here."""
    import torchvision

    torch.manual_seed(0)
    model, x = torchvision.models.get_model(name).eval(), torch.randn(BATCH, 3, 224, 224)
    graph, missed = prunus.trace(model, x), 0
    for budget in ({unit: "50%"} for unit in units):
        start = time.perf_counter()
        plan = prunus.plan(graph, budget=budget, round_to=runtime.backend.step, runtime=runtime)
        before, after = plan.how["costs"]["macs"]
        told = plan.how.get("latency")
        if told is None:
            dense, small = runtime.compare(model, plan.apply(model), graph.args)
        else:
            dense, small = told["dense_ms"], told["measured_ms"]
        realised = (dense / small) / (before / after)
        holds = told is None or small <= 1.05 * told["limit_ms"]
        reached = realised >= GOALS[name] if told is None else holds
        missed += not reached
        error = "" if told is None else f"{told['error']:+.1%}"
        print(
            f"| {name} | {budget} | {small:.1f} ms | {small / dense:.1%} | {error} | {after / before:.1%} | "
            f"{dense / small:.2f} | {realised:.2f} | {GOALS[name] if told is None else 'within 5 %'}"
            f"{'' if reached else ' MISSED'} | {time.perf_counter() - start:.0f} |",
            flush=True,
        )
    return missed


def same_accuracy(runtime: Runtime) -> int:
    """CREPE-tiny: the plan for the latency of the plan for half of the MACs must score as high, and take as long."""
    task: Any = TASKS["crepe"](0)
    model: nn.Module = task.model
    x = task.example[:1].repeat(BATCH, *[1] * (task.example.dim() - 1))
    graph = prunus.trace(model, x)
    by_macs = _mended(graph, task, budget={"macs": "50%"})
    dense, there = runtime.compare(model, by_macs, graph.args)
    print(f"\nCREPE-tiny, dense {dense:.2f} ms, {task.score(model):.2f} %; both mended on the same data:\n")
    print("| plan | time | score |\n| --- | ---: | ---: |")
    print(f"| half of the MACs | {there / dense:.1%} of dense | {task.score(by_macs):.2f} % |")
    share = f"{min(100 * there / dense, 75):.2f}%"  # cut channels may come out slower than whole vectors of them
    by_latency = _mended(graph, task, budget={"latency": share}, runtime=runtime)
    before, after = runtime.compare(model, by_latency, graph.args)
    print(f"| for latency, {share} | {after / before:.1%} of dense | {task.score(by_latency):.2f} % |")
    return int(task.score(by_latency) < task.score(by_macs) or after / before > 1.05 * there / dense)


def _mended(graph: Any, task: Any, **request: Any) -> nn.Module:
    plan = prunus.plan(graph, **request)
    small = plan.apply(graph.model)
    prunus.compensate(graph.model, small, plan, task.data, graph.args)
    return small


if __name__ == "__main__":
    sys.exit(main())
