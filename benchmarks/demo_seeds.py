"""The main job on several seeds: python -m benchmarks.demo_seeds [SEED ...]

Prints, for each, test accuracy before and after, what is left, and how long it took; "dense, longer" is the unpruned
LeNet after as many epochs more as the pruned one was fine-tuned for, so that the two can be compared fairly. Ends with
exit code 1 where a goal is missed: at most 25 % of the parameters, at most 45 % of the multiply-accumulates, at most
0.5 point lost, at most 180 s.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import load_file

from prunus.demo.data import accuracy, batches, load_digits
from prunus.demo.job import run
from prunus.demo.lenet import LeNet
from prunus.demo.outcome import Outcome, Settings
from prunus.report.tables import Table
from prunus.report.terminal import Terminal
from prunus.train import fit


def main(seeds: list[int]) -> int:
    torch.set_num_threads(1)
    outcomes, longer = [], []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            silent = Terminal(Console(file=io.StringIO()))
            outcomes.append(run(Path(folder), Settings(seed), silent))
            longer.append(_trained_longer(Path(folder) / "dense.safetensors", outcomes[-1].settings))
        print(f"seed {seed}: {outcomes[-1].seconds:.0f} s", file=sys.stderr)
    print(_table(outcomes, longer).plain())
    return 0 if all(map(_reached, outcomes)) else 1


def _trained_longer(weights: Path, settings: Settings) -> float:
    """Test accuracy of the unpruned LeNet, trained on for as long as the pruned one was."""
    digits, dense = load_digits(), LeNet()
    dense.load_state_dict(load_file(weights))
    fit(dense, batches(digits.train), epochs=settings.finetune_epochs, lr=settings.lr, seed=settings.seed)
    return accuracy(dense, digits.test)


def _table(outcomes: list[Outcome], longer: list[float]) -> Table:
    rows = [
        (
            str(outcome.settings.seed),
            f"{outcome.dense.test:.2f} %",
            f"{outcome.small.test:.2f} %",
            f"{outcome.small.test - outcome.dense.test:+.2f}",
            f"{control:.2f} %",
            f"{outcome.dense.validation:.1f} -> {outcome.small.validation:.1f} %",
            f"{outcome.parameters_left:.1%}",
            f"{outcome.macs_left:.1%}",
            f"{outcome.proof.max_rel_error:.1e}",
            *(f"{timing.speedup.median:.2f}x" for timing in outcome.timings),
            f"{outcome.seconds:.0f}",
        )
        for outcome, control in zip(outcomes, longer, strict=True)
    ]
    where = [timing.name for timing in outcomes[0].timings]
    columns = (
        "seed",
        "dense",
        "small",
        "points",
        "dense, longer",
        "validation",
        "parameters",
        "MACs",
        "proof",
        *where,
        "seconds",
    )
    return Table("LeNet on 2,000 test digits (1 digit = 0.05 point)", columns, tuple(rows))


def _reached(outcome: Outcome) -> bool:
    return (
        outcome.parameters_left <= 0.25
        and outcome.macs_left <= 0.45
        and outcome.small.test >= outcome.dense.test - 0.5
        and outcome.seconds <= 180
    )


if __name__ == "__main__":
    sys.exit(main([int(seed) for seed in sys.argv[1:]] or [0, 1, 2]))
