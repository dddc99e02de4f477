"""Judge the models of the zoo, and write docs/coverage.md.

    python -m benchmarks.zoo [NAME ...] [--zoo ZOO] [--peer] [--onnx] [--results FILE] [--traced FILE]
        [--times FILE] [--write docs/coverage.md]

With ``--results`` every outcome is appended to a JSON-lines file, and what is there isn't done again, unless ``--onnx``
asks for an export that wasn't tried. For the page, ``--traced`` and ``--times`` are the files of
``benchmarks.zoo.timm_names`` and ``benchmarks.zoo.times``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.zoo import timm_names
from benchmarks.zoo.contenders import CONTENDERS
from benchmarks.zoo.coverage import page
from benchmarks.zoo.isolate import check_apart
from benchmarks.zoo.judge import read
from benchmarks.zoo.times import read_times, table
from benchmarks.zoo.zoos import ZOOS, find

LIMIT = {"prunus": 900.0, "Torch-Pruning": 60.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--zoo", choices=ZOOS)
    parser.add_argument("--peer", action="store_true", help="Torch-Pruning too (make bench installs it)")
    parser.add_argument("--only-peer", action="store_true")
    parser.add_argument("--onnx", action="store_true", help="export too, and compare in ONNX Runtime")
    parser.add_argument("--results", type=Path)
    parser.add_argument("--traced", type=Path, help="what benchmarks.zoo.timm_names found, for the page")
    parser.add_argument("--times", type=Path, help="what benchmarks.zoo.times measured, for the page")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    outcomes = read(options.results)
    contenders = list(CONTENDERS)[options.only_peer : 2 if options.peer or options.only_peer else 1]
    for case in find(options.names, options.zoo):
        for contender in contenders:
            judgeable = contender == "prunus" or not (case.refused or case.by_proof)
            onnx = options.onnx and contender == "prunus" and not case.refused
            known = outcomes.get((case.zoo, case.name, contender))
            if not judgeable or (known and (known.onnx or not onnx)):
                continue
            outcome = check_apart(case, contender, onnx, LIMIT[contender])
            outcomes[case.zoo, case.name, contender] = outcome
            print(outcome, flush=True)
            if options.results:
                with options.results.open("a") as file:
                    file.write(outcome.to_json() + "\n")
    ours = [o for o in outcomes.values() if o.contender == "prunus"]
    print(f"{sum(o.right for o in ours)} of {len(ours)} right, {sum(o.ok for o in ours)} of them with enough gone")
    if options.write:
        options.write.write_text(
            page(list(outcomes.values()), _names(options.traced), table(read_times(options.times)))
        )


def _names(path: Path | None) -> str:
    return timm_names.summary(list(timm_names.read(path).values())) if path else ""


if __name__ == "__main__":
    main()
