"""A training script, as a user would write it; test_distributed.py runs it in one process and in two.

    torchrun --nproc-per-node 2 tests/several.py FOLDER BATCH [cut]

It trains with a regularizer and a pruning schedule, by DDP if there are several processes; with hooks that draw random
numbers; with one that tears the processes apart, which must be seen; and another network without hooks, by FSDP2
then. With ``cut`` the last training ends abruptly after 7 steps.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, TensorDataset

import prunus
from prunus import masks
from prunus.errors import InputError
from prunus.train import Checkpoints, fit
from prunus.train.regularizers import L0, GroupLasso
from prunus.train.sharding import whole

SAMPLES, EPOCHS = 64, 3
INPUTS = torch.randn(SAMPLES, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)).double()


class Apart:
    """A hook that does something else in each process."""

    def __init__(self, model: nn.Module) -> None:
        self.weight = model[0].weight

    def before_step(self) -> None: ...

    @torch.no_grad()
    def after_step(self) -> None:
        self.weight += 0.01 * int(os.environ.get("RANK", "0"))

    def epoch_end(self) -> None: ...

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None: ...


def train(
    model: nn.Module, folder: Path, batch: int, hooks=(), stop_at: int | None = None, seed: int | None = 3
) -> None:
    generator = torch.Generator().manual_seed(2)
    data = TensorDataset(INPUTS, INPUTS[:, :3].argmax(1))
    steps = 0

    def count(progress):
        nonlocal steps
        steps += 1
        if steps == stop_at:
            os._exit(3)

    history = fit(
        model,
        DataLoader(data, batch, shuffle=True, generator=generator),
        epochs=EPOCHS,
        lr=0.01,
        clip=1.0,
        seed=seed,
        hooks=hooks,
        checkpoints=Checkpoints(folder / "run", every=2),
        on_progress=count,
        validate=lambda _: float(os.environ.get("RANK", "0")),
    )
    found = {name: whole(value.detach()) for name, value in model.state_dict().items()}
    told = [[epoch.loss, epoch.metrics["score"]] for epoch in history.epochs]
    (folder / f"told-{os.environ.get('RANK', 0)}.json").write_text(json.dumps(told))
    torch.save(found, folder / f"end-{os.environ.get('RANK', 0)}.pt")


def moving(model: nn.Module) -> masks.SET:
    return masks.SET(prunus.Sparsifier(model).prune(0.5, "l1"), every=2)


def main(folder: Path, batch: int, how: str = "") -> None:
    torch.set_num_threads(1)
    model = network()
    lasso = GroupLasso(prunus.trace(model, INPUTS[:2]), 1e-3)
    schedule = masks.Gradual(prunus.Sparsifier(model), 0.5, begin=1, end=8)
    (folder / "hooks").mkdir(parents=True, exist_ok=True)
    train(model, folder / "hooks", batch, [lasso, schedule])

    for name, hook in (("L0", lambda m: L0(prunus.trace(m, INPUTS[:2]), 0.01)), ("SET", moving)):
        (folder / name).mkdir(exist_ok=True)
        drawn = network()
        hooks = [hook(drawn)]
        torch.manual_seed(int(os.environ.get("RANK", "0")))  # nothing that is drawn for all may come from here
        train(drawn, folder / name, batch, hooks, seed=None)
    if torch.distributed.is_initialized():
        drawn = network()
        try:
            train(drawn, folder / "apart", batch, [Apart(drawn)])
        except InputError as error:
            (folder / f"apart-{os.environ['RANK']}").write_text(str(error))

    plain = network()
    if torch.distributed.is_initialized():
        for layer in (plain[0], plain[2], plain):
            fully_shard(layer)
    (folder / "plain").mkdir(exist_ok=True)
    train(plain, folder / "plain", batch, stop_at=7 if how == "cut" else None)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
