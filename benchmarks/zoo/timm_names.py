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
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

import prunus


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--limit", type=int, default=300, help="seconds for one model")
    options = parser.parse_args()
    torch.set_num_threads(1)
    done = _read(options.results)
    for name in options.names or [n for n in timm.list_models() if n not in done]:
        done[name] = examine(name, options.limit)
        with options.results.open("a") as file:
            file.write(json.dumps(done[name]) + "\n")
        print(_line(done[name]), flush=True)
        gc.collect()
    print(summary(list(done.values())))


def examine(name: str, limit: int) -> dict[str, Any]:
    """What came of one name: times in seconds, sizes, operators without a row, and what went wrong, if anything."""
    found: dict[str, Any] = {"name": name, "module": timm.models.model_entrypoint(name).__module__.split(".")[-1]}
    try:
        with _limited(limit):
            start = time.perf_counter()
            model, size = build(name)
            found["build"] = time.perf_counter() - start
            found["parameters"] = sum(p.numel() for p in model.parameters())
            start = time.perf_counter()
            graph = prunus.trace(model, torch.empty(2, *size, device="meta"))
            found["trace"] = time.perf_counter() - start
            found["unsupported"] = dict(graph.unsupported)
            found["notes"] = list(graph.notes)
            start = time.perf_counter()
            plan = prunus.plan(graph, ratio=0.5, importance="random")
            found["plan"] = time.perf_counter() - start
            found["operators"] = sum(len(run.records) for run in graph.runs)
            after = sum(math.prod(plan.shape_after(n)) for n, _ in model.named_parameters())
            found["left"] = after / found["parameters"]
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


def _read(path: Path) -> dict[str, dict[str, Any]]:
    lines = path.read_text().splitlines() if path.exists() else []
    return {found["name"]: found for found in map(json.loads, lines)}


def _line(found: dict[str, Any]) -> str:
    figures = [f"{key} {found[key]:.2f}" for key in ("build", "trace", "plan", "left") if key in found]
    return "  ".join([f"{found['name']:<48}", *figures, *_remarks(found)])


def _remarks(found: dict[str, Any]) -> list[str]:
    operators = [f"no row for {op} in {where or 'the model'}" for op, where in found.get("unsupported", {}).items()]
    return [*operators, *([found["error"]] if "error" in found else [])]


def summary(results: list[dict[str, Any]]) -> str:
    """Counts, times, and every name that wasn't traced, wasn't planned, or whose plan leaves much."""
    traced = [r for r in results if "trace" in r]
    whole = [r for r in traced if not r["unsupported"]]
    planned = [r for r in whole if "plan" in r]
    lines = [
        f"{len(results)} names of {len({r['module'] for r in results})} families: {len(traced)} traced, "
        f"{len(whole)} of them without an unsupported operator, {len(planned)} of these planned",
    ]
    if planned:
        times = [r["trace"] + r["plan"] for r in planned]
        slowest = sorted(planned, key=lambda r: r["trace"] + r["plan"])[-5:]
        lines.append(f"trace and plan: median {statistics.median(times):.2f} s, total {sum(times):.0f} s; the slowest:")
        lines += [f"  {_line(r)}" for r in reversed(slowest)]
        most = [r for r in planned if r["left"] > 0.6]
        lines.append(f"more than 0.6 of the parameters left: {len(most)}")
        lines += [f"  {_line(r)}" for r in most]
    failed = [r for r in results if _remarks(r)]
    lines.append(f"exceptions: {len(failed)}")
    lines += [f"  {_line(r)}" for r in failed]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
