"""SparseGPT: prune layer after layer, and let the weights that stay make up for those that go.

E. Frantar, D. Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot" (ICML 2023).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from prunus.errors import InputError
from prunus.masks.criteria import Loss, Task, cross_entropy
from prunus.masks.criteria.calibrated import damping_of, layer_hessians
from prunus.masks.sparsifier import Sparsifier
from prunus.masks.units import Pattern, parse


def sparsegpt(
    sparse: Sparsifier,
    sparsity: float | None = None,
    *,
    granularity: str = "weight",
    data: Iterable[Any],
    loss: Loss = cross_entropy,
    block: int = 128,
    damping: float = 0.01,
) -> Sparsifier:
    """Prune every layer by Optimal Brain Surgeon, column by column, repairing the columns that follow (Algorithm 1).

    Layers are taken in the order of ``sparse.masks``; each sees the inputs that the layers pruned before it give, so
    ``data`` is gone through once for each layer. The arithmetic is float64. What is masked already stays masked.

    Args:
        sparsity: the share to mask in each layer, [0, 1); left out for N:M.
        granularity: "weight" or N:M along dimension 1 of ``weight.flatten(1)``.
        data: batches to calibrate with; a list. ``loss(model, batch)`` only has to run the model.
        block: columns whose masks are chosen together (128 in the paper).
        damping: share of the mean diagonal added to the Hessian.

    Raises:
        InputError: an argument is out of range, or a weight isn't a linear layer's or a convolution's.
    """
    units = parse(granularity)
    if isinstance(units, Pattern):
        if units.dim != 1 or sparsity not in (None, units.sparsity):
            raise InputError(f"sparsegpt takes N:M along dimension 1 and no sparsity with it, not {granularity}.")
        block, share = units.m, units.sparsity
    elif granularity != "weight" or sparsity is None or not 0 <= sparsity < 1 or block < 1:
        raise InputError("sparsegpt takes single weights and a sparsity of at least 0 and less than 1, or N:M.")
    else:
        share = sparsity
    for name in sparse.masks:
        weight = sparse.weights[name].detach()
        matrix, mask = weight.flatten(1), sparse.masks[name].flatten(1)
        if isinstance(units, Pattern):
            units.lines(matrix, name)
        hessians = layer_hessians(Task(sparse.model, sparse.weights, sparse.masks, units, data, loss), [name])[name]
        parts = [
            prune_matrix(w, m, h, share, block, damping, by_row=isinstance(units, Pattern))
            for w, m, h in zip(matrix.chunk(len(hessians)), mask.chunk(len(hessians)), hessians, strict=True)
        ]
        weight.copy_(torch.cat([w for w, _ in parts]).view_as(weight))
        sparse.set({name: torch.cat([m for _, m in parts]).view_as(weight)})
    return sparse


def inverse_factor(hessian: Tensor, damping: float) -> Tensor:
    """The upper triangular ``U`` with ``U^T U = (hessian + damping * mean diagonal)^-1``, (columns, columns).

    Row *j* of it, over its diagonal, is row *j* of the inverse of the Hessian without what precedes *j*. It is the
    inverse of ``R`` in ``hessian = R R^T``; turned about, ``R`` is a Cholesky factor. Besides the Hessian two matrices
    of its size are held at most.
    """
    turned = hessian.flip(0, 1)
    turned.diagonal().add_(damping_of(hessian, damping))
    lower = torch.linalg.cholesky(turned)
    identity = turned.zero_().fill_diagonal_(1)
    torch.linalg.solve_triangular(lower, identity, upper=False, out=identity)
    del lower
    return identity.flip(0, 1)


def prune_matrix(
    weight: Tensor, mask: Tensor, hessian: Tensor, share: float, block: int, damping: float, *, by_row: bool
) -> tuple[Tensor, Tensor]:
    """One layer: new weights (rows, columns) in float64 and their mask, from ``X X^T`` (columns, columns)."""
    return prune_columns(weight, mask, inverse_factor(hessian, damping), share, block, by_row=by_row)


def prune_columns(
    weight: Tensor, mask: Tensor, factor: Tensor, share: float, block: int, *, by_row: bool
) -> tuple[Tensor, Tensor]:
    """What ``prune_matrix`` does, with the ``inverse_factor`` of the Hessian, which layers of one input share.

    With ``by_row`` each row of a block loses its share (N:M); else the block as a whole does.
    """
    weight, mask = weight.to(torch.float64, copy=True), mask.clone()
    for start in range(0, weight.shape[1], block):
        stop = min(start + block, weight.shape[1])
        saliency = (weight[:, start:stop] / factor.diagonal()[start:stop]).square()
        mask[:, start:stop] &= _kept(saliency.masked_fill(~mask[:, start:stop], -1), share, by_row)
        errors = weight.new_empty(len(weight), stop - start)
        for j in range(start, stop):
            error = errors[:, j - start] = weight[:, j].masked_fill(mask[:, j], 0) / factor[j, j]
            weight[:, j:stop].addr_(error, factor[j, j:stop], alpha=-1)
            weight[:, j].masked_fill_(~mask[:, j], 0)
        weight[:, stop:].addmm_(errors, factor[start:stop, stop:], alpha=-1)
    return weight, mask


def _kept(saliency: Tensor, share: float, by_row: bool) -> Tensor:
    lines = saliency if by_row else saliency.reshape(1, -1)
    lost = lines.topk(round(share * lines.shape[1]), dim=1, largest=False).indices
    return torch.ones_like(lines, dtype=torch.bool).scatter_(1, lost, value=False).view_as(saliency)
