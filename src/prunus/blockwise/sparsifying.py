"""Masks for a model larger than memory: magnitude, Wanda or SparseGPT, a block at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prunus.blockwise.large import LargeModel, filled, value_of
from prunus.blockwise.layers import Moment, Seen, Stage, gram, squares, stages
from prunus.blockwise.memory import trim
from prunus.blockwise.passing import before_blocks, examples_in, walk, write_rest
from prunus.blockwise.writing import writing
from prunus.contractions import Fit
from prunus.errors import InputError, suggest
from prunus.masks.names import as_names, matches
from prunus.masks.selection import choose, choose_pattern
from prunus.masks.sparsegpt import inverse_factor, prune_columns
from prunus.masks.units import SUM, Pattern, Tiles, parse
from prunus.residual import Stream, find_row

BLOCK = 128
"""Columns whose masks SparseGPT chooses together, as in the paper."""


@dataclass(frozen=True)
class Sparsified:
    """What was written: the folder, and the share of zeros in each weight that was pruned."""

    folder: Path
    method: str
    sparsity: Mapping[str, float]

    def __str__(self) -> str:
        mean = sum(self.sparsity.values()) / len(self.sparsity)
        return f"{self.folder}: {len(self.sparsity)} weights pruned by {self.method}, {mean:.2%} zeros on average"


@dataclass(frozen=True)
class _How:
    """``share`` of zeros in each matrix (rows are outputs), by single weights or a pattern along the inputs."""

    method: str
    share: float
    units: Tiles | Pattern
    damping: float


def sparsify(
    source: str | PathLike[str],
    out: str | PathLike[str],
    data: Iterable[Any],
    *,
    method: str = "sparsegpt",
    sparsity: float | None = None,
    granularity: str = "weight",
    skip: Iterable[str] = (),
    damping: float = 0.01,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    on_progress: Callable[[int, int], None] | None = None,
) -> Sparsified:
    """Prune the residual blocks of a model on disk without ever holding more than one of them.

    Activations of all batches stream from block to block. In each block the layers are taken as they run, each seeing
    what the layers pruned before it give, as :func:`prunus.masks.sparsegpt` does; layers that share their input are
    pruned from one pass. Embeddings, norms and the output layer stay as they are. Peak memory: one block, the
    activations between two blocks, and what the block itself needs for one batch and one layer's ``X^T X`` (float64).

    Args:
        source: a ``from_pretrained`` folder: config.json and safetensors, sharded or not.
        out: the folder to write: the same files, with zeros. It appears whole or not at all.
        data: batches to calibrate with, each a tensor of token ids, a tuple of arguments, or a dict of them.
        method: "magnitude", "wanda" (Sun et al., 2024) or "sparsegpt" (Frantar, Alistarh, 2023).
        sparsity: the share of zeros of each matrix, (0, 1); left out for N:M. Wanda takes it from each row.
        granularity: "weight", or N:M along the inputs, such as "2:4".
        skip: names of modules or parameters, or shell patterns, that stay dense: ``"*.down_proj"``.
        damping: of SparseGPT, the share of the mean diagonal that is added to the Hessian.
        dtype: to compute in; by default what is stored. Written is what was stored.
        device: where the block at work is held.
        on_progress: called with the blocks done and their number.

    Raises:
        InputError: an argument is wrong, or the model has no row of residual blocks.
        SaveError: ``source`` isn't complete, or ``out`` is there already.
    """
    how, left_out = _how(method, sparsity, granularity, damping), as_names(skip)
    large, examples = LargeModel(source), examples_in(data)
    _check_skip(large.model, left_out)
    found: dict[str, float] = {}
    with writing(large.folder, out) as writer, torch.no_grad():
        row = find_row(large.model, examples[0])
        stream = before_blocks(large, row, examples, dtype, torch.device(device))
        for at, path in walk(row, on_progress):
            names = large.stored(large.model.get_submodule(path))
            values = {name: large.tensor(name) for name in names}
            kinds = {name: value.dtype for name, value in values.items()}
            with filled(large.model, values, dtype, stream.device):
                del values
                found.update(_prune_block(stream, at, left_out, how))
                stream.advance(at)
                writer.add({large.keys[n]: value_of(large.model, n).to(kinds[n]) for n in names})
        write_rest(large, row, writer)
    return Sparsified(Path(out), method, found)


def _prune_block(stream: Stream, at: int, skip: tuple[str, ...], how: _How) -> dict[str, float]:
    """Prune the layers of block ``at`` in place; the share of zeros of each."""
    found: dict[str, float] = {}
    for stage in stages(stream, at, skip):
        found.update(_prune_stage(stream, at, stage, how))  # a function of its own, so that its tensors go with it
        trim()
    return found


def _prune_stage(stream: Stream, at: int, stage: Stage, how: _How) -> dict[str, float]:
    path, found = stream.row.names[at], {}
    seen = Seen(stream, at, stage, METHODS[how.method])
    told = told_by(seen.take(), how)
    for name in stage.layers:
        layer = seen.calls[name]
        old = layer.fit().weight
        by_group: list[Tensor | None] = [*told] if told else [None] * len(old)
        parts = zip(old, by_group, strict=True)
        new = [pruned(w, each, how, f"{path}.{name}").to(old.dtype) for w, each in parts]
        layer.put(Fit(new[0][None] if len(new) == 1 else torch.stack(new), None))
        found[f"{path}.{name}"] = 1 - int(layer.weight.count_nonzero()) / layer.weight.numel()
    return found


def told_by(moments: list[Tensor], how: _How) -> list[Tensor]:
    """What a method takes from the moments, by group; each is let go as soon as it isn't needed."""
    result = []
    while moments:
        moment = moments.pop(0)
        result.append(inverse_factor(moment, how.damping) if how.method == "sparsegpt" else moment.sqrt())
        del moment
    return result


