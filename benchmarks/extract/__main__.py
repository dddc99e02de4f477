"""From masks to small networks: exactness, size, and what other routes make of the same masks.

    python -m benchmarks.extract [NAME ...] [--results FILE] [--write docs/extract.md] [--up-to N]

With ``--results`` every outcome is appended to a JSON-lines file, and what is there isn't done again. ``--up-to``
leaves out models of more parameters: extraction takes about 60 bytes of memory for each in fp64. ``make bench-extract``
installs the peers into .bench-peers, for this only.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from benchmarks.apart import apart
from benchmarks.extract import judge, models, page, routes
from benchmarks.extract.judge import Outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="default: all of them")
    parser.add_argument("--results", type=Path, help="JSON lines; what is there isn't done again")
    parser.add_argument("--write", type=Path)
    parser.add_argument("--up-to", type=float, default=float("inf"), metavar="N", help="parameters")
    parser.add_argument("--only", choices=("exact", "routes"), help="half of the work")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    done = read(options.results)
    for key, judging in jobs(options.names, options.up_to, options.only):
        if key in done:
            continue
        outcome = done[key] = apart(judging.judge, *key[1:], died=judging.died)
        print(outcome, flush=True)
        if options.results:
            with options.results.open("a") as file:
                file.write(json.dumps({"kind": key[0], **json.loads(outcome.to_json())}) + "\n")
    exact = [o for o in done.values() if isinstance(o, Outcome)]
    print(f"{sum(o.ok for o in exact)} of {len(exact)} exact and smaller")
    if options.write:
        options.write.write_text(page.page(list(done.values())), encoding="utf-8")


def jobs(names: list[str], most: float, only: str | None) -> Iterator[tuple[tuple[str, str, Any], ModuleType]]:
    """What to judge, and the module that judges it; the smallest models first."""
    if only != "exact":
        for name in (n for n in routes.MODELS if not names or n in names):
            yield from ((("route", name, route), routes) for route in routes.ROUTES)
    if only != "routes":
        sizes = {name: models.parameters(name) for name in names or models.names()}
        for name in sorted((n for n in sizes if sizes[n] <= most), key=sizes.__getitem__):
            yield from ((("exact", name, amount), judge) for amount in models.AMOUNTS)


def read(path: Path | None) -> dict[tuple[Any, ...], Outcome | routes.Route]:
    """What a results file holds; the last of each."""
    lines = path.read_text().splitlines() if path and path.exists() else []
    found: dict[tuple[Any, ...], Outcome | routes.Route] = {}
    for line in lines:
        values = json.loads(line)
        kind = values.pop("kind")
        if kind == "exact":
            found[kind, values["name"], values["amount"]] = Outcome(**values)
        else:
            found[kind, values["name"], values["route"]] = routes.Route(**values)
    return found


if __name__ == "__main__":
    main()
