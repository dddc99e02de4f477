"""Accuracy at the same MACs, the same fine-tuning, the same seeds, beside Torch-Pruning 1.6.1 and NNI 3.0.

    PYTHONPATH=.bench-peers python -m benchmarks.accuracy [TASK ...] [--seeds 3] [--part 0.5] [--write docs/accuracy.md]
        [--results accuracy-results.jsonl]

`make accuracy` installs peers and pretrained models first. Every figure is on data that nothing was chosen with.
With --write, the sections of the tasks that were run replace those in the file; `make accuracy TASK=lenet` runs one.
"""

from __future__ import annotations

import argparse
import copy
import re
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

from benchmarks.accuracy.contenders import Contender, contenders, macs
from benchmarks.accuracy.results import DENSE, Result, Results, goals, row, told
from benchmarks.accuracy.task import Task
from benchmarks.accuracy.tasks import TASKS, TITLES
from prunus.running import undisturbed

HEAD = """# Accuracy at the same cost

Written by `make accuracy`. Each way cuts the same trained network to the same share of its MACs, the output layer kept;
the same fine-tuning follows where there is training data: an epoch of digits; 60 steps of 40 tones; 20 steps of 64
definitions towards the dense network's embeddings; 10 steps of 4 windows of 128 tokens. Mean ± standard deviation over
the seeds. A digit has a standard error of 0.3 points, a noun of 2, a crop of 2, a token of 0.6. The peers are
Torch-Pruning 1.6.1 and NNI 3.0, which is given a graph of `torch.fx`, since its own tracer doesn't run on today's
torch. "MACs as the budget, with data" is `prunus.prune(model, x, budget={"macs": "50%"}, data=batches)`; "default with
data" is `prunus.prune(model, x, ratio=r, data=batches)` with the ratio that comes to these MACs. Where a goal is
missed, `make ceiling` tells what long training of the same small network reaches.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=list(TASKS), help=f"of {', '.join(TASKS)}; by default all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--part", type=float, default=0.5)
    parser.add_argument("--only", default="", help="ways whose name matches this regular expression alone")
    parser.add_argument("--results", type=Path, help="keep every result there, and don't measure again what it has")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = Results(options.results)
    for name in options.tasks:
        start = time.process_time()
        found = section(name, options.seeds, options.part, options.only, results)
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
    return re.split(r", \d+% of the MACs", section.partition("\n")[0])[0]


def section(name: str, seeds: int, part: float, only: str, results: Results) -> str:
    """One task as a Markdown table."""
    make = cache(TASKS[name])
    dense = [_result(name, part, DENSE, seed, make, None, results) for seed in range(seeds)]
    more = [r.tuned for r in dense if r.tuned is not None]
    tuned, further = bool(more), f", fine-tuned as long: {told(more)} %" if more else ""
    lines = [
        f"## {TITLES[name]}, {part:.0%} of the MACs (dense: {told([r.cut for r in dense])} %{further})",
        "",
        "| way | MACs | cut, no training, % |" + (" fine-tuned, % |" if tuned else ""),
        "| --- | --- | --- |" + (" --- |" if tuned else ""),
    ]
    ways: dict[str, list[Result]] = {}
    for way, cut in contenders().items():
        if re.search(only, way):
            ways[way] = [_result(name, part, way, seed, make, cut, results) for seed in range(seeds)]
            lines.append(row(ways[way], tuned))
            print(lines[-1], flush=True)
    return "\n".join([*lines, "", *goals(dense, ways), ""])


def _result(
    name: str, part: float, way: str, seed: int, make: Callable[[int], Task], cut: Contender | None, results: Results
) -> Result:
    """As it is known, or measured now; without ``cut`` of the dense network, "tuned" as the small ones are."""
    known = results.get(name, part, way, seed)
    if known is not None:
        return known
    task = make(seed)
    try:
        return results.add(Result(name, part, way, seed, *_measured(task, cut(task, part) if cut else task.model)))
    except Exception as error:  # noqa: BLE001 - whatever the peer raises is its result
        told = f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"
        return results.add(Result(name, part, way, seed, error=told))


def _measured(task: Task, small: torch.nn.Module) -> tuple[float, float, float | None]:
    """Share of the MACs, score, and score after fine-tuning where there is one."""
    share = macs(small, task) / macs(task.model, task)
    with undisturbed(small):
        score = task.score(small)
    if task.finetune is None:
        return share, score, None
    trained = copy.deepcopy(small)
    task.finetune(trained)
    return share, score, task.score(trained)


if __name__ == "__main__":
    main()