def pruned(weight: Tensor, told: Tensor | None, how: _How, name: str) -> Tensor:
    """One matrix (outputs, inputs) with zeros, from what ``told_by`` gives of its inputs."""
    everything = torch.ones_like(weight, dtype=torch.bool)
    if isinstance(how.units, Pattern):
        how.units.lines(weight, name)  # or an error that names the weight
    if how.method == "sparsegpt" and told is not None:
        by_row = isinstance(how.units, Pattern)
        block = how.units.m if isinstance(how.units, Pattern) else BLOCK
        return prune_columns(weight, everything, told, how.share, block, by_row=by_row)[0]
    scores = weight.abs() if told is None else weight.abs() * told.to(weight.dtype)
    if isinstance(how.units, Pattern):
        mask = choose_pattern({name: scores}, {name: everything}, how.units)[name]
    else:
        scope = "row" if how.method == "wanda" else "local"
        chosen = choose({name: scores}, {name: everything}, how.share, units=how.units, reduction=SUM, scope=scope)
        mask = chosen[name]
    return weight.masked_fill(~mask, 0)


METHODS: Mapping[str, Moment | None] = {"magnitude": None, "wanda": squares, "sparsegpt": gram}
"""The methods, and what of a layer's inputs each is told."""


def _how(method: str, sparsity: float | None, granularity: str, damping: float) -> _How:
    if method not in METHODS:
        raise InputError(f"there is no method {method!r}.{suggest(method, METHODS)} Known: {', '.join(METHODS)}.")
    units = parse(granularity)
    if isinstance(units, Pattern):
        if units.dim != 1 or sparsity not in (None, units.sparsity):
            raise InputError(f"N:M runs along the inputs and says its sparsity itself: not {granularity}, {sparsity}.")
        return _How(method, units.sparsity, units, damping)
    if granularity != "weight" or sparsity is None or not 0 < sparsity < 1:
        raise InputError(f"give single weights and a sparsity in (0, 1), or N:M: not {granularity}, {sparsity}.")
    return _How(method, sparsity, units, damping)


def _check_skip(model: nn.Module, skip: tuple[str, ...]) -> None:
    names = [name for name, _ in model.named_parameters()]
    for pattern in skip:
        if not any(matches(name, (pattern,)) for name in names):
            raise InputError(f"skip names {pattern!r}, but no parameter matches.{suggest(pattern, names)}")
