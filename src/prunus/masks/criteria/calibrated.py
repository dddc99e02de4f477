"""Scores that look at what goes into each layer: Wanda, and the saliency of Optimal Brain Surgeon."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunus.errors import InputError
from prunus.masks.criteria.task import Task
from prunus.running import check_finite, undisturbed

Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


def wanda(task: Task) -> dict[str, Tensor]:
    """``|W_ij| * ||X_j||_2``: Sun et al., A Simple and Effective Pruning Approach for LLMs (ICLR 2024), eq. 1.

    ``X_j`` is all that input ``j`` was over ``data``; of a convolution, all that stood under that place of the kernel.
    The paper compares within each output: ``scope="row"``, the default for it.
    """
    squares: dict[str, Tensor] = {}

    def see(name: str, module: Layer, x: Tensor) -> None:
        squares[name] = squares.get(name, torch.zeros((), device=x.device)) + _seen_squares(module, x)

    watch(task, list(task.weights), see)
    return {name: weight.detach().abs() * squares[name].sqrt() for name, weight in task.weights.items()}


def obs(task: Task) -> dict[str, Tensor]:
    """``w^2 / (2 [H^-1]_jj)``, H = 2 X X^T: Hassibi, Stork, Optimal Brain Surgeon (1993), eq. 5, a layer at a time.

    H is damped by 1 % of its mean diagonal, as in SparseGPT. To also repair the weights: ``masks.sparsegpt``.
    """
    result = {}
    for name, hessians in layer_hessians(task, list(task.weights)).items():
        weight = task.weights[name].detach()
        rows = weight.flatten(1).chunk(len(hessians))
        spread = [inverted(2 * damped(h, 0.01)).diagonal() for h in hessians]
        scores = [row.double().square() / (2 * diagonal) for row, diagonal in zip(rows, spread, strict=True)]
        result[name] = torch.cat(scores).view_as(weight)
    return result


def layer_hessians(task: Task, names: list[str]) -> dict[str, list[Tensor]]:
    """``X X^T`` of each named weight's inputs, in float64, (columns, columns); one for each group of a convolution."""
    totals: dict[str, list[Tensor]] = {}

    def see(name: str, module: Layer, x: Tensor) -> None:
        found = [columns.T @ columns for columns in _columns(module, x)]
        totals[name] = [a + b for a, b in zip(totals[name], found, strict=True)] if name in totals else found

    watch(task, names, see)
    for name, found in totals.items():
        check_finite(f"what {name!r} is given", *found)
    return totals


def damped(hessian: Tensor, share: float) -> Tensor:
    """The matrix with ``damping_of`` it added to its diagonal."""
    result = hessian.clone()
    result.diagonal().add_(damping_of(hessian, share))
    return result


def damping_of(hessian: Tensor, share: float) -> float:
    """``share`` of the mean diagonal; 1, if all inputs were 0."""
    return share * float(hessian.diagonal().mean()) or 1.0


def inverted(hessian: Tensor) -> Tensor:
    """The inverse of a damped Hessian, through its Cholesky factor: half the work of a general inverse."""
    return torch.cholesky_inverse(torch.linalg.cholesky(hessian))


def watch(task: Task, names: list[str], see: Callable[[str, Layer, Tensor], None]) -> None:
    """Run all batches in eval mode, calling ``see(name, module, input)`` at each call of a named weight's module.

    Raises:
        InputError: the module isn't linear or a convolution, or it never ran.
    """
    seen: set[str] = set()

    def note(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            seen.add(name)
            see(name, modules[name], args[0].detach())

        return hook

    modules = {name: _owner(task.model, name) for name in names}
    with undisturbed(task.model), _hooked({modules[name]: note(name) for name in names}):
        for batch in task.batches():
            task.loss(task.model, batch)
    missing = [name for name in names if name not in seen]
    if missing:
        raise InputError(
            f"the module of {missing[0]!r} was never called, so nothing is known of its inputs: leave it out, "
            f"Sparsifier(model, skip=[{missing[0]!r}])."
        )


def _owner(model: nn.Module, name: str) -> Layer:
    module = model.get_submodule(name.rpartition(".")[0])
    if not isinstance(module, Layer) or name.rpartition(".")[2] != "weight":
        raise InputError(
            f"this criterion knows the inputs of linear layers and convolutions; {name!r} belongs to a "
            f"{type(module).__name__}: leave it out, Sparsifier(model, skip=[{name!r}])."
        )
    return module


@contextmanager
def _hooked(hooks: Mapping[nn.Module, Callable[[nn.Module, tuple[Any, ...]], None]]) -> Iterator[None]:
    handles = [module.register_forward_pre_hook(hook) for module, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _seen_squares(module: Layer, x: Tensor) -> Tensor:
    """The sum of the squares of all inputs that met each weight, in the weight's shape.

    A linear operator's summed output has, by each weight, the derivative "sum of the inputs it met"; fed with squares,
    that is what is wanted, with every stride, padding, dilation and group taken in.
    """
    with torch.enable_grad():
        weight = module.weight.detach().clone().requires_grad_()
        if isinstance(module, nn.Linear):
            output = F.linear(x.square(), weight)
        else:
            output = module._conv_forward(x.square(), weight, None)
        (found,) = torch.autograd.grad(output.sum(), weight)
    return found


def _columns(module: Layer, x: Tensor) -> list[Tensor]:
    """The layer as ``columns @ weight.flatten(1).T``: (positions, columns) in float64, for each group."""
    if isinstance(module, nn.Linear):
        return [x.reshape(-1, x.shape[-1]).double()]
    kernel, padded = module.kernel_size, _padded(module, x if x.dim() == module.weight.dim() else x.unsqueeze(0))
    found = []
    for part in padded.double().chunk(module.groups, dim=1):
        for i, (size, step, apart) in enumerate(zip(kernel, module.stride, module.dilation, strict=True)):
            part = part.unfold(2 + i, (size - 1) * apart + 1, step)[..., ::apart]
        found.append(part.movedim(1, 1 + len(kernel)).reshape(-1, module.weight[0].numel()))
    return found


def _padded(module: nn.Conv1d | nn.Conv2d | nn.Conv3d, x: Tensor) -> Tensor:
    """With the border that the convolution itself lays around its input."""
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    return F.pad(x, module._reversed_padding_repeated_twice, mode=mode)
