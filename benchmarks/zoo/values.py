"""What a small model keeps, found by value: nothing that the cutter says about itself is believed.

Every entry of every parameter of the original is distinct, so each entry of the small model has one place in it. The
reference is the original with all other entries zeroed, in fp64. Normalizations divide by a count: where one is cut,
the reference runs the small model's own layer on the kept part of its input.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from fnmatch import fnmatch
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from prunus.prove import DoubleMode
from prunus.running import no_fast_path
from prunus.trace.functions import OpenMode

Kept = dict[str, tuple[Tensor, ...]]  # for each parameter, the kept indices of each dimension


class NotFoundError(Exception):
    """A parameter of the small model isn't a part of the original's."""


def make_distinct(model: nn.Module) -> None:
    """Add a little noise to every parameter of a model in fp64, so that no two entries of one are the same."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            scale = p.abs().max().item() or 1.0
            p.add_(torch.rand(p.shape, generator=generator, dtype=p.dtype), alpha=1e-3 * scale)


def find_kept(original: nn.Module, small: nn.Module) -> Kept:
    """Where each parameter of ``small`` lies in ``original``.

    Raises:
        NotFoundError: it isn't there.
    """
    places = dict(original.named_parameters(remove_duplicate=False))
    found: Kept = {}
    for name, new in small.named_parameters(remove_duplicate=False):
        if name not in places:
            raise NotFoundError(f"{name} is new")
        found[name] = _place(places[name].detach(), new.detach(), name)
    return found


def _place(old: Tensor, new: Tensor, name: str) -> tuple[Tensor, ...]:
    if old.dim() != new.dim():
        raise NotFoundError(f"{name} has {new.dim()} dimensions instead of {old.dim()}")
    if old.shape == new.shape and torch.equal(old, new):
        return tuple(torch.arange(n) for n in old.shape)
    if not new.numel():
        return tuple(torch.arange(0) for _ in new.shape)
    for base in (old == new.flatten()[0]).nonzero():
        indices = [_along(old, new, base, dim) for dim in range(old.dim())]
        if all(i is not None for i in indices) and torch.equal(old[np.ix_(*map(_numpy, indices))], new):
            return tuple(i for i in indices if i is not None)
    raise NotFoundError(f"{name} isn't a part of the original's")


def _numpy(indices: Tensor | None) -> Any:
    assert indices is not None
    return indices.numpy()


def _along(old: Tensor, new: Tensor, base: Tensor, dim: int) -> Tensor | None:
    """The indices of ``old`` along ``dim``, through ``base``, that hold what ``new`` has along ``dim`` through 0."""
    line = old[tuple(slice(None) if d == dim else int(i) for d, i in enumerate(base))]
    wanted = new[tuple(slice(None) if d == dim else 0 for d in range(new.dim()))]
    values, order = line.sort()
    at = torch.searchsorted(values, wanted.contiguous()).clamp(max=len(values) - 1)
    return order[at] if torch.equal(values[at], wanted) else None


def reference(original: nn.Module, small: nn.Module, kept: Kept) -> nn.Module:
    """A copy of ``original`` with what isn't kept zeroed, and with its cut normalizations over the kept part alone."""
    masked = copy.deepcopy(original)
    with torch.no_grad():
        for name, p in masked.named_parameters():
            mask = torch.zeros(p.shape, dtype=torch.bool)
            if name in kept:
                mask[np.ix_(*(i.numpy() for i in kept[name]))] = True
            p.mul_(mask)
    theirs = dict(small.named_modules())
    for path, module in masked.named_modules():
        if _is_norm(module) and path in theirs:
            rows = kept.get(f"{path}.weight", kept.get(f"{path}.scale"))
            along = max(rows, key=len) if rows else None
            module.forward = _OverKept(module.forward, theirs[path], along)  # type: ignore[method-assign]
    return masked


def _is_norm(module: nn.Module) -> bool:
    leaf = not any(True for child in module.children() for _ in child.parameters())  # an activation may follow it
    name = type(module).__name__.lower()
    return leaf and "norm" in name and name[0] != "_" and not isinstance(module, _NormBase)  # _SpectralNorm is no layer


