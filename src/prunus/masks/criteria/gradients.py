"""Scores from the loss's gradient: SNIP, GraSP, gradient magnitude, movement; and SynFlow, which needs no loss."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from prunus.errors import InputError
from prunus.masks.criteria.task import Task, borrowed
from prunus.running import call, tensors_in
from prunus.surgery import copy_model


def gradient(task: Task) -> dict[str, Tensor]:
    """``|dL/dw|``: weights that the loss doesn't feel go first."""
    return {name: found.abs() for name, found in task.gradients().items()}


def snip(task: Task) -> dict[str, Tensor]:
    """``|w * dL/dw|``: Lee, Ajanthan, Torr, SNIP (ICLR 2019), eq. 5, without its constant, which changes no order."""
    return {name: (task.weights[name].detach() * found).abs() for name, found in task.gradients().items()}


def movement(task: Task) -> dict[str, Tensor]:
    """``-w * dL/dw``: one step of the scores of Sanh, Wolf, Rush, Movement Pruning (NeurIPS 2020), eq. 4.

    Weights on their way to zero score low. The method itself gathers these scores during training: ``masks.Movement``.
    """
    return {name: -task.weights[name].detach() * found for name, found in task.gradients().items()}


def grasp(task: Task) -> dict[str, Tensor]:
    """``w * Hg``, H the Hessian and g the gradient: Wang, Zhang, Grosse, GraSP (ICLR 2020), eq. 8, its sign turned.

    A weight with a negative score holds the gradient flow back, and goes first. The gradient is that of all batches
    together, which takes two passes over ``data``: give a list, not a generator.
    """
    whole = task.gradients()
    total = {name: torch.zeros_like(weight) for name, weight in task.weights.items()}
    with borrowed(task.model):
        for batch in task.batches():
            slopes = task.derivatives(task.loss(task.model, batch), graph=True)
            flow = torch.stack([(slopes[name] * whole[name]).sum() for name in slopes]).sum()
            for name, product in task.derivatives(flow).items():
                total[name] += product
    return {name: task.weights[name].detach() * total[name] for name in total}


def synflow(task: Task) -> dict[str, Tensor]:
    """``|w| * dR/d|w|``, R the summed output for an input of ones with all weights made positive.

    Tanaka et al., Pruning neural networks without any data by iteratively conserving synaptic flow (NeurIPS 2020),
    Algorithm 1; prune with ``scope="global"`` and ``rounds=100`` as it does. Only the shapes of the first batch's
    inputs are used.

    Raises:
        InputError: the inputs are integers, which can't be ones in its sense, or the output saturates.
    """
    batch = next(task.batches())
    inputs = batch[0] if isinstance(batch, (tuple, list)) else batch
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        raise InputError("synflow feeds the model ones, so its input must be one tensor of floating-point numbers.")
    positive = copy_model(task.model, {}).double().eval()
    with torch.no_grad():
        for tensor in (*positive.parameters(), *positive.buffers()):
            tensor.abs_()
    weights = {name: positive.get_parameter(name) for name in task.weights}
    with borrowed(positive):
        output = call(positive, (torch.ones_like(inputs[:1], dtype=torch.float64),), {})
        flow = torch.stack([tensor.sum() for tensor in tensors_in(output)]).sum()
        found = replace(task, weights=weights).derivatives(flow)
    if all(not bool(slope.any()) for slope in found.values()):
        raise InputError(
            "no flow reaches any weight: with all weights positive the output saturates (a sigmoid or softmax at the "
            "end?). Give synflow the model without it."
        )
    return {name: (found[name] * weight).detach() for name, weight in weights.items()}
