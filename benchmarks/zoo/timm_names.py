"""Trace every registered name of timm on the meta device, without weights.

    python -m benchmarks.zoo.timm_names RESULTS.jsonl [NAME ...] [--limit SECONDS]

One line each, appended to a JSON-lines file; names that it holds already aren't done again, unless they are given.
Every free atom is halved in a plan, which runs the small skeleton too. The summary names every exception, with its
reason.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

import prunus
from benchmarks.zoo.contenders import what_stayed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--limit", type=int, default=300, help="seconds for one model")
    options = parser.parse_args()
    torch.set_num_threads(1)
    done = read(options.results)
    for name in options.names or [n for n in timm.list_models() if n not in done]:
        done[name] = examine(name, options.limit)
        with options.results.open("a") as file:
            file.write(json.dumps(done[name]) + "\n")
        print(_line(done[name]), flush=True)
        gc.collect()
    print(summary(list(done.values())))


def examine(name: str, limit: int) -> dict[str, Any]:
    """What came of one name: processor seconds, sizes, operators without a row, and what went wrong, if anything."""
    found: dict[str, Any] = {"name": name, "module": timm.models.model_entrypoint(name).__module__.split(".")[-1]}
    try:
        with _limited(limit):
            model, size = build(name)
            found["parameters"] = sum(p.numel() for p in model.parameters())
            start = time.process_time()
            graph = prunus.trace(model, torch.empty(2, *size, device="meta"))
            found["trace"] = time.process_time() - start
            found["unsupported"] = dict(graph.unsupported)
            found["notes"] = list(graph.notes)
            start = time.process_time()
            plan = prunus.plan(graph, ratio=0.5, importance="random")
            found["plan"] = time.process_time() - start
            found["operators"] = sum(len(run.records) for run in graph.runs)
            after = sum(math.prod(plan.shape_after(n)) for n, _ in model.named_parameters())
            found["left"] = after / found["parameters"]
            found["why"] = what_stayed(graph) if found["left"] > 0.6 else ""
    except Exception as error:  # noqa: BLE001 - whatever is raised is the outcome
        found["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
    return found


def build(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """The model in eval mode, on the meta device, and its own input size (channels, height, width)."""
    try:
        with torch.device("meta"):
            model = timm.create_model(name)
    except (RuntimeError, NotImplementedError):  # its __init__ reads values, of drop rates and the like
        model = timm.create_model(name).to("meta")
    return model.eval(), tuple(model.default_cfg["input_size"])


@contextmanager
def _limited(seconds: int) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TimeoutError(f"more than {seconds} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def read(path: Path) -> dict[str, dict[str, Any]]:
    lines = path.read_text().splitlines() if path.exists() else []
    return {found["name"]: found for found in map(json.loads, lines)}


def _line(found: dict[str, Any]) -> str:
    figures = [f"{key} {found[key]:.2f}" for key in ("trace", "plan", "left") if key in found]
    return ", ".join([f"{found['name']}: {'  '.join(figures)}".rstrip(), *_remarks(found)])


def _remarks(found: dict[str, Any]) -> list[str]:
    operators = [f"no row for {op} in {where or 'the model'}" for op, where in found.get("unsupported", {}).items()]
    return [*operators, *(found[key] for key in ("why", "error") if found.get(key))]


def summary(results: list[dict[str, Any]]) -> str:
    """Counts, times, and every name that wasn't traced, wasn't planned, or whose plan leaves much, in Markdown."""
    traced = [r for r in results if "trace" in r]
    whole = [r for r in traced if not r["unsupported"]]
    planned = [r for r in traced if "plan" in r]
    lines = [
        "## timm: every registered name",
        "",
        f"{len(results)} of {len(timm.list_models())} names, of {len({r['module'] for r in results})} families, at "
        f"their own sizes on the meta device, without weights: {len(traced)} traced, {len(whole)} of them without an "
        f"unsupported operator; {len(planned)} planned, every free atom halved.",
    ]
    lines += _listed("Exceptions", [r for r in results if r not in planned or r["unsupported"]])
    lines += _listed("More than 0.6 of the parameters left", [r for r in planned if r["left"] > 0.6])
    return "\n".join([*lines, ""])


def _listed(title: str, found: list[dict[str, Any]]) -> list[str]:
    lines = ["", f"{title}: {len(found) or 'none'}."]
    if found:
        lines.append("")
    for each in found:
        left = [f"{each['left']:.2f} left"] if "left" in each else []
        lines.append(f"* {each['name']}: {', '.join([*left, *_remarks(each)])}")
    return lines


if __name__ == "__main__":
    main()
