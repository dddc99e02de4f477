"""A training script, as a user would write it; test_distributed.py runs it in one process and in two.

    torchrun --nproc-per-node 2 tests/several.py FOLDER BATCH [cut]

It trains with a regularizer and a pruning schedule, by DDP if there are several processes; and another network without
them, by FSDP2 then. With ``cut`` the second training ends abruptly after 5 steps.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, TensorDataset

import prunus
from prunus import masks
from prunus.train import Checkpoints, fit
from prunus.train.regularizers import GroupLasso
from prunus.train.sharding import whole

SAMPLES, EPOCHS = 64, 3
INPUTS = torch.randn(SAMPLES, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)).double()


def train(model: nn.Module, folder: Path, batch: int, hooks=(), stop_at: int | None = None) -> None:
    generator = torch.Generator().manual_seed(2)
    data = TensorDataset(INPUTS, INPUTS[:, :3].argmax(1))
    steps = 0

    def count(progress):
        nonlocal steps
        steps += 1
        if steps == stop_at:
            os._exit(3)

    fit(
        model,
        DataLoader(data, batch, shuffle=True, generator=generator),
        epochs=EPOCHS,
        lr=0.01,
        clip=1.0,
        seed=3,
        hooks=hooks,
        checkpoints=Checkpoints(folder / "run", every=2),
        on_progress=count,
    )
    found = {name: whole(value.detach()) for name, value in model.state_dict().items()}
    torch.save(found, folder / f"end-{os.environ.get('RANK', 0)}.pt")


def main(folder: Path, batch: int, how: str = "") -> None:
    torch.set_num_threads(1)
    model = network()
    lasso = GroupLasso(prunus.trace(model, INPUTS[:2]), 1e-3)
    schedule = masks.Gradual(prunus.Sparsifier(model), 0.5, begin=1, end=8)
    (folder / "hooks").mkdir(parents=True, exist_ok=True)
    train(model, folder / "hooks", batch, [lasso, schedule])

    plain = network()
    if torch.distributed.is_initialized():
        for layer in (plain[0], plain[2], plain):
            fully_shard(layer)
    (folder / "plain").mkdir(exist_ok=True)
    train(plain, folder / "plain", batch, stop_at=5 if how == "cut" else None)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
