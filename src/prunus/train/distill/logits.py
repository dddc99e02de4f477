"""What the student's outputs should learn from the teacher's: each a function of two sets of logits and the targets."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from prunus.errors import InputError


def hinton(student: Tensor, teacher: Tensor, targets: Tensor | None = None, *, temperature: float = 4.0) -> Tensor:
    """``T^2 KL(teacher || student)``, both softened by *T*: Hinton, Vinyals, Dean (2015). ``[..., classes]``.

    The mean over all but the last dimension, so that it serves language models too.
    """
    s = F.log_softmax(student / temperature, dim=-1).flatten(0, -2)
    t = F.log_softmax(teacher / temperature, dim=-1).flatten(0, -2)
    return temperature**2 * F.kl_div(s, t, reduction="batchmean", log_target=True)


def dkd(
    student: Tensor,
    teacher: Tensor,
    targets: Tensor | None = None,
    *,
    temperature: float = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
) -> Tensor:
    """Decoupled: ``T^2 (alpha TCKD + beta NCKD)``, Zhao et al. (CVPR 2022), eq. 7. ``[N, classes]``, targets ``[N]``.

    TCKD is the divergence of "the target class or not", NCKD that among the other classes.

    Raises:
        InputError: there are no class indices as targets.
    """
    if targets is None or targets.is_floating_point():
        raise InputError("dkd needs targets that are class indices.")
    mine = F.one_hot(targets, student.shape[-1]).bool()
    both = []
    for logits in (student / temperature, teacher / temperature):
        log = F.log_softmax(logits, dim=1)
        target = log[mine]
        rest = log.masked_fill(mine, -torch.inf).logsumexp(1)
        others = F.log_softmax(logits[~mine].view(len(logits), -1), dim=1)
        both.append((torch.stack([target, rest], 1), others))
    (s_pair, s_others), (t_pair, t_others) = both
    tckd = F.kl_div(s_pair, t_pair, reduction="batchmean", log_target=True)
    nckd = F.kl_div(s_others, t_others, reduction="batchmean", log_target=True)
    return temperature**2 * (alpha * tckd + beta * nckd)


def dist(
    student: Tensor,
    teacher: Tensor,
    targets: Tensor | None = None,
    *,
    temperature: float = 1.0,
    beta: float = 1.0,
    gamma: float = 1.0,
) -> Tensor:
    """``T^2 (beta inter + gamma intra)``: Huang et al., DIST (NeurIPS 2022), eq. 7 to 10. ``[N, classes]``.

    Both are one minus Pearson's correlation of the softened probabilities: over the classes of each example, and over
    the batch for each class.
    """
    s, t = (F.softmax(logits / temperature, dim=1) for logits in (student, teacher))
    inter = 1 - _pearson(s, t).mean()
    intra = 1 - _pearson(s.t(), t.t()).mean()
    return temperature**2 * (beta * inter + gamma * intra)


def _pearson(a: Tensor, b: Tensor) -> Tensor:
    """Row by row."""
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    return F.cosine_similarity(a, b, dim=1, eps=1e-8)


METHODS = {"hinton": hinton, "dkd": dkd, "dist": dist}
