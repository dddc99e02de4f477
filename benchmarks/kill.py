"""Kill -9 a recipe at random moments, go on, and compare the end with a run that wasn't killed: ``make kill``.

Each run is ``prunus run`` in a process of its own, killed with all its children after a random share of the time that
the undisturbed run took; after each kill every file under its final name is read. Exit code 1 if a file was broken or
the final weights, or those of any stage, differ in one bit.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from prunus.deploy.folder import sha256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="lenet-digits")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--whole", action="store_true", help="the whole recipe, not its quick form")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        _run(options, Path(folder) / "whole").wait()
        seconds = time.perf_counter() - start
        expected = _weights(Path(folder) / "whole")
        print(f"undisturbed: {seconds:.0f} s, {len(expected)} stages", flush=True)
        kills = number = 0
        while kills < options.kills:
            out, number = Path(folder) / f"run{number}", number + 1
            kills = _one(options, out, seconds, kills, draw, wrong)
            found = _weights(out)
            differ = [name for name in expected if found.get(name) != expected[name]]
            wrong += [f"{out.name}: {name} differs" for name in differ]
            print(
                f"{out.name}: finished after {kills} kills in all; {'DIFFERS' if differ else 'the same to the bit'}",
                flush=True,
            )
    print(
        f"{kills} kills, {number} runs: "
        + ("; ".join(wrong) or "no broken file, all final weights the same to the bit")
    )
    raise SystemExit(bool(wrong))


def _one(
    options: argparse.Namespace, out: Path, seconds: float, kills: int, draw: random.Random, wrong: list[str]
) -> int:
    """Start, kill and start again until the recipe is through; the kills so far."""
    while True:
        process = _run(options, out)
        try:
            process.wait(draw.uniform(0, seconds) if kills < options.kills else None)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            broken = broken_files(out)
            wrong += [f"{out.name}, kill {kills}: {path} is broken" for path in broken]
            print(f"kill {kills}: {_at(out)}", flush=True)
            continue
        if process.returncode:
            raise SystemExit(f"{out}: prunus run ended with {process.returncode}")
        return kills


def _run(options: argparse.Namespace, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", "from prunus.cli import main; main()", "run", options.recipe, "--out", str(out)]
    command += [] if options.whole else ["--quick"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)


def _at(out: Path) -> str:
    stages = sorted(path.name[:12] for path in (out / "stages").glob("[0-9]*"))
    saved = sorted(path.name for path in (out / "work").glob("*/checkpoints/step-*"))
    return f"{len(stages)} stages done" + (f", {saved[-1]} saved" if saved else "")


def _weights(out: Path) -> dict[str, str]:
    return {path.parent.name: sha256(path) for path in (out / "stages").glob("[0-9]*/model.safetensors")}


def broken_files(out: Path) -> list[Path]:
    """Files under a final name that can't be read. What starts with a dot isn't finished, and nobody reads it."""
    broken = []
    for path in sorted(out.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(out).parts)
        if path.is_file() and not hidden and not _readable(path):
            broken.append(path)
    return broken


def _readable(path: Path) -> bool:
    try:
        if path.suffix == ".safetensors":
            load_file(path)
        elif path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".html":
            return path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    except (SafetensorError, ValueError, OSError):
        return False
    return True


if __name__ == "__main__":
    main()
