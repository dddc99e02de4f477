"""Judge the models of the zoo, and write docs/coverage.md.

    python -m benchmarks.zoo [NAME ...] [--zoo ZOO]

Every free atom is halved; see judge.py for how the result is judged.
"""

from __future__ import annotations

import argparse

import torch

from benchmarks.zoo.judge import check
from benchmarks.zoo.zoos import find


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--zoo")
    options = parser.parse_args()
    torch.set_num_threads(1)  # on a shared machine several threads wait for each other
    for case in find(options.names, options.zoo):
        print(check(case), flush=True)


if __name__ == "__main__":
    main()
