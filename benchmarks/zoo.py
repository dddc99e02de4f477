"""Coverage: every torchvision classification model, every free atom halved, proven in fp64.

    python -m benchmarks.zoo [NAME ...] [--quick] [--write docs/coverage.md]

Weights are random, every affine parameter and statistic too, so that nothing is hidden behind a zero or a one.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

import prunus

TOLERANCE = 1e-9


@dataclass(frozen=True)
class Result:
    """What came of one model: ``left`` is the part of the parameters that stays, ``error`` relative in fp64."""

    name: str
    seconds: float
    left: float
    error: float
    free: int
    groups: int
    why: str

    @property
    def ok(self) -> bool:
        return self.error <= TOLERANCE


def names() -> list[str]:
    """The classification models of torchvision, quantized ones aside."""
    return list(torchvision.models.list_models(module=torchvision.models))


def build(name: str) -> nn.Module:
    """The model with random weights and random affine parameters and statistics, in eval mode."""
    torch.manual_seed(0)
    more = {"init_weights": False} if name in ("inception_v3", "googlenet") else {}
    model = torchvision.models.get_model(name, weights=None, **more).eval()
    randomize(model)
    return model


def randomize(model: nn.Module) -> None:
    """Random values wherever an initialization puts zeros, ones or other constants."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() < 2:
                parameter.uniform_(0.5, 1.5)
            elif parameter.std() < 1e-8:
                parameter.normal_(0, 0.05)
        for module in model.modules():
            if isinstance(module, _NormBase) and module.running_mean is not None:
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)


def example(name: str) -> torch.Tensor:
    """Two random images; two, so that batch norm has something to average in training mode."""
    return torch.randn(2, 3, 299 if name == "inception_v3" else 224, 299 if name == "inception_v3" else 224)


def check(name: str, prove: bool = True) -> Result:
    """Halve everything that is free in one model, and prove the result."""
    model, x = build(name), example(name)
    start = time.perf_counter()
    graph = prunus.trace(model, x)
    plan = prunus.plan(graph, ratio=0.5, importance="random")
    small = plan.apply(model)
    seconds = time.perf_counter() - start
    error = _error(prunus.prove(model, small, plan, x)) if prove else 0.0
    before, after = (sum(p.numel() for p in m.parameters()) for m in (model, small))
    return Result(name, seconds, after / before, error, len(graph.free), len(graph.groups), _why(graph, after / before))


def _error(proof: prunus.Proof) -> float:
    return float("inf") if proof.leaks else proof.max_rel_error


def _why(graph: prunus.Graph, left: float) -> str:
    """Where less than half goes: what holds most of the parameters that could not be cut."""
    if left <= 0.5:
        return ""
    reasons: dict[str, int] = {}
    for group in graph.groups:
        if group.frozen and not group.frozen.startswith(("a model", "a convolution's")):
            reasons[group.frozen] = reasons.get(group.frozen, 0) + group.size * len(group.members)
    return max(reasons, key=lambda r: reasons[r]) if reasons else ""


def run(chosen: list[str], prove: bool) -> Iterator[Result]:
    for name in chosen:
        try:
            yield check(name, prove)
        except (prunus.PrunusError, RuntimeError) as error:
            yield Result(name, 0.0, 1.0, float("inf"), 0, 0, f"{type(error).__name__}: {error}")
        gc.collect()


def table(results: list[Result]) -> str:
    """The results as a Markdown table."""
    good = [r for r in results if r.ok]
    half = [r for r in good if r.left <= 0.5]
    lines = [
        f"{len(good)} of {len(results)} models proven (relative error in fp64 at most {TOLERANCE:.0e}); "
        f"{len(half)} lose at least half of their parameters.",
        "",
        "| model | parameters left | error | groups free of all | seconds | remark |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for r in results:
        lines.append(f"| {r.name} | {r.left:.3f} | {r.error:.1e} | {r.free}/{r.groups} | {r.seconds:.2f} | {r.why} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--quick", action="store_true", help="don't prove")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)  # on a shared machine several threads wait for each other
    results = []
    head = "# Coverage\n\nWritten by `make zoo`: trace, halve every free atom, apply, prove. No hints are given.\n\n"
    for r in run(options.names or names(), not options.quick):
        results.append(r)
        print(f"{r.name:<24} left {r.left:.3f}  error {r.error:.1e}  {r.seconds:.2f} s  {r.why}", flush=True)
        if options.write:
            options.write.write_text(head + table(results) + "\n")
    print(table(results).splitlines()[0])


if __name__ == "__main__":
    main()
