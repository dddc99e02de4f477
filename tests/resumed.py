"""A run with everything in it that a checkpoint must bring back; test_checkpoints.py kills it."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import prunus
from prunus import masks
from prunus.train import CSV, JSONL, Checkpoints, EarlyStopping, History, fit

EPOCHS, BATCHES = 5, 12


def network() -> nn.Sequential:
    torch.manual_seed(0)
    dropped = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 4))
    return prunus.prune(dropped, torch.randn(2, 16), ratio=0.25)  # so that there is a plan to keep


def augmented(samples):
    """Batches that each of the three generators has changed."""
    inputs = torch.stack([x for x, _ in samples]) + 0.1 * torch.randn(len(samples), 16)
    inputs *= 1 + 0.1 * random.random()
    return inputs + 0.1 * float(np.random.rand()), torch.stack([y for _, y in samples])


def loader() -> DataLoader:
    draw = torch.Generator().manual_seed(1)
    inputs = torch.randn(8 * BATCHES, 16, generator=draw)
    data = TensorDataset(inputs, inputs[:, :4].argmax(1))
    return DataLoader(data, 8, shuffle=True, collate_fn=augmented, generator=torch.Generator().manual_seed(2))


def hooks(model: nn.Module, kind: str) -> list:
    sparse = prunus.Sparsifier(model)
    if kind == "gradual":
        return [masks.Gradual(sparse, 0.6, begin=2, end=40, every=3), masks.Ticket(model, at_step=7)]
    if kind == "rigl":
        return [masks.RigL(sparse.prune(0.5, "random"), every=4, end=50)]
    if kind == "set":
        return [masks.SET(sparse.prune(0.5, "random"), every=4)]
    if kind == "movement":
        return [masks.Movement(sparse, 0.6, end=40)]
    if kind == "srste":
        return [masks.SRSTE(prunus.Sparsifier(model, only=["0"]), "2:4")]
    return [masks.SoftFilter(prunus.Sparsifier(model, only=["0"]), 0.5)]


def run(folder: Path, kind: str = "gradual", kill_after: int | None = None, every: int | None = 5) -> History:
    """Train, and leave the weights at the end in ``folder``. ``kill_after`` raises after so many steps, instead."""
    torch.set_num_threads(1)
    model = network()
    steps = iter(range(1, 10**6))

    def count(progress):
        if next(steps) == kill_after:
            raise KeyboardInterrupt

    history = fit(
        model,
        loader(),
        epochs=EPOCHS,
        lr=0.02,
        accumulate=2,
        clip=1.0,
        ema=0.9,
        seed=4,
        hooks=hooks(model, kind),
        validate=lambda trained: float(trained(torch.ones(3, 16)).detach().var()),
        stop=EarlyStopping(patience=9, mode="min"),
        checkpoints=Checkpoints(folder / "run", every=every),
        trackers=[JSONL(folder / "log.jsonl"), CSV(folder / "log.csv")],
        on_progress=count,
    )
    draft = folder / "draft.pt"
    torch.save(model.state_dict(), draft)
    draft.rename(folder / "end.pt")
    return history


def killed(folder: Path, times: int = 20) -> None:
    """Runs in forked processes, killed ``times`` times at random moments in all; check what lies there after each.

    A run that ends sooner is followed by another, in a folder of its own.
    """
    network()  # what is imported here needn't be in each fork; no backward pass, which forks don't survive
    from accelerate import Accelerator  # noqa: F401

    chance, kills, runs = random.Random(), 0, 0
    while kills < times:
        runs += 1
        kills += _until_it_ends(folder / str(runs), times - kills, chance)
    print(json.dumps({"kills": kills, "runs": runs}))


def _until_it_ends(folder: Path, times: int, chance: random.Random) -> int:
    """How often it was killed, at most ``times``."""
    folder.mkdir(parents=True)
    kills = 0
    while not (folder / "end.pt").exists():
        child = os.fork()
        if child == 0:
            run(folder)
            os._exit(0)
        if kills < times:
            _wait_for_work(folder / "log.jsonl")
            time.sleep(chance.random() * 0.1)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        kills += os.WIFSIGNALED(status)
        for checkpoint in (folder / "run").glob("step-*"):
            for name in ("model", "training", "random-0"):
                load_file(checkpoint / f"{name}.safetensors")
            json.loads((checkpoint / "training.json").read_text())
    return kills


def _wait_for_work(log: Path) -> None:
    """Until the child's log is touched; not forever, if it died."""
    started = log.stat().st_mtime_ns if log.exists() else 0
    latest = time.monotonic() + 60
    while not (log.exists() and log.stat().st_mtime_ns > started) and time.monotonic() < latest:
        time.sleep(0.001)


if __name__ == "__main__":
    killed(Path(sys.argv[1]))
