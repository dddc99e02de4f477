"""python -m benchmarks.recovery [--write FILE] [--seeds 0 1 2] [--only lenet] [--methods PATTERN] [--validation]"""

from __future__ import annotations

import argparse
import fnmatch
import json
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import prunus
from benchmarks.recovery.methods import LEFT_OUT, METHODS
from benchmarks.recovery.models import JOBS, Job, train
from benchmarks.sparsity.words import markdown, say
from prunus.demo.data import Digits, accuracy
from prunus.report.tables import Table

Found = Mapping[str, Mapping[str, Any]]
"""Method -> what it gave for one seed: accuracy, parameters, MACs, milliseconds; or an error."""

HEAD = """# Recovery

Written by `make recovery` (`python -m benchmarks.recovery --write docs/recovery.md`). Every method gets the same
trained network of its seed. Those called "cut, …" take away the same share of each group at once and train then; the
others train the whole network on with something that makes it sparse, are cut after that, and **not trained after the
cut**. Settings were chosen once, on validation pictures with another seed; the accuracies below are of test pictures
that nothing was decided with. Latency: processor time of a call with 64 pictures (one thread, PyTorch, median, in turn
with the dense network), which neighbours on the machine hardly change; of the last seed. AdamW, one cycle.
"""
WORDS = {
    "fashion": """Fashion-MNIST (60,000 grey pictures in ten classes), a ResNet-8 trained on 55,000 of them for {epochs}
epochs. **Little data is left to recover with**, as when somebody else's model is pruned: {labelled:,} labelled
pictures, drawn by the seed, {recovery} epochs. "Without labels" learns from the unpruned network's outputs alone, on
ten times as many pictures, in as many steps. Cut {ratio:.0%} of each group; the sparse trainings see the 55,000
pictures once more and take away {sparse_ratio:.0%}.""",
    "few": """The digits and the LeNet of the last table, where **little data is left to recover with**: {labelled:,}
labelled digits, drawn by the seed, {recovery} epochs; "without labels" as above, on ten times as many digits. Cut
{ratio:.0%} of each group.""",
    "lenet": """10,000 MNIST digits, 7,000 to learn from; LeNet, {epochs} epochs, all of the digits again for {recovery}
epochs after the cut, or while it gets sparse. Cut {ratio:.0%} of each group at once; {sparse_ratio:.0%} by sparse
training (L0 chooses by itself). The network is nearly right on all that it learned from, so that a teacher has little
to add to the labels.""",
}


def run(name: str, seed: int, options: argparse.Namespace) -> Found:
    """Every method on one seed."""
    job = JOBS[name]
    data = job.load()
    judged = data.validation if options.validation else data.test
    torch.manual_seed(seed)
    dense = train(job.make(), data.train, job, seed, job.epochs)
    found = {"dense": described(dense, dense, data, accuracy(dense, judged), options.repeats)}
    say(f"{job.name} seed {seed}: dense {found['dense']['accuracy']:.2f} %")
    for label, method in METHODS.items():
        if label in LEFT_OUT[name] or not fnmatch.fnmatch(label, options.methods):
            continue
        started = time.process_time()
        try:
            small = method(dense, data, job, seed)
        except prunus.PrunusError as error:
            found[label] = {"error": str(error)}
            say(f"{job.name} seed {seed}: {label}: {error}")
            continue
        found[label] = described(small, dense, data, accuracy(small, judged), options.repeats)
        took = time.process_time() - started
        say(f"{job.name} seed {seed}: {label} {found[label]['accuracy']:.2f} %  ({took:.0f} s of a processor)")
    return found


def described(model: nn.Module, dense: nn.Module, data: Digits, score: float, repeats: int) -> dict[str, Any]:
    """The figures of a network."""
    profile = prunus.profile(model, data.train.images[:1], latency=False)
    timed = processor_times([dense, model], data.train.images[:64], repeats)
    return {
        "accuracy": score,
        "parameters": profile.parameters,
        "macs": profile.macs,
        "dense_ms": timed[0] * 1000,
        "ms": timed[1] * 1000,
    }


