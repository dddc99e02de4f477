"""Accuracy at the same MACs, the same fine-tuning, the same seeds, beside Torch-Pruning 1.6.1.

    PYTHONPATH=.bench-peers python -m benchmarks.accuracy [TASK ...] [--seeds 3] [--part 0.5] [--write docs/accuracy.md]

`make accuracy` installs the peer and the pretrained models first. Every figure is on data that nothing was chosen with.
With --write, the sections of the tasks that were run replace those in the file; `make accuracy TASK=lenet` runs one.
"""

from __future__ import annotations

import argparse
import copy
import re
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.accuracy.contenders import contenders, macs
from benchmarks.accuracy.task import Task
from benchmarks.accuracy.tasks import TASKS
from prunus.running import undisturbed

HEAD = """# Accuracy at the same cost

Written by `make accuracy`. Each way cuts the same trained network to the same share of its MACs, the output layer kept;
the same fine-tuning follows where there is training data. Mean ± standard deviation over the seeds. A digit has a
standard error of 0.3 points, a noun of 2, a crop of 2.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=list(TASKS), help=f"of {', '.join(TASKS)}; by default all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--part", type=float, default=0.5)
    parser.add_argument("--only", help="ways whose name matches this regular expression alone")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.tasks:
        start = time.process_time()
        found = section([TASKS[name](seed) for seed in range(options.seeds)], options.part, options.only or "")
        took = (time.process_time() - start) / 60
        print(found, f"({took:.1f} processor minutes)", flush=True)
        if options.write:
            write(options.write, found)


def write(file: Path, section: str) -> None:
    """Put a section in the place of the one of the same task, or at the end."""
    old = file.read_text(encoding="utf-8").split("\n## ")[1:] if file.is_file() else []
    sections = {_task(text): text.rstrip("\n") for text in (*old, section.removeprefix("## "))}
    file.write_text("\n## ".join([HEAD, *(f"{text}\n" for text in sections.values())]), encoding="utf-8")


def _task(section: str) -> str:
    """The part of the title that is the task's."""
    return re.split(r", \d+% of the MACs", section)[0]


def section(tasks: Sequence[Task], part: float, only: str) -> str:
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
        if not re.search(only, name):
            continue
        try:
            lines.append(_row(name, [(task, make(task, part)) for task in tasks]))
        except Exception as error:  # noqa: BLE001 - whatever the peer raises is its result
            lines.append(f"| {name} | | {type(error).__name__}: {' '.join(str(error).split())[:80]} |" + " |" * tuned)
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