class _OverKept:
    """A normalization that runs the small model's layer on the kept part of its input, zeros elsewhere."""

    def __init__(self, full: Any, small: nn.Module, along: Tensor | None) -> None:
        self.full, self.small, self.along = full, small, along

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.along is not None:
            dims = [d for d, n in enumerate(x.shape) if n > int(self.along.max())]
            kept = self.along
        else:
            dims, kept = _without_zeros(x)
        for dim in self._dims(x, dims, kept):
            try:
                return self._over_kept(x, dim, kept, args, kwargs)
            except RuntimeError:  # another dimension of the same size is the one that is normalized
                continue
        return self.full(x, *args, **kwargs)

    def _over_kept(self, x: Tensor, dim: int, kept: Tensor, args: Any, kwargs: Any) -> Any:
        args, kwargs = pytree.tree_map_only(  # a gate is of the same shape
            Tensor, lambda t: t.index_select(dim, kept) if t.shape == x.shape else t, (args, kwargs)
        )
        result = self.small(x.index_select(dim, kept), *args, **kwargs)
        return pytree.tree_map_only(Tensor, lambda t: t.new_zeros(x.shape).index_copy_(dim, kept, t), result)

    def _dims(self, x: Tensor, dims: list[int], kept: Tensor) -> list[int]:
        """The last dimension, or that of channels; none if all of it is kept."""
        wanted = [d for d in (x.dim() - 1, 1) if d in dims and x.shape[d] > len(kept)]
        full = getattr(getattr(self.full, "__self__", None), "weight", None)
        if full is not None:
            return [d for d in wanted if x.shape[d] == full.numel()]
        shape = tuple(np.atleast_1d(getattr(self.small, "normalized_shape", ())).tolist())
        whole = shape and tuple(x.shape[-len(shape) :]) == shape
        return [] if whole else wanted[:1]


def _without_zeros(x: Tensor) -> tuple[list[int], Tensor]:
    """For a normalization without parameters: the dimension in which whole rows are zero, and the others' indices."""
    for d in (x.dim() - 1, 1):
        live = x.ne(0).any(dim=tuple(i for i in range(x.dim()) if i != d))
        if not live.all() and live.any():
            return [d], live.nonzero().flatten()
    return [], torch.arange(0)


class Unroutable(TorchFunctionMode):
    """Within, what a router gives for the rows of its weight that went is minus infinity: they are never chosen.

    A router is a linear layer whose weight ``routers`` names by a pattern; a copy of the weight is known by its values.
    """

    def __init__(self, masked: nn.Module, kept: Kept, routers: tuple[str, ...]) -> None:
        super().__init__()
        self.gone: list[tuple[Tensor, Tensor]] = []
        for name, p in masked.named_parameters():
            stay = kept[name][0] if name in kept and any(fnmatch(name, pattern) for pattern in routers) else None
            if stay is not None and len(stay) < len(p):
                rows = torch.ones(len(p), dtype=torch.bool).index_fill_(0, stay, False)
                self.gone.append((p.detach(), rows.nonzero().flatten()))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") == "linear":
            weight = args[1] if len(args) > 1 else (kwargs or {})["weight"]
            for router, rows in self.gone:
                if weight.shape == router.shape and torch.equal(weight.to(router.dtype), router):
                    return result.index_fill(-1, rows, float("-inf"))
        return result


def difference(expected: Any, found: Any) -> float:
    """The largest ``max|found - expected| / max|expected|`` over two outputs' tensors; infinity if shapes differ."""
    pairs = (tensors(expected), tensors(found))
    if [t.shape for t in pairs[0]] != [t.shape for t in pairs[1]]:
        return float("inf")
    worst = 0.0
    for a, b in zip(*pairs, strict=True):
        a, b = a.to(torch.complex128), b.to(torch.complex128)
        same = (a == b) | (a.isnan() & b.isnan())
        gap = torch.where(same, 0, a - b).abs().nan_to_num(float("inf"))
        finite = a.abs()[a.abs().isfinite()]
        scale = finite.max().item() if finite.numel() else 0.0
        worst = max(worst, gap.max().item() / (scale or 1.0) if gap.numel() else 0.0)
    return worst


def tensors(output: Any) -> list[Tensor]:
    return [t for t in pytree.tree_leaves(output) if isinstance(t, Tensor)]


def run(model: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> Any:
    """The output in fp64 of a model that is in fp64, on copies of the inputs.

    Torch's transformer layers run as they are written: their fast path would not see the reference's normalizations.
    """
    own = pytree.tree_map_only(Tensor, _double, (args, dict(kwargs)))
    with torch.no_grad(), torch.random.fork_rng(), no_fast_path(), DoubleMode(), OpenMode():
        torch.manual_seed(0)
        return model(*own[0], **own[1])


def _double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor.clone()
