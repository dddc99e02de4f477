"""The row of residual blocks of a model, and the activations that stream through it, a block at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from prunus.errors import InputError
from prunus.residual.blocks import Block, find_blocks
from prunus.running import Enough, Inputs, call, cloned, states_in, tensors_in
from prunus.skip import Returns, Skip, inputs_of

_CPU = torch.device("cpu")

Place = tuple[int | None, str | None]
"""Which of a call's arguments: its position, its name."""


@dataclass(frozen=True)
class Row:
    """Blocks that follow each other, by path, what stands in for each returns, which of their inputs the stream is, and
    its bytes where they are known.
    """

    names: tuple[str, ...]
    returns: tuple[Returns, ...]
    place: Place
    sizes: tuple[int, ...] = ()

    def since(self, at: int) -> Row:
        """The row without the first ``at`` blocks."""
        return Row(self.names[at:], self.returns[at:], self.place, self.sizes[at:])

    def put(self, example: Inputs, x: Any) -> Inputs:
        """The arguments of one call of a block with ``x`` as the stream."""
        args, kwargs = list(example[0]), dict(example[1])
        at, name = self.place
        if at is not None and at < len(args):
            args[at] = x
        else:
            kwargs[str(name)] = x
        return tuple(args), kwargs

    def get(self, example: Inputs) -> Tensor:
        """The stream among the arguments of a call."""
        at, name = self.place
        found: Tensor = example[0][at] if at is not None and at < len(example[0]) else example[1][str(name)]
        return found


def find_row(model: nn.Module, example: Inputs) -> Row:
    """The children of one module that are all removable residual blocks: the row with the most parameters.

    Raises:
        InputError: there is no such row; the message says why.
    """
    found = {block.name: block for block in find_blocks(model, *example)}
    rows: dict[str, list[Block]] = {}
    reasons: list[str] = []
    for parent, module in model.named_modules():
        names = [f"{parent}.{key}".lstrip(".") for key, _ in module.named_children()]
        blocks = [found[name] for name in names if name in found and inputs_of(found[name].returns)]
        if len(names) > 1 and len(blocks) == len(names):
            rows[parent] = blocks
        elif len(names) > 1 and isinstance(module, nn.ModuleList):
            reasons += [f"{n}: {found[n].refusal if n in found else 'it does not run'}" for n in names if n in found]
    if not rows:
        why = f" {'; '.join(reasons[:3])}." if reasons else ""
        raise InputError(f"{type(model).__name__} has no row of residual blocks to go through one by one.{why}")
    blocks = max(rows.values(), key=lambda row: sum(block.parameters for block in row))
    places = {place for block in blocks for place in inputs_of(block.returns)}
    if len(places) != 1:
        raise InputError(f"the blocks of {blocks[0].name.rpartition('.')[0]!r} pass on more than one tensor: {places}.")
    return Row(tuple(block.name for block in blocks), tuple(block.returns for block in blocks), places.pop())


class Stream:
    """What goes into the next block, batch by batch, and the other arguments that each block is called with.

    Made by running ``model`` with its blocks skipped, so only what lies before them needs values. The activations
    rest on the CPU, or where ``rest`` says.

    Raises:
        InputError: a block isn't called once in each run, or gets something that an earlier block computes.
    """

    def __init__(
        self, model: nn.Module, row: Row, data: Iterable[Inputs], device: torch.device, rest: torch.device = _CPU
    ) -> None:
        self.model, self.row, self.device, self.rest = model, row, device, rest
        self.calls: list[list[Inputs]] = []
        self.states: list[Tensor] = []
        for number, example in enumerate(data):
            moved = _on(device, example)
            calls = _calls(model, row, moved, torch.clone)
            states = states_in(calls)
            if states:
                raise InputError(
                    f"the blocks are called with a {states[0]}, which they fill: run without, use_cache=False."
                )
            if number == 0:
                _check_independent(row, calls, _calls(model, row, moved, lambda x: x + 1))
            self.states.append(row.get(calls[0]).to(rest))
            self.calls.append([_on(rest, row.put(each, None)) for each in calls])
        if not self.states:
            raise InputError("data has no batches to calibrate with.")

    def inputs(self, at: int, batch: int) -> Inputs:
        """The arguments of block ``at`` for one batch, ready to be used."""
        found: Inputs = _on(self.device, self.row.put(cloned(self.calls[batch][at]), self.states[batch].clone()))
        return found

    def size(self, batch: int) -> int:
        """The bytes that are kept of one batch."""
        kept = {id(t): t.nbytes for t in tensors_in((self.states[batch], self.calls[batch]))}
        return sum(kept.values())

    def each(self, at: int) -> Iterator[Inputs]:
        """The arguments of block ``at``, batch by batch."""
        for batch in range(len(self.states)):
            yield self.inputs(at, batch)

    def advance(self, at: int) -> None:
        """Run all batches through block ``at``: what comes out takes the place of what went in."""
        module = self.model.get_submodule(self.row.names[at])
        for batch in range(len(self.states)):
            output = call(module, *self.inputs(at, batch))
            self.states[batch] = tensors_in(output)[0].to(self.rest)


