"""Learning rates over time: functions from an optimizer and a number of steps to a scheduler of torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Schedule = Callable[[torch.optim.Optimizer, int], Any]
"""``schedule(optimizer, steps) -> torch.optim.lr_scheduler``; any of them will do, given by a lambda."""


def one_cycle(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """Up to the optimizer's rates and down: L. Smith, N. Topin, "Super-Convergence", 2018."""
    peaks = [group["lr"] for group in optimizer.param_groups]
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, peaks, total_steps=steps)


def cosine(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """Down to zero along a cosine: I. Loshchilov, F. Hutter, "SGDR", 2017, eq. 5, without restarts."""
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)


def linear(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """Down to zero along a line, as language models are fine-tuned."""
    return torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
