"""Hostile files for everything that prunus loads: each may only load, or raise an error of ours.

    python -m benchmarks.fuzz_loading                    (100,000 files; `--cases 2000` for a quick look)
    python -m benchmarks.fuzz_loading --only 4711        (one case again, with its traceback)

A case is a number: it chooses a saved model, changes its files (JSON values, headers, bytes, sizes, links, paths) and
loads it. A finding is another exception, a crash, more than a second of processor time (or a minute on the
clock), or more than 1 GB of memory. Cases run in forked processes whose address space ends 1 GB above where it began.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from benchmarks.hostile import ATTACKS, MARK, SUBJECTS, huge, json_text, json_values, prepare
from prunus.errors import PrunusError

GIGABYTE = 2**30
SECONDS = 1.0
ON_THE_CLOCK = 60
MEMORY = Path("/dev/shm")
PLACE = MEMORY if MEMORY.is_dir() else None  # a disk would be most of the time
SHARD = 2000


class TooSlowError(BaseException):
    """No Exception, so that nothing takes it for an error of its own."""


def run_case(number: int, root: Path, work: Path) -> tuple[str, str, str]:
    """Subject, attack, and what came of it: ``loaded``, ``refused``, or what is wrong."""
    rng = random.Random(number)
    name, attack = rng.choice(list(SUBJECTS)), rng.choice(ATTACKS)
    if name == "plan alone" and attack not in (json_text, huge):
        attack = json_values
    folder = work / "model"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(root / name, folder)
    attack(rng, folder)
    return name, attack.__name__, _watched(lambda: SUBJECTS[name].load(folder), work)


def _watched(load: Callable[[], Any], work: Path) -> str:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, here = time.process_time(), Path.cwd()
    os.chdir(work)
    signal.setitimer(signal.ITIMER_REAL, ON_THE_CLOCK)
    try:
        load()
        outcome = "loaded"
    except PrunusError:
        outcome = "refused"
    except (Exception, TooSlowError) as error:  # noqa: BLE001 -- whatever comes is what is looked for
        outcome = f"{type(error).__name__}: {str(error)[:200]}\n{_where(error)}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.chdir(here)
    spent = time.process_time() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    if outcome in ("loaded", "refused"):
        if (work / MARK).exists():
            outcome = "code from the file was run"
        elif spent > SECONDS:
            outcome = f"{spent:.2f} s ({outcome})"
        elif grown > GIGABYTE:
            outcome = f"{grown / 1e9:.2f} GB ({outcome})"
    return outcome


def _where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames[-4:]))


def _alarm(signum: int, frame: FrameType | None) -> None:
    raise TooSlowError(f"more than {ON_THE_CLOCK} s on the clock")


def limit_memory() -> None:
    """No more address space than a gigabyte above what is there."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + GIGABYTE, resource.RLIM_INFINITY))


def shard(first: int, last: int, root: Path, results: Path) -> None:
    """The cases from ``first`` up to ``last``, in this process; each line of ``results`` is a case begun or ended."""
    signal.signal(signal.SIGALRM, _alarm)
    limit_memory()
    with tempfile.TemporaryDirectory(dir=PLACE) as work, results.open("a", buffering=1) as file:
        for number in range(first, last):
            file.write(json.dumps([number]) + "\n")
            file.write(json.dumps([number, *run_case(number, root, Path(work, "w"))]) + "\n")


def in_child(first: int, last: int, root: Path, results: Path) -> int:
    """Exit status of a fork that runs the cases; it is killed when nothing has come of it for a while."""
    child = os.fork()
    if not child:
        try:
            shard(first, last, root, results)
            os._exit(0)
        except BaseException:  # noqa: BLE001 -- a fork must not go on with what its parent was doing
            traceback.print_exc()
        os._exit(1)
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        time.sleep(0.05)
        if results.exists() and time.time() - results.stat().st_mtime > 2 * ON_THE_CLOCK + 10:
            os.kill(child, signal.SIGKILL)
    return ended[1]


def run(cases: int, first: int = 0) -> tuple[Counter[tuple[str, str]], list[list[Any]]]:
    """Run them all; counts by attack and outcome, and the findings ``[number, subject, attack, what]``."""
    counts: Counter[tuple[str, str]] = Counter()
    findings = []
    with tempfile.TemporaryDirectory(dir=PLACE) as folder:
        root = Path(folder, "subjects")
        prepare(root)
        next_case, end = first, first + cases
        while next_case < end:
            results = Path(folder, f"results-{next_case}")
            status = in_child(next_case, min(end, next_case + SHARD), root, results)
            begun = -1
            for line in map(json.loads, results.read_text().splitlines()):
                begun = line[0]
                if len(line) > 1:
                    number, subject, attack, what = line
                    counts[attack, what if what in ("loaded", "refused") else "FINDING"] += 1
                    if what not in ("loaded", "refused"):
                        findings.append([number, subject, attack, what])
                        print(f"case {number} ({subject}, {attack}): {what}", file=sys.stderr, flush=True)
            whole = begun + 1 == min(end, next_case + SHARD) and len(line) > 1
            if not whole:
                findings.append([begun, "?", "?", f"the process ended (status {status})"])
            next_case = begun + 1
            print(f"{next_case - first:,} files, {len(findings)} findings", file=sys.stderr, flush=True)
    return counts, findings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", type=int)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if options.only is not None:
        with tempfile.TemporaryDirectory(dir=PLACE) as folder:
            prepare(Path(folder, "subjects"))
            print(run_case(options.only, Path(folder, "subjects"), Path(folder, "w")))
        return
    start = time.monotonic()
    counts, findings = run(options.cases, options.first)
    for attack in sorted({attack for attack, _ in counts}):
        told = ", ".join(f"{n:,} {what}" for (a, what), n in sorted(counts.items()) if a == attack)
        print(f"{attack:<16} {told}")
    for number, subject, attack, what in findings[:50]:
        print(f"case {number} ({subject}, {attack}): {what}")
    print(f"{sum(counts.values()):,} files in {time.monotonic() - start:.0f} s: {len(findings)} findings")
    sys.exit(bool(findings))


if __name__ == "__main__":
    main()
