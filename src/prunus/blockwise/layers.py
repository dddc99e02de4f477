"""The linear maps of one block: which there are, which share their input, and the second moments of those inputs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prunus.contractions import Contraction, Watch, names, positions
from prunus.errors import InputError
from prunus.masks.names import chosen_parameters, matches
from prunus.residual import Stream
from prunus.running import Enough, call


@dataclass(frozen=True)
class Stage:
    """Layers of one block that get the very same tensor (queries, keys and values): one Gram matrix serves them all."""

    layers: tuple[str, ...]


def stages(stream: Stream, at: int, skip: tuple[str, ...]) -> list[Stage]:
    """The layers of block ``at`` that are to be pruned, in the order in which they run, by input.

    Raises:
        InputError: a weight matrix isn't used as one of a linear layer or a convolution.
    """
    path = stream.row.names[at]
    block = stream.model.get_submodule(path)
    wanted = [name for name in chosen_parameters(block, (), ()) if not matches(f"{path}.{name}", skip)]
    seen: dict[str, Contraction] = {}
    with Watch(names(block), lambda name, found, _: seen.setdefault(name, found)):
        call(block, *stream.inputs(at, 0))
    missing = [name for name in wanted if name not in seen]
    if missing:
        raise InputError(
            f"'{path}.{missing[0]}' isn't the weight of a linear layer or a convolution that ran, so nothing is known "
            f"of its inputs: leave it out, skip=['*.{missing[0]}']."
        )
    groups: dict[Any, list[str]] = {}
    for name, found in seen.items():  # which keeps the inputs, so that no two have one id
        if name in wanted:
            groups.setdefault((id(found.x), found.groups, str(found.window)), []).append(name)
    return [Stage(tuple(group)) for group in groups.values()]


Moment = Callable[[Tensor | None, Tensor], Tensor]
"""What is summed over batches: from the sum so far, or None, and rows of inputs (groups, rows, columns) in float64."""


def gram(so_far: Tensor | None, rows: Tensor) -> Tensor:
    """``X^T X``, (groups, columns, columns); the sum so far is added to in place, as it can be larger than a block."""
    return rows.mT @ rows if so_far is None else so_far.baddbmm_(rows.mT, rows)


def squares(so_far: Tensor | None, rows: Tensor) -> Tensor:
    """The squared norm of each input, (groups, columns)."""
    found = rows.square().sum(1)
    return found if so_far is None else so_far + found


class Seen:
    """The layers of a stage as they were called, and a moment of their inputs over all batches (or None: not asked)."""

    def __init__(self, stream: Stream, at: int, stage: Stage, moment: Moment | None) -> None:
        self.calls: dict[str, Contraction] = {}
        self.moment: Tensor | None = None
        self._stage, self._of = stage, moment
        block = stream.model.get_submodule(stream.row.names[at])
        known = names(block)
        for example in stream.each(at):
            with ExitStack() as stack:
                stack.enter_context(Watch(known, self._see))
                stack.enter_context(suppress(Enough))
                call(block, *example)
            if moment is None:
                break

    def take(self) -> list[Tensor]:
        """The moments by group, which aren't kept here any more; none, if none was asked for."""
        found, self.moment = self.moment, None
        return [] if found is None else list(found.unbind())

    def _see(self, name: str, found: Contraction, output: Tensor) -> None:
        layers = self._stage.layers
        if name == layers[0] and self._of is not None:
            rows = found.rows_of_input(torch.arange(positions(output, found.channel), device="cpu")).double()
            self.moment = self._of(self.moment, rows)
        if name in layers:
            self.calls[name] = found
        if name == layers[-1]:
            raise Enough