@torch.no_grad()
def processor_times(models: Sequence[nn.Module], batch: Tensor, repeats: int) -> list[float]:
    """Median seconds of a call of each, in turn, after two that aren't counted."""
    found: list[list[float]] = [[] for _ in models]
    for _ in range(repeats + 2):
        for model, times in zip(models, found, strict=True):
            started = time.process_time()
            model.eval()(batch)
            times.append(time.process_time() - started)
    return [statistics.median(times[2:]) for times in found]


def table(job: Job, seeds: Sequence[Found]) -> Table:
    """Means over the seeds."""
    dense = [each["dense"]["accuracy"] for each in seeds]
    rows = []
    for label in seeds[0]:
        each = [found[label] for found in seeds if "accuracy" in found.get(label, {})]
        if len(each) < len(seeds):
            rows.append((label, "failed", "", "", "", ""))
            continue
        scores = [one["accuracy"] for one in each]
        gaps = [a - b for a, b in zip(scores, dense, strict=True)]
        macs = statistics.mean(one["macs"] / found["dense"]["macs"] for one, found in zip(each, seeds, strict=True))
        rows.append(
            (
                label,
                f"{statistics.mean(scores):.2f} ± {_spread(scores):.2f} %",
                f"{statistics.mean(gaps):+.2f}",
                f"{statistics.mean(one['parameters'] for one in each):,.0f}",
                f"{macs:.1%}",
                f"{each[-1]['ms']:.2f} ms, {each[-1]['ms'] / each[-1]['dense_ms']:.0%}" if "ms" in each[-1] else "–",
            )
        )
    columns = ("method", "test accuracy", "points from dense", "parameters", "MACs", "latency, of dense")
    return Table(job.name, columns, tuple(rows), note=f"Mean and standard deviation over {len(seeds)} seeds.")


def paired(seeds: Sequence[Found]) -> Iterator[str]:
    """Distillation against fine-tuning, seed by seed; and what the others lose."""
    for label in seeds[0]:
        if "distil" in label and all("accuracy" in found.get(label, {}) for found in seeds):
            gains = [found[label]["accuracy"] - found["cut, fine-tune"]["accuracy"] for found in seeds]
            told = ", ".join(f"{gain:+.2f}" for gain in gains)
            yield f"* {label}, against fine-tuning, seed by seed: {told}; mean {statistics.mean(gains):+.2f} points."


def _spread(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def page(results: Mapping[str, Sequence[Found]]) -> str:
    """The whole page."""
    text = HEAD
    for name, seeds in results.items():
        job = JOBS[name]
        made = table(job, seeds)
        words = WORDS[name].format(**vars(job))
        lines = "\n".join(paired(seeds))
        text += "\n" + markdown(made).replace("\n\n", f"\n\n{words}\n\n", 1) + f"\n{lines}\n"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="also write the tables to this file, as Markdown")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", choices=sorted(JOBS), nargs="+", default=list(JOBS))
    parser.add_argument("--methods", default="*", help="a shell pattern of names")
    parser.add_argument("--validation", action="store_true", help="judge on the validation pictures, to set strengths")
    parser.add_argument("--repeats", type=int, default=30, help="timed calls of each network")
    parser.add_argument(
        "--results", type=Path, default=Path("recovery-results"), help="a file for each job and seed; none is redone"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.results.mkdir(exist_ok=True)
    results = {}
    for name in options.only:
        seeds = []
        for seed in options.seeds:
            file = options.results / f"{name}-{seed}.json"
            if not file.exists():
                file.write_text(json.dumps(run(name, seed, options), indent=1))
            seeds.append(json.loads(file.read_text()))
        results[name] = seeds
        print(table(JOBS[name], seeds).plain(), *paired(seeds), sep="\n", flush=True)
    if options.write:
        options.write.write_text(page(results), encoding="utf-8")


if __name__ == "__main__":
    main()
