"""Find the residual blocks of a model: what can be removed as a whole, exactly, and why the rest can't."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from prunus.errors import InputError
from prunus.residual.stream import Addition, Move, Source, StreamMode, Visit
from prunus.running import Inputs, check_eager, each_input
from prunus.skip import Returns
from prunus.surgery import named_tensors
from prunus.trace.functions import OpenMode
from prunus.trace.run import failed, real_copy, run_under
from prunus.trace.standins import meta_copy


@dataclass(frozen=True)
class Block:
    """A module that ran, and whether it can be removed as a whole.

    Attributes:
        name: the module's path.
        parameters: how many it holds.
        refusal: why it can't be removed, or None if it can: its output is its input plus something made from it.
        returns: what stands in for it returns; empty if it can't be removed.
    """

    name: str
    parameters: int
    refusal: str | None
    returns: Returns


def find_blocks(model: nn.Module, args: Any, kwargs: Mapping[str, Any] | None = None) -> list[Block]:
    """Every module with parameters that ran, in the order of the model, told apart by what a run of it shows.

    A block is removable if in each of its calls every tensor that it returns is one of its inputs to which something
    made from that input was added (pre-norm transformer layers, inverted residuals, ResNet's blocks where what comes
    in has been through the same ReLU). Blocks that normalize, scale or resize the sum aren't. Nothing is computed: the
    run is on the meta device, or for real on the CPU where Python code needs values.

    Raises:
        InputError: the model can't be analysed.
        TraceError: it doesn't run on the example inputs.
    """
    check_eager(model)
    examples = each_input(args, kwargs)
    try:
        modes = [watched(meta_copy(model).eval(), each, real=False) for each in examples]
    except InputError:
        raise
    except Exception as error:
        if any(t.is_meta for t in named_tensors(model).values()):
            raise failed(model, error) from error
        try:
            modes = [watched(real_copy(model).eval(), each, real=True) for each in examples]
        except InputError:
            raise
        except Exception as again:
            raise failed(model, again) from again
    return [block for block, _ in judged(model, modes)]


def watched(copy: nn.Module, example: Inputs, real: bool) -> StreamMode:
    """Run a copy of ours and learn its streams."""
    mode = StreamMode(real)
    handles = mode.watch(copy)
    try:
        run_under(copy, example[0], example[1], mode, OpenMode())
    finally:
        for handle in handles:
            handle.remove()
    return mode


def judged(model: nn.Module, modes: Sequence[StreamMode]) -> list[tuple[Block, tuple[Addition, ...]]]:
    """The blocks of ``model``, from runs of copies of it, each with its operator calls that add to the stream."""
    result = []
    for path, module in model.named_modules():
        size = sum(p.numel() for p in module.parameters())
        visits = [visit for mode in modes for visit in mode.visits.get(path, ())]
        if path and size and visits:
            refusal, additions = _judge(visits)
            result.append((Block(path, size, refusal, visits[0].returns if refusal is None else {}), additions))
    return result


def _judge(visits: Sequence[Visit]) -> tuple[str | None, tuple[Addition, ...]]:
    additions: list[Addition] = []
    for visit in visits:
        if visit.refusal is not None:
            return visit.refusal, ()
        if visit.returns != visits[0].returns:
            return "it returns something of another form at another call", ()
        for source, steps in visit.paths:
            if not _stays(source, steps):
                return "the values of its input change places on their way to its output", ()
            additions += [step for step in steps if isinstance(step, Addition)]
    return (None, tuple(additions)) if additions else ("it adds nothing to its input", ())


def _stays(source: Source, steps: Sequence[Addition | Move]) -> bool:
    """Whether every value ends at the place where it started: the moves are made with positions instead of values."""
    moves = [step for step in steps if isinstance(step, Move)]
    if not moves:
        return True
    start = torch.arange(torch.Size(source.shape).numel(), device="cpu").reshape(source.shape)
    now = start
    for move in moves:
        try:
            now = move.func(now, *move.args, **move.kwargs)
        except RuntimeError:  # a view of a tensor that was laid out in another way
            now = move.func(now.contiguous(), *move.args, **move.kwargs)
    return torch.equal(now, start)
