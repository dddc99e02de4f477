"""Decide which residual blocks go: by name, by shell pattern, or so many of the least useful. The result is a Plan."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from prunus.depth.influence import influences
from prunus.depth.slots import slot_changes
from prunus.errors import InputError, NothingToPrune, PlanError, suggest
from prunus.plan import Plan
from prunus.residual import Block, find_blocks
from prunus.running import Inputs, each_input
from prunus.surgery import lies_in, named_tensors
from prunus.trace.graph import Run
from prunus.trace.run import real_copy, record_shapes
from prunus.trace.standins import meta_copy

Evaluate = Callable[[nn.Module], float]


def drop_blocks(
    model: nn.Module,
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    *,
    blocks: str | Sequence[str] | None = None,
    number: int | None = None,
    data: Iterable[Any] | None = None,
    evaluate: Evaluate | None = None,
    keep: Sequence[str] = (),
) -> Plan:
    """Plan the removal of whole residual blocks, which then cost nothing. Prove it as any plan: :func:`prunus.prove`.

    Which blocks can go is found in a run (:func:`prunus.find_blocks`), not guessed. Either name them, or ask for a
    number of the least useful, told by one of two scores:

    * *influence* (the default): one minus the cosine between what goes into a block and what comes out, averaged over
      ``data`` (ShortGPT: Men et al., 2024). One run of the model per batch.
    * ``evaluate(small)``, a number of which higher is better: one after the other, the block goes without which the
      model does best. About ``number`` times as many evaluations as there are blocks.

    Args:
        args, kwargs: example inputs, as for :func:`prunus.trace`.
        blocks: names of modules or shell patterns; a pattern takes the removable ones of those that it matches.
        number: how many of the innermost removable blocks go.
        data: batches, each as ``args`` (a tensor, a tuple, or a dict of keyword inputs); by default the example alone.
        keep: names or patterns of blocks that stay.

    Raises:
        InputError: not exactly one of ``blocks`` and ``number``; a name that matches nothing; too large a number.
        PlanError: a named block can't be removed exactly; the message says why.
        NothingToPrune: no block of the model can be removed.
    """
    if (blocks is None) == (number is None):
        raise InputError("give either blocks= (names or patterns) or number= (how many of the least useful), not both.")
    if number is None and (data is not None or evaluate is not None):
        raise InputError(
            "data= and evaluate= choose blocks where number= asks for some; blocks= has named them already."
        )
    found = find_blocks(model, args, kwargs)
    how: dict[str, Any]
    if number is None:
        names = [blocks] if isinstance(blocks, str) else list(blocks or ())
        chosen = _named(model, found, names, keep)
        how = {"blocks": names, "by": "name"}
    else:
        candidates = _candidates(found, keep, number)
        batches = each_input(args, kwargs) if data is None else [pair for each in data for pair in each_input(each)]
        if evaluate is not None:
            chosen, scores = _by_evaluation(_Maker(model), candidates, number, evaluate)
        else:
            chosen, scores = _by_influence(model, candidates, number, batches)
        how = {"number": number, "by": "influence" if evaluate is None else "evaluate", "scores": scores}
    plan = _Maker(model).plan(chosen, how)
    _check_runs(model, plan, args, kwargs)
    return plan


class _Maker:
    """Plans for one model, from blocks."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.shapes = {name: tuple(t.shape) for name, t in named_tensors(model).items()}

    def plan(self, blocks: Sequence[Block], how: Mapping[str, Any]) -> Plan:
        """With every name that a removed module goes by, and the slots that others take over."""
        modules = {id(self.model.get_submodule(block.name)): block for block in blocks}
        dropped = {
            path: modules[id(module)].returns
            for path, module in self.model.named_modules(remove_duplicate=False)
            if id(module) in modules
        }
        return Plan(self.shapes, {}, tuple(slot_changes(self.model, list(dropped))), how, dropped=dropped)


# -- by name -----------------------------------------------------------------------------------------------------


