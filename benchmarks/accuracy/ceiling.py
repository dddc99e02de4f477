"""How far long training brings the network that the default cut, to see what is asked of a fit without training.

    python -m benchmarks.accuracy.ceiling efficientnet --steps 1000 [--seed 0] [--same] [--write docs/accuracy.md]

The network cut to half of the MACs is mended, then trained on batches that are new at every step, drawn from all that
is there to calibrate with, or with --same on those that it was mended with, again and again; with the loss of the task
and towards the dense network's outputs. The score is told ten times on the way. `make ceiling` runs both for the two
tasks whose goal is missed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.accuracy.__main__ import write
from benchmarks.accuracy.contenders import macs, ours
from benchmarks.accuracy.task import Task
from benchmarks.accuracy.tasks import TASKS, TITLES
from prunus.train import fit
from prunus.train.distill import Distill, Logits

PART, TOLD, RATE = 0.5, 10, 3e-4


class Fresh:
    """Batches made when they are asked for, each by its number; those of the next round are others."""

    def __init__(self, make: Callable[[int], Any], length: int) -> None:
        self.make, self.length, self.done = make, length, 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Any]:
        for _ in range(self.length):
            self.done += 1
            yield self.make(self.done)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["efficientnet", "smollm2"])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--same", action="store_true", help="train on the calibration data alone")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = section(options.task, options.steps, options.seed, options.same)
    print(found)
    if options.write:
        write(options.write, found)


def section(name: str, steps: int, seed: int, same: bool) -> str:
    """The scores along the training, as Markdown."""
    task = TASKS[name](seed)
    make = (lambda number: task.data[number % len(task.data)]) if same else task.fresh
    assert make is not None, "only tasks with endless data"
    small = ours(None, refit=True, solver=True)(task, PART)
    towards = Distill(task.model, Logits(options={"temperature": 1.0}), task_weight=0)
    scores = [task.score(small)]
    start = time.monotonic()

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return task.loss(model, batch) + towards(model, (batch[0], batch[-1]))

    def validate(model: nn.Module) -> float:
        scores.append(task.score(model))
        print(f"{len(scores) - 1}/{TOLD}: {scores[-1]:.2f} % after {time.monotonic() - start:.0f} s", flush=True)
        return scores[-1]

    share = macs(small, task) / macs(task.model, task)
    fit(small, Fresh(make, steps // TOLD), epochs=TOLD, lr=RATE, loss=loss, validate=validate, clip=1.0, seed=seed)
    place, option = (" on the calibration data", " --same") if same else ("", "")
    command = f"python -m benchmarks.accuracy.ceiling {name} --steps {steps} --seed {seed}{option}"
    batches = f"the same {len(task.data)} batches again and again, with" if same else "new batches at every step, with"
    return "\n".join(
        [
            f"## What long training{place} reaches: {TITLES[name]}",
            "",
            f"Written by `{command}`: the network",
            f"that the default cut to {share:.0%} of the MACs and mended, trained on {batches}",
            f"the task's loss and towards the dense network's outputs (AdamW, one cycle, rate {RATE:g}).",
            f"The dense network scores {task.score(task.model):.2f} %{_itself(task)}.",
            "",
            "| steps | " + " | ".join(str(i * (steps // TOLD)) for i in range(TOLD + 1)) + " |",
            "| --- |" + " --- |" * (TOLD + 1),
            "| score, % | " + " | ".join(f"{score:.1f}" for score in scores) + " |",
            "",
        ]
    )


def _itself(task: Task) -> str:
    """The dense network's score on inputs that mean the same."""
    return "" if task.itself is None else f", and {task.score(task.itself[1]):.2f} % on inputs {task.itself[0]}"


if __name__ == "__main__":
    main()
