"""Processor seconds of analysis, plan and cut, by turns in one process, on the models that both cut right.

    PYTHONPATH=.bench-peers python -m benchmarks.zoo.times TIMES.jsonl RESULTS.jsonl [--rounds 5]

RESULTS is the file of ``python -m benchmarks.zoo --peer``; which models count is read from it. One line each is
appended to TIMES, and what is there isn't timed again. Both are given the model in fp32, as users have it; the median
of the rounds counts, behind one more that warms both up.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.zoo.case import Case
from benchmarks.zoo.contenders import timed_cut, torch_pruning_cut
from benchmarks.zoo.judge import CUT, Outcome, in_precision, read
from benchmarks.zoo.zoos import find

Times = Mapping[tuple[str, str], tuple[float, float]]
"""By zoo and name: seconds of prunus, and of the peer."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("times", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    wanted = both_right(list(read(options.results).values()))
    known = dict(read_times(options.times))
    for case in find():
        key = (case.zoo, case.name)
        if key in wanted and key not in known:
            known[key] = by_turns(case, options.rounds)
            line = {"zoo": case.zoo, "name": case.name, "prunus": known[key][0], "peer": known[key][1]}
            print(line, flush=True)
            with options.times.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
    print(table(known))


def both_right(outcomes: Sequence[Outcome]) -> set[tuple[str, str]]:
    """Zoo and name of the models that prunus cut right, and the peer too, with a quarter or more of them gone."""
    ours = {(o.zoo, o.name) for o in outcomes if o.contender == "prunus" and o.right}
    return ours & {(o.zoo, o.name) for o in outcomes if o.contender != "prunus" and o.right and o.left <= CUT}


def by_turns(case: Case, rounds: int) -> tuple[float, float]:
    """Median seconds of prunus and of Torch-Pruning, which cuts in place and gets the model after prunus each time."""
    ours, theirs = [], []
    gc.collect()
    gc.freeze()  # what there is needn't be looked through in the middle of what is timed
    for _ in range(rounds + 1):
        example = in_precision(case.make(), torch.float32)
        ours.append(timed_cut(example.model, example.args, dict(example.kwargs))[0])
        theirs.append(torch_pruning_cut(example)[1])
    gc.unfreeze()
    return statistics.median(ours[1:]), statistics.median(theirs[1:])


def read_times(path: Path | None) -> Times:
    """What a file of times holds."""
    lines = path.read_text(encoding="utf-8").splitlines() if path is not None and path.exists() else []
    return {(each["zoo"], each["name"]): (each["prunus"], each["peer"]) for each in map(json.loads, lines)}


def table(times: Times) -> str:
    """Medians and sums by zoo and together, in Markdown."""
    if not times:
        return ""
    lines = [
        "Processor seconds of analysis, plan and cut (`python -m benchmarks.zoo.times`): by turns in one process, on",
        "the models that both cut right, at least 25 % gone:\n",
        "| zoo | models | prunus, median | Torch-Pruning, median | prunus, sum | Torch-Pruning, sum |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for zoo in [*dict.fromkeys(zoo for zoo, _ in times), "all"]:
        sides = list(zip(*(pair for (each, _), pair in times.items() if zoo in (each, "all")), strict=True))
        medians, sums = ([f"{count(side):.{n}f}" for side in sides] for count, n in ((statistics.median, 3), (sum, 1)))
        lines.append(f"| {zoo} | {len(sides[0])} | {' | '.join([*medians, *sums])} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
