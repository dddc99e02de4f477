"""The reference of a removed block: the original, run with nothing added to the residual stream in that block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from prunus.errors import PlanError
from prunus.residual.blocks import judged, watched
from prunus.residual.stream import Addition
from prunus.running import Inputs, mapped, on_cpu
from prunus.trace.functions import OpenMode


def without_blocks(original: nn.Module, dropped: Iterable[str], example: Inputs, mode: Callable[[], Any]) -> Any:
    """The outputs of ``original`` (a copy of ours, with values) where each addition of the blocks gives its stream.

    ``mode`` makes a fresh dispatch mode for each of the two runs: the first finds the additions, the second skips them.

    Raises:
        PlanError: one of the blocks can't be removed in this model, or the model runs otherwise without it.
    """
    with mode():
        found = {each.name: (each, more) for each, more in judged(original, [watched(original, example, real=True)])}
    first = {id(module): path for path, module in original.named_modules()}
    skipped: dict[int, Addition] = {}
    for name in dropped:
        block, additions = found.get(first[id(original.get_submodule(name))], (None, ()))
        refusal = block.refusal if block is not None else "it doesn't run on these inputs"
        if refusal is not None:
            raise PlanError(f"the plan drops {name!r}, which can't be removed: {refusal}.")
        skipped.update({addition.number: addition for addition in additions})
    own = mapped(torch.clone, example)
    with on_cpu(), mode(), _Skipping(skipped), OpenMode():
        return original(*own[0], **own[1])


class _Skipping(TorchDispatchMode):
    """Where a call adds something to the stream, its result holds the stream alone."""

    def __init__(self, skipped: Mapping[int, Addition]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.skipped = skipped
        self.number = -1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += 1
        addition = self.skipped.get(self.number)
        if addition is None:
            return func(*args, **(kwargs or {}))
        if addition.operator != func._schema.name:
            raise PlanError(
                "the original runs other operators once its removed blocks add nothing, so that the two can't be "
                f"compared: {func._schema.name} where {addition.operator} was."
            )
        stream = args[addition.operand].clone()
        return func(*args, **(kwargs or {})).copy_(stream)
