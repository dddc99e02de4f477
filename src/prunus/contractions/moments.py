"""The sums over calibration data that every closed-form fit of a layer needs, and the fits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_NOISE = 100  # times the rounding of a number: pivots below are those of singular matrices


@dataclass(frozen=True)
class Fit:
    """Weights (groups, outputs, inputs) and bias (groups, outputs), or None where the layer has none."""

    weight: Tensor
    bias: Tensor | None


class Moments:
    """First and second moments of a layer's inputs x (groups, n, inputs) and wanted outputs y (groups, n, outputs).

    ``rows`` were taken in, with weights that add up to ``n``. All in fp64: the Gram matrix squares the condition of the
    inputs.
    """

    def __init__(self) -> None:
        self.rows, self.n = 0, 0.0
        self.x = self.y = self.xx = self.xy = self.yy = torch.zeros((), device="cpu")

    def add(self, x: Tensor, y: Tensor, weights: Tensor | None = None) -> None:
        """Take more rows in, each as often as its weight (n,) says, or once."""
        x, y = x.double(), y.double()
        weights = x.new_ones(x.shape[1], 1) if weights is None else weights.to(x)[:, None]
        if not self.rows:
            self.x, self.y, self.yy = (x.new_zeros(len(x), t.shape[-1]) for t in (x, y, y))
            self.xx, self.xy = (x.new_zeros(len(x), x.shape[-1], t.shape[-1]) for t in (x, y))
        self.rows += x.shape[1]
        self.n += float(weights.sum())
        weighted = x * weights
        self.x += weighted.sum(1)
        self.y += (y * weights).sum(1)
        self.yy += (y.square() * weights).sum(1)
        self.xx.baddbmm_(weighted.mT, x)  # in place, as it can be larger than all else that is held
        self.xy.baddbmm_(weighted.mT, y)

    def include(self, other: Moments) -> None:
        """Take in the rows that ``other`` has seen."""
        if not self.rows:
            self.__dict__.update(other.__dict__)
        elif other.rows:
            self.rows += other.rows
            self.n += other.n
            for name in ("x", "y", "yy", "xx", "xy"):
                getattr(self, name).add_(getattr(other, name))

    def refit(self, old: Fit, ridge: float) -> Fit:
        """Least squares, drawn towards the old weights by ``ridge`` times the mean of the Gram matrix's diagonal.

        Minimizes ``|y - W x - b|^2 / n + ridge * mean(diag(cov x)) * |W - W_old|^2``; the bias isn't drawn anywhere.
        """
        xx, xy = self._centred(old)
        weight = old.weight.double()
        right = xy.sub_(xx @ weight.mT)
        diagonal = xx.diagonal(dim1=-2, dim2=-1)
        diagonal += ridge * diagonal.mean(-1, keepdim=True) + torch.finfo(xx.dtype).tiny
        weight = weight + _solved(xx, right).mT
        return self._with_bias(old, weight)

    def rescale(self, old: Fit) -> Fit:
        """One factor per output, and the bias."""
        xx, xy = self._centred(old)
        weight = old.weight.double()
        covariance = (weight * xy.mT).sum(-1)
        variance = ((weight @ xx) * weight).sum(-1)
        factor = torch.where(variance > 0, covariance / variance.clamp(min=1e-300), torch.ones_like(variance))
        return self._with_bias(old, weight * factor[..., None])

    def shift(self, old: Fit) -> Fit:
        """The bias alone."""
        return self._with_bias(old, old.weight.double())

    def error(self, fit: Fit) -> float:
        """The mean squared error over the variance of the wanted outputs, all outputs together."""
        w = fit.weight.double()
        b = torch.zeros_like(self.y) if fit.bias is None else fit.bias.double()
        fitted = ((w @ self.xx) * w).sum(-1) + 2 * b * (w @ self.x[..., None])[..., 0] + self.n * b.square()
        crossed = (w * self.xy.mT).sum(-1) + b * self.y
        squared = (self.yy - 2 * crossed + fitted).clamp(min=0).sum().item()
        variance = (self.yy - self.y.square() / self.n).sum().item()
        return squared / variance if variance > 0 else 0.0

    def _centred(self, old: Fit) -> tuple[Tensor, Tensor]:
        """Covariances where a bias takes care of the means, plain second moments where there is none; new tensors."""
        xx, xy = self.xx / self.n, self.xy / self.n
        if old.bias is None:
            return xx, xy
        x, y = self.x / self.n, self.y / self.n
        return xx - x[..., :, None] * x[..., None, :], xy - x[..., :, None] * y[..., None, :]

    def _with_bias(self, old: Fit, weight: Tensor) -> Fit:
        if old.bias is None:
            return Fit(weight, None)
        return Fit(weight, (self.y - (weight @ self.x[..., None])[..., 0]) / self.n)


def _solved(left: Tensor, right: Tensor) -> Tensor:
    """The solution of ``left @ x = right`` for positive matrices; the least one where they are as good as singular."""
    factor, failed = torch.linalg.cholesky_ex(left)
    pivots = factor.diagonal(dim1=-2, dim2=-1).square()
    least = _NOISE * torch.finfo(left.dtype).eps * left.shape[-1]
    singular = bool(failed.any() or (pivots.amin(-1) <= least * pivots.amax(-1)).any())
    if not singular:
        found: Tensor = torch.cholesky_solve(right, factor)
        return found
    shortest: Tensor = torch.linalg.lstsq(left.cpu(), right.cpu(), rcond=least).solution  # CUDA's wants full rank
    return shortest.to(left.device)
