"""Block influence: how far a block turns what goes through it (Men et al., ShortGPT, 2024, eq. 1)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from prunus.errors import InputError
from prunus.residual import Block
from prunus.running import Inputs, call, cloned, tensors_in, undisturbed
from prunus.skip import inputs_of


def influences(model: nn.Module, blocks: Sequence[Block], batches: Sequence[Inputs]) -> dict[str, float]:
    """One minus the mean cosine between each block's input and output, in [0, 2].

    Of a sequence ``[batch, position, feature]`` the cosine is taken at every position, of anything else over all that
    belongs to one example.

    Raises:
        InputError: there are no batches, or the model is on the meta device.
        TraceError: the model doesn't run on a batch.
    """
    if not batches:
        raise InputError("data= has no batches to measure the blocks' influence on.")
    if any(p.is_meta for p in model.parameters()):
        raise InputError("a model on the meta device has no values to measure: load its weights, or name the blocks.")
    sums: dict[str, tuple[float, int]] = {block.name: (0.0, 0) for block in blocks}
    with ExitStack() as stack:
        stack.enter_context(undisturbed(model))
        for block in blocks:
            for handle in _watch(model.get_submodule(block.name), block, sums):
                stack.callback(handle.remove)
        for args, kwargs in batches:
            call(model, cloned(args), cloned(kwargs))
    return {name: total / max(n, 1) for name, (total, n) in sums.items()}


def _watch(module: nn.Module, block: Block, sums: dict[str, tuple[float, int]]) -> list[Any]:
    at, name = inputs_of(block.returns)[0]
    waiting: list[Tensor] = []

    def entering(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        given = args[at] if at is not None and at < len(args) else kwargs[str(name)]
        waiting.append(given.detach().clone())  # the block may work on it in place

    def left(module: nn.Module, args: Any, output: Any) -> None:
        distances = _distances(waiting.pop(), tensors_in(output)[0])
        total, n = sums[block.name]
        sums[block.name] = (total + float(distances.sum()), n + distances.numel())

    return [module.register_forward_pre_hook(entering, with_kwargs=True), module.register_forward_hook(left)]


def _distances(before: Tensor, after: Tensor) -> Tensor:
    if before.dim() != 3:
        before, after = before.flatten(1), after.flatten(1)
    return 1 - torch.cosine_similarity(before.double(), after.double(), dim=-1)
