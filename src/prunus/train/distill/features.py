"""What the student's insides should learn from the teacher's: functions of two activations.

Activations are ``[N, C, ...]``, as of convolutions, or ``[N, T, C]``, as of transformers: with three dimensions the
last one is the channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def fitnet(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean squared difference: Romero et al., FitNets (ICLR 2015), eq. 3 (a mean, not half a sum)."""
    return F.mse_loss(student, teacher)


def attention(student: Tensor, teacher: Tensor) -> Tensor:
    """Attention transfer: Zagoruyko, Komodakis (ICLR 2017), eq. 2, activation-based, ``F = sum_c |A_c|^2``.

    The squared L2 distance of the normalized maps, mean over the batch. Numbers of channels may differ.
    """
    return (_map(student) - _map(teacher)).square().sum(1).mean()


def similarity(student: Tensor, teacher: Tensor) -> Tensor:
    """Similarity-preserving: Tung, Mori (ICCV 2019), eq. 4: ``||G_T - G_S||_F^2 / N^2``. Any shapes ``[N, ...]``."""
    return (_gram(student) - _gram(teacher)).square().sum() / len(student) ** 2


def relational(student: Tensor, teacher: Tensor, *, distance: float = 1.0, angle: float = 2.0) -> Tensor:
    """Relational: Park et al., RKD (CVPR 2019), eq. 5 to 8. Any two shapes ``[N, ...]``, N at least 3.

    Huber losses between distances of pairs (in units of their mean) and between cosines of the angles of triplets, each
    a mean over all pairs or triplets of different examples.
    """
    s, t = student.flatten(1), teacher.flatten(1)
    pairs = ~torch.eye(len(s), dtype=torch.bool, device=s.device)
    triples = pairs[:, :, None] & pairs[None] & pairs[:, None]
    far = F.smooth_l1_loss(_distances(s, pairs), _distances(t, pairs))
    wide = F.smooth_l1_loss(_cosines(s)[triples], _cosines(t)[triples])
    return distance * far + angle * wide


def _map(activation: Tensor) -> Tensor:
    channels = 2 if activation.dim() == 3 else 1
    return F.normalize(activation.square().sum(channels).flatten(1), dim=1)


def _gram(activation: Tensor) -> Tensor:
    flat = activation.flatten(1)
    return F.normalize(flat @ flat.t(), dim=1)


def _distances(points: Tensor, pairs: Tensor) -> Tensor:
    found = torch.linalg.vector_norm((points[:, None] - points[None])[pairs], dim=1)
    scaled: Tensor = found / found.mean()
    return scaled


def _cosines(points: Tensor) -> Tensor:
    """``[i, j, k]``: the cosine of the angle at j between i and k."""
    towards = F.normalize(points[:, None] - points[None], dim=2)  # [i, j]: from j to i
    return torch.einsum("ijd,kjd->ijk", towards, towards)
