"""What both ways through the blocks share: the start before the first, the walk, and all that isn't in a block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from prunus.blockwise.large import LargeModel, filled
from prunus.blockwise.writing import Writer
from prunus.errors import InputError
from prunus.residual import Row, Stream, without_cache
from prunus.running import Inputs, each_input
from prunus.surgery import lies_in

Progress = Callable[[int, int], None]


def examples_in(data: Iterable[Any]) -> list[Inputs]:
    """The arguments of each batch.

    Raises:
        InputError: there is none.
    """
    examples = [pair for each in data for pair in each_input(each)]
    if not examples:
        raise InputError("data has no batches to calibrate with.")
    return examples


def before_blocks(
    large: LargeModel, row: Row, examples: Sequence[Inputs], dtype: torch.dtype | None, device: torch.device
) -> Stream:
    """The activations before the first block. What runs there (embeddings) is read when it is called, and let go."""
    with ExitStack() as stack:
        stack.enter_context(without_cache(large.model))
        for path, module in large.model.named_modules():
            names = [f"{path}.{leaf}".lstrip(".") for leaf in (*module._parameters, *module._buffers)]
            names = [name for name in names if name in large.keys]
            if names and not lies_in(path, row.names):
                hook = module.register_forward_pre_hook(_fill_once(large, names, dtype, device, stack))
                stack.callback(hook.remove)
        return Stream(large.model, row, examples, device)


def _fill_once(
    large: LargeModel, names: Sequence[str], dtype: torch.dtype | None, device: torch.device, stack: ExitStack
) -> Callable[[nn.Module, Any], None]:
    waiting = list(names)

    def hook(module: nn.Module, args: Any) -> None:
        if waiting:
            stack.enter_context(filled(large.model, {name: large.tensor(name) for name in waiting}, dtype, device))
            waiting.clear()

    return hook


def walk(row: Row, on_progress: Progress | None) -> Iterator[tuple[int, str]]:
    """The blocks of a row in turn, by number and path."""
    for at, path in enumerate(row.names):
        yield at, path
        if on_progress is not None:
            on_progress(at + 1, len(row.names))


def write_rest(large: LargeModel, row: Row, writer: Writer) -> None:
    """Copy the tensors that lie in no block, in shards no larger than that of a block, or one at a time."""
    waiting: dict[str, Tensor] = {}
    size = 0
    for key, name in {key: name for name, key in large.keys.items()}.items():  # tied tensors once
        if lies_in(name, row.names):
            continue
        tensor = large.tensor(name)
        if waiting and size + tensor.nbytes > writer.largest:
            writer.add(waiting)
            waiting, size = {}, 0
        waiting[key] = tensor
        size += tensor.nbytes
    writer.add(waiting)
