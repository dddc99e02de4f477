"""Accuracy at the same MACs, the same fine-tuning, the same seeds, beside Torch-Pruning 1.6.1.

    PYTHONPATH=.bench-peers python -m benchmarks.accuracy [TASK ...] [--seeds 3] [--part 0.5] [--write docs/accuracy.md]

`make accuracy` installs the peer and the pretrained model first. Every figure is on data that nothing was chosen with.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.accuracy.contenders import contenders, macs
from benchmarks.accuracy.task import Task
from benchmarks.accuracy.tasks import TASKS
from prunus.running import undisturbed

HEAD = """# Accuracy at the same cost

Written by `make accuracy`. Each way cuts the same trained network to the same share of its MACs, the output layer kept;
the same fine-tuning follows where there is training data. Mean ± standard deviation over {n} seeds.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--part", type=float, default=0.5)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    sections = [HEAD.format(n=options.seeds)]
    for name in options.tasks:
        sections.append(section([TASKS[name](seed) for seed in range(options.seeds)], options.part))
        print(sections[-1], flush=True)
    if options.write:
        options.write.write_text("\n".join(sections))


def section(tasks: Sequence[Task], part: float) -> str:
    """One task as a Markdown table."""
    tuned = tasks[0].finetune is not None
    dense = told([task.score(task.model) for task in tasks])
    lines = [
        f"## {tasks[0].name}, {part:.0%} of the MACs (dense: {dense} %)",
        "",
        "| way | MACs | cut, no training, % |" + (" fine-tuned, % |" if tuned else ""),
        "| --- | --- | --- |" + (" --- |" if tuned else ""),
    ]
    for name, make in contenders().items():
        try:
            lines.append(_row(name, [(task, make(task, part)) for task in tasks]))
        except Exception as error:  # noqa: BLE001 - whatever the peer raises is its result
            lines.append(f"| {name} | | {type(error).__name__}: {' '.join(str(error).split())[:80]} |")
        print(lines[-1], flush=True)
    return "\n".join([*lines, ""])


def _row(name: str, pairs: Sequence[tuple[Task, torch.nn.Module]]) -> str:
    shares = [macs(small, task) / macs(task.model, task) for task, small in pairs]
    cells = [f"{statistics.mean(shares):.2f}"]
    scores, tuned = [], []
    for task, small in pairs:
        with undisturbed(small):
            scores.append(task.score(small))
        if task.finetune is not None:
            trained = copy.deepcopy(small)
            task.finetune(trained)
            tuned.append(task.score(trained))
    cells += [told(scores), *([told(tuned)] if tuned else [])]
    return f"| {name} | " + " | ".join(cells) + " |"


def told(values: Sequence[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.2f} ± {spread:.2f}"


if __name__ == "__main__":
    main()
