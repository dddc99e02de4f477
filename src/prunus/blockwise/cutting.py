"""A plan carried out on a model larger than memory, each layer solved against the original, a block at a time."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from os import PathLike
from typing import Any

import torch

from prunus.blockwise.large import LargeModel, filled, value_of
from prunus.blockwise.layers import stages
from prunus.blockwise.memory import trim
from prunus.blockwise.passing import Progress, before_blocks, examples_in, walk, write_rest
from prunus.blockwise.writing import writing
from prunus.compensation import Compensation, Mended
from prunus.compensation.waves import METHODS, Original, Wave, stream_writers
from prunus.contractions import names
from prunus.errors import InputError, PlanError, suggest
from prunus.foreign import NONE_FITS
from prunus.plan import Plan
from prunus.residual import Stream, find_row


def cut(
    source: str | PathLike[str],
    out: str | PathLike[str],
    plan: Plan,
    data: Iterable[Any],
    *,
    method: str = "refit",
    ridge: float | None = None,
    rows: int = 4096,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    on_progress: Progress | None = None,
) -> Compensation:
    """Write the small model of a plan as a ``from_pretrained`` folder, mended as :func:`prunus.compensate` does.

    Held at a time: one block, the small one, and the activations between two blocks of both. What lies outside the
    blocks (embeddings, the output layer) is sliced and not solved.

    Args:
        source: a ``from_pretrained`` folder.
        out: the folder to write. It appears whole or not at all.
        plan: made with ``uniform=True``, so that one config fits the small model:
            ``prunus.plan(large.model, ids, importance=large.l2, uniform=True)`` with a :class:`LargeModel`.
        data: batches to calibrate with, as for :func:`sparsify`.
        method, ridge, rows: as for :func:`prunus.compensate`.
        dtype, device, on_progress: as for :func:`sparsify`.

    Raises:
        InputError: an argument is wrong, or the model has no row of residual blocks.
        PlanError: the plan isn't for this model, removes whole blocks, or no config fits what it makes.
        SaveError: ``source`` isn't complete, or ``out`` is there already.
    """
    if method not in METHODS:
        raise InputError(f"there is no method {method!r}.{suggest(method, METHODS)} Known: {', '.join(METHODS)}.")
    large, examples = LargeModel(source), examples_in(data)
    small = _small(large, plan)
    done: list[Mended] = []
    skipped: dict[str, str] = {}
    with writing(large.folder, out) as writer, torch.no_grad():
        rows_of = find_row(large.model, examples[0]), find_row(small.model, examples[0])
        streams = [
            before_blocks(model, row, examples, dtype, torch.device(device))
            for model, row in zip((large, small), rows_of, strict=True)
        ]
        for at, path in walk(rows_of[0], on_progress):
            names = large.stored(large.model.get_submodule(path))
            with ExitStack() as stack:
                for model in (large, small):
                    values = {name: model.tensor(name) for name in names}
                    kinds = {name: value.dtype for name, value in values.items()}
                    stack.enter_context(filled(model.model, values, dtype, torch.device(device)))
                    del values
                done += _mend(streams[0], streams[1], at, plan, (method, ridge, rows), skipped)
                for stream in streams:
                    stream.advance(at)
                writer.add({small.keys[n]: value_of(small.model, n).to(kinds[n]) for n in names})
        write_rest(small, rows_of[1], writer)
        small.model.config.save_pretrained(writer.folder)  # type: ignore[union-attr, operator]
    return Compensation(method, tuple(done), skipped)


def _small(large: LargeModel, plan: Plan) -> LargeModel:
    if plan.dropped:
        raise PlanError("cut() goes block by block and can't remove whole ones: leave drop_blocks out of the plan.")
    verdict = plan.config_verdict or NONE_FITS
    if verdict.startswith(NONE_FITS):
        raise PlanError(f"no config fits the small model ({verdict}): make the plan with uniform=True.")
    return large.small(plan)


def _mend(
    dense: Stream, small: Stream, at: int, plan: Plan, how: tuple[str, float | None, int], skipped: dict[str, str]
) -> list[Mended]:
    """Solve the layers of block ``at`` in turn; those that share their input, in one pass."""
    path = small.row.names[at]
    blocks = [stream.model.get_submodule(path) for stream in (dense, small)]
    kept = {name.removeprefix(f"{path}."): cut for name, cut in plan.kept.items() if name.startswith(f"{path}.")}
    original = Original(blocks[0], kept, how[2], names(blocks[0]))
    found: list[Mended] = []
    odd: dict[str, str] = {}
    residual = stream_writers(blocks[0], blocks[1], next(iter(dense.each(at))), next(iter(small.each(at))))
    for stage in stages(small, at, ()):
        wave = Wave(blocks[1], names(blocks[1]), stage.layers, residual)
        for batch, (example, of_small) in enumerate(zip(dense.each(at), small.each(at), strict=True)):
            wave.take(original.targets(stage.layers, residual, example, batch), of_small)
        found += wave.solve(how[0], how[1], odd)
        del wave
        trim()
    skipped.update({f"{path}.{name}": why for name, why in odd.items()})
    return [Mended(f"{path}.{m.weight}", m.rows, m.before, m.after) for m in found]
