"""Scores of `obs` for a convolution that a linear layer reads 196 positions of, on so many threads as the command says.

    python -m tests.threaded THREADS

LU factors of batches of such matrices never come back on two threads (torch 2.14 with MKL).
"""

from __future__ import annotations

import json
import sys

import torch
from torch import nn

import prunus
from prunus.importance import score


def scores(threads: int) -> list[float]:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.Flatten(), nn.Linear(6 * 196, 10)).double()
    x = torch.randn(300, 1, 14, 14).double()
    graph = prunus.trace(model, x[:2])
    (found,) = score(graph, "obs", [x]).values()
    return found.tolist()


if __name__ == "__main__":
    print(json.dumps(scores(int(sys.argv[1]))))
