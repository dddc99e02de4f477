"""Losses that need more than an output and a target."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunus.train.records import Batch, Loss


def distillation(teacher: nn.Module, *, temperature: float = 4.0, weight: float = 0.7) -> Loss:
    """Learn from the labels and from the large model's outputs: the usual way to recover a pruned classifier.

    The loss is ``(1 - weight) * cross_entropy + weight * temperature**2 * KL(teacher || student)``, both distributions
    softened by ``temperature`` (G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network", 2015).
    ``teacher`` is run in the mode it is in (put it in ``eval()``) and on the device it is on, without gradients.
    """
    home = next(teacher.parameters()).device

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        inputs, targets = batch
        with torch.no_grad():
            soft = F.log_softmax(teacher(inputs.to(home)) / temperature, dim=-1).to(inputs.device)
        output = model(inputs)
        student = F.log_softmax(output / temperature, dim=-1)
        divergence = F.kl_div(student, soft, reduction="batchmean", log_target=True)
        return (1 - weight) * F.cross_entropy(output, targets) + weight * temperature**2 * divergence

    return loss