def _named(model: nn.Module, found: Sequence[Block], names: Sequence[str], keep: Sequence[str]) -> list[Block]:
    known = {block.name: block for block in found}
    kept = {name for pattern in keep for name in _matches(model, known, pattern)}
    chosen: dict[str, Block] = {}
    for pattern in names:
        matches = _matches(model, known, pattern)
        able = [known[name] for name in matches if known[name].refusal is None]
        if not able:
            block = known[matches[0]]
            raise PlanError(f"{block.name!r} can't be removed exactly: {block.refusal}. {_others(found)}")
        chosen.update({block.name: block for block in able if block.name not in kept})
    if not chosen:
        raise NothingToPrune(f"blocks={list(names)!r} with keep={list(keep)!r} removes nothing.")
    return [b for name, b in chosen.items() if not lies_in(name.rpartition(".")[0], chosen)]


def _matches(model: nn.Module, known: Mapping[str, Block], pattern: str) -> list[str]:
    found = [name for name in known if fnmatch.fnmatchcase(name, pattern)]
    if found:
        return found
    modules = dict(model.named_modules())
    if pattern and pattern in modules:
        raise PlanError(f"{pattern!r} can't be removed: it has no parameters, or doesn't run on the example inputs.")
    raise InputError(f"no module is called {pattern!r}, or matches it.{suggest(pattern, known)}")


def _others(found: Sequence[Block]) -> str:
    able = [block.name for block in _innermost(found)]
    return f"Removable: {', '.join(able[:12])}{', ...' if len(able) > 12 else ''}." if able else "No block here can."


# -- by score ----------------------------------------------------------------------------------------------------


def _innermost(found: Sequence[Block]) -> list[Block]:
    able = [block for block in found if block.refusal is None]
    outer = {".".join(b.name.split(".")[:i]) for b in able for i in range(1, b.name.count(".") + 1)}
    return [block for block in able if block.name not in outer]


def _candidates(found: Sequence[Block], keep: Sequence[str], number: int) -> list[Block]:
    inner = _innermost(found)
    if not inner:
        reasons = dict.fromkeys(f"{block.name}: {block.refusal}" for block in found if "." in block.name)
        raise NothingToPrune(f"no block of this model can be removed exactly. {'; '.join(list(reasons)[:5])}.")
    for pattern in keep:
        if not any(fnmatch.fnmatchcase(block.name, pattern) for block in inner):
            raise InputError(
                f"keep names {pattern!r}, but no removable block matches.{suggest(pattern, (b.name for b in inner))}"
            )
    left = [b for b in inner if not any(fnmatch.fnmatchcase(b.name, pattern) for pattern in keep)]
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= len(left):
        raise InputError(f"number must be from 1 to {len(left)}, the blocks that can be removed, not {number!r}.")
    return left


def _by_influence(
    model: nn.Module, candidates: Sequence[Block], number: int, batches: Sequence[Inputs]
) -> tuple[list[Block], dict[str, float]]:
    scores = influences(model, candidates, batches)
    ranked = sorted(candidates, key=lambda block: scores[block.name])
    return ranked[:number], scores


def _by_evaluation(
    make: _Maker, candidates: Sequence[Block], number: int, evaluate: Evaluate
) -> tuple[list[Block], dict[str, float]]:
    chosen: list[Block] = []
    scores: dict[str, float] = {}
    while len(chosen) < number:
        values: dict[str, float] = {}
        for block in candidates:
            if block not in chosen:
                values[block.name] = _number(evaluate(make.plan([*chosen, block], {}).apply(make.model)))
        best = max(values, key=values.__getitem__)
        scores[best] = values[best]
        chosen.append(next(block for block in candidates if block.name == best))
    return chosen, scores


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise InputError(f"evaluate() returned {value!r}; it must return a number, higher is better.")
    return float(value)


def _check_runs(model: nn.Module, plan: Plan, args: Any, kwargs: Mapping[str, Any] | None) -> None:
    """The model without the blocks must run: something may have asked a removed block for more than its output."""
    for example in each_input(args, kwargs):
        run = Run(example, training=False, records=())
        error = record_shapes(plan.apply(meta_copy(model)), run, real=False)[1]
        if error is not None and not any(t.is_meta for t in named_tensors(model).values()):
            error = record_shapes(plan.apply(real_copy(model)), run, real=True)[1]
        if error is not None:
            raise PlanError(
                f"without {', '.join(plan.dropped)} the model doesn't run: {type(error).__name__}: {error}. Something "
                "in it needs more of a block than its output; name other blocks."
            ) from error
