"""python -m benchmarks.recovery [--write FILE] [--seeds 0 1 2] [--only lenet] [--methods PATTERN] [--validation]"""

from __future__ import annotations

import argparse
import fnmatch
import statistics
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import prunus
from benchmarks.recovery.methods import METHODS
from benchmarks.recovery.models import JOBS, Job, train
from benchmarks.sparsity.words import markdown, say
from prunus.demo.data import Digits, accuracy, load_digits
from prunus.deploy.measure import measure, torch_runner
from prunus.report.tables import Table

HEAD = """# Recovery

Written by `make recovery` (`python -m benchmarks.recovery --write docs/recovery.md`). Real digits: 7,000 to learn from,
2,000 that nothing was decided with for the accuracies below. Each method gets the same trained network, cuts the same
share of every group (LeNet {lenet:.0%}, ResNet-20 {resnet:.0%}; L0 chooses by itself), and trains the same number of
epochs (LeNet {lenet_epochs} after {lenet_first}, ResNet-20 {resnet_epochs} after {resnet_first}; AdamW, one cycle). The
first half of a table trains after the cut; from "slimming" (or "group lasso") on, training makes the network sparse
and nothing is trained after the cut. Strengths were set once, on validation digits with another seed. Latency: batch
64, one thread, PyTorch, median against the dense network in turn, of the last seed's networks.
"""


@dataclass
class Found:
    """What a method gave, seed by seed."""

    accuracies: list[float]
    parameters: list[float]
    macs: list[float]
    last: nn.Module | None = None


def run(
    job: Job, digits: Digits, seeds: Sequence[int], pattern: str, validation: bool
) -> tuple[dict[str, Found], list[str]]:
    """Every method on every seed; and what failed."""
    judged = digits.validation if validation else digits.test
    found: dict[str, Found] = {}
    failures: list[str] = []
    for seed in seeds:
        torch.manual_seed(seed)
        dense = train(job.make(), digits, job, seed, job.epochs)
        _note(found, "dense", dense, accuracy(dense, judged), digits)
        for name, method in METHODS.items():
            if (name.startswith("slimming") and not job.norm) or not fnmatch.fnmatch(name, pattern):
                continue
            started = time.perf_counter()
            try:
                small = method(dense, digits, job, seed)
            except prunus.PrunusError as error:
                traceback.print_exc()
                failures.append(f"{name}, seed {seed}: {error}")
                continue
            _note(found, name, small, accuracy(small, judged), digits)
            took = time.perf_counter() - started
            say(f"{job.name} seed {seed}: {name} {found[name].accuracies[-1]:.2f} %  ({took:.0f} s)")
    return found, failures


def _note(found: dict[str, Found], name: str, model: nn.Module, score: float, digits: Digits) -> None:
    profile = prunus.profile(model, digits.train.images[:1])
    each = found.setdefault(name, Found([], [], []))
    each.accuracies.append(score)
    each.parameters.append(profile.parameters)
    each.macs.append(profile.macs)
    each.last = model


def table(job: Job, found: dict[str, Found], repeats: int) -> Table:
    """Means over the seeds."""
    dense = found["dense"]
    batch = load_digits().train.images[:64]
    timed = measure({name: torch_runner(each.last, batch) for name, each in found.items()}, repeats=repeats)
    rows = []
    for name, each in found.items():
        spread = statistics.stdev(each.accuracies) if len(each.accuracies) > 1 else 0.0
        gap = statistics.mean(each.accuracies) - statistics.mean(dense.accuracies)
        rows.append(
            (
                name,
                f"{statistics.mean(each.accuracies):.2f} ± {spread:.2f} %",
                f"{gap:+.2f}",
                f"{statistics.mean(each.parameters):,.0f}",
                f"{statistics.mean(each.macs) / statistics.mean(dense.macs):.1%}",
                f"{timed[name].median_ms:.2f} ms",
            )
        )
    columns = ("method", "test accuracy", "points from dense", "parameters", "MACs", "latency")
    note = f"Mean and standard deviation over {len(dense.accuracies)} seeds."
    return Table(job.name, columns, tuple(rows), note=note)


def paired(job: Job, found: dict[str, Found]) -> Iterator[str]:
    """Distillation against fine-tuning, seed by seed."""
    if "cut, fine-tune" not in found:
        return
    base = found["cut, fine-tune"].accuracies
    for name, each in found.items():
        if "distil" in name and len(each.accuracies) == len(base):
            gains = [a - b for a, b in zip(each.accuracies, base, strict=True)]
            told = ", ".join(f"{gain:+.2f}" for gain in gains)
            yield f"{job.name}: {name} against fine-tuning, seed by seed: {told}; mean {statistics.mean(gains):+.2f}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="also write the tables to this file, as Markdown")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", choices=sorted(JOBS), nargs="+", default=list(JOBS))
    parser.add_argument("--methods", default="*", help="a shell pattern of names")
    parser.add_argument("--validation", action="store_true", help="judge on the validation digits, to set strengths")
    parser.add_argument("--examples", type=int, default=7000, help="how many digits to learn from, to try it out")
    parser.add_argument("--repeats", type=int, default=30, help="timed calls of each network")
    options = parser.parse_args()
    torch.set_num_threads(1)
    digits = load_digits()
    digits = Digits(digits.train.head(options.examples), digits.validation, digits.test)
    lenet, resnet = JOBS["lenet"], JOBS["resnet"]
    text = HEAD.format(
        lenet=lenet.ratio,
        resnet=resnet.ratio,
        lenet_epochs=lenet.recovery,
        lenet_first=lenet.epochs,
        resnet_epochs=resnet.recovery,
        resnet_first=resnet.epochs,
    )
    for name in options.only:
        found, failures = run(JOBS[name], digits, options.seeds, options.methods, options.validation)
        made = table(JOBS[name], found, options.repeats)
        lines = [*paired(JOBS[name], found), *failures]
        print(made.plain(), *lines, sep="\n", flush=True)
        text += "\n" + markdown(made) + "".join(f"\n{line}\n" for line in lines)
        if options.write:
            options.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