def _on(device: torch.device, value: Any) -> Any:
    return pytree.tree_map_only(Tensor, lambda t: t.to(device), value)


def _calls(model: nn.Module, row: Row, example: Inputs, passed_on: Callable[[Tensor], Tensor]) -> list[Inputs]:
    """The arguments that each block is called with, where each passes its input on through a function; the stream is
    only among those of the first.
    """
    found: dict[str, Inputs] = {}
    passed: dict[str, tuple[Tensor, int]] = {}  # by the last block alone

    def skipping(name: str, skip: Skip) -> Callable[..., Any]:
        def instead(*args: Any, **kwargs: Any) -> Any:
            if name in found:
                raise InputError(f"{name!r} is called more than once in a run, so blocks can't be taken in turn.")
            stream = row.get((args, kwargs))
            if passed:
                before, (tensor, changes) = passed.popitem()
                if stream is not tensor or version(stream) != changes:
                    raise InputError(f"what {before!r} returns is changed before {name!r} gets it.")
            found[name] = row.put((args, kwargs), None) if found else (args, kwargs)
            if name == row.names[-1]:
                raise Enough
            stream = passed_on(stream)
            passed[name] = stream, version(stream)
            args, kwargs = row.put((args, kwargs), stream)
            return skip(*args, **kwargs)

        return instead

    with ExitStack() as stack:
        for name, returns in zip(row.names, row.returns, strict=True):
            module = model.get_submodule(name)
            stack.enter_context(_forward(module, skipping(name, Skip(module, returns))))
        stack.enter_context(suppress(Enough))
        call(model, cloned(example[0]), cloned(example[1]))
    if list(found) != list(row.names):
        raise InputError(f"the blocks don't run in their order: {', '.join(found)}.")
    return list(found.values())


def version(tensor: Tensor) -> int:
    """How often a tensor has been changed in place; those of inference mode don't count it."""
    return 0 if tensor.is_inference() else tensor._version


@contextmanager
def _forward(module: nn.Module, function: Callable[..., Any]) -> Iterator[None]:
    """Within, calling the module calls ``function``."""
    own = module.__dict__.get("forward")  # libraries that move weights about put theirs there
    module.__dict__["forward"] = function
    try:
        yield
    finally:
        del module.__dict__["forward"]
        if own is not None:
            module.__dict__["forward"] = own


def _check_independent(row: Row, calls: Sequence[Inputs], others: Sequence[Inputs]) -> None:
    """What blocks get beside the stream must not change with it: else it is computed in blocks, and isn't known yet."""
    for name, one, other in zip(row.names, calls, others, strict=True):
        pairs = zip(tensors_in(row.put(one, None)), tensors_in(row.put(other, None)), strict=True)
        if any(a.shape != b.shape or not torch.equal(a, b) for a, b in pairs):
            raise InputError(f"{name!r} is called with something that earlier blocks compute, beside their output.")


@contextmanager
def without_cache(model: nn.Module) -> Iterator[None]:
    """Blocks that fill a cache of keys and values would find their own of the run before."""
    config = getattr(model, "config", None)
    before = getattr(config, "use_cache", None)
    if before is None:
        yield
        return
    config.use_cache = False  # type: ignore[union-attr]
    try:
        yield
    finally:
        config.use_cache = before  # type: ignore[union-attr]
