"""Masks or zeros in, the exact small network out."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from prunus.errors import InputError, NothingToPrune, PlanError
from prunus.extraction.aligning import Order, orders
from prunus.extraction.check import Check, agree, as_double
from prunus.extraction.clean import clean
from prunus.extraction.fold import Changes, changes, ways
from prunus.extraction.interpret import Interpretation, interpret
from prunus.extraction.liveness import Liveness
from prunus.extraction.twins import merged
from prunus.extraction.widths import spread_out
from prunus.heads import attentions, free
from prunus.plan import Plan
from prunus.planning import holding, make_plan
from prunus.prove import DoubleMode
from prunus.running import Inputs, check_eager, each_input, mapped
from prunus.surgery import copy_model, like, named_tensors

_ATTEMPTS = 25
_ROUNDS = 3
MODES = ("exact", "drop")
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Extraction:
    """What an extraction did; the small model carries it as ``prunus_extraction``.

    Attributes:
        mode: "exact" or "drop".
        parameters: how many the masked model has, masks not counted, and how many the small one has.
        units: how many indices of how many groups went.
        folded: biases that took up the constants of dead units.
        made: those of them that had to be made.
        carriers: constant channels kept to carry others where a border is padded.
        merged: layers that read one unit in place of several that are multiples of it.
        aligned: axes of groups whose units were put in another order, so that the dead lie at the same places of each.
        spread: layers that compute only the channels that aren't dead of an axis that others keep alive.
        checks: the comparisons that were made, in fp64.
    """

    mode: str
    parameters: tuple[int, int]
    units: int
    folded: int
    made: int
    carriers: int
    merged: int
    aligned: int
    spread: int
    checks: tuple[Check, ...]

    @property
    def max_rel_error(self) -> float:
        """The largest ``max|small - masked| / max|masked|`` of all checks."""
        return max(check.error for check in self.checks)

    def __str__(self) -> str:
        before, after = self.parameters
        lines = [
            f"parameters {before:,} -> {after:,} ({after / max(before, 1):.1%}); {self.units} units gone, "
            f"constants folded into {self.folded} biases ({self.made} of them new), {self.carriers} channels carry "
            f"others, {self.merged} layers read one unit for several, {self.aligned} axes put in order, "
            f"{self.spread} layers spread",
            *map(str, self.checks),
        ]
        if self.mode == "drop":
            lines.append("mode 'drop': what dead units still emit was dropped; fine-tune the small model")
        return "\n".join(lines)


def extract(
    model: nn.Module, args: Any, kwargs: Mapping[str, Any] | None = None, *, mode: str = "exact", spread: bool = True
) -> nn.Module:
    """Return the small network that a masked one stands for.

    Dead means proven dead, from the parameters and the meaning of the operators: a unit goes if nothing that stays
    reads it, or if it is a constant that what reads it can take up, in a bias or, behind zero padding, in another
    constant channel. Of units that are multiples of each other, one stays and is read in place of all. The function
    is that of eval mode; ``model`` is left as it is.

    Args:
        model: carries masks of ``torch.nn.utils.prune``, or plain zeros.
        args: a tuple of example inputs for ``forward``, or one tensor, a dict, or :class:`prunus.Examples`; with
            several, only units that emit zero, or that nothing reads, go.
        kwargs: keyword inputs.
        mode: "exact": the same function as the masked model, for every input. "drop": what dead units still emit
            (biases, shifts of normalizations) is dropped with them, to be fine-tuned; the difference is measured.
        spread: let a layer whose dead channels are alive elsewhere (in a residual sum) compute the others alone and lay
            them in place, by a layer of :mod:`prunus.spread`. False keeps such channels.

    Returns:
        A new model on the same device, with its ``prunus_plan``, and an :class:`Extraction` as ``prunus_extraction``.

    Raises:
        InputError: an unknown mode, or a model without values or that can't be copied.
        TraceError: ``forward`` raised on the example inputs.
        NothingToPrune: no unit is dead; the message has the figures.
        PlanError: the small model isn't exact; nothing is returned. A bug of prunus, or an example that doesn't show
            all that ``forward`` does.
    """
    if mode not in MODES:
        raise InputError(f"mode must be 'exact' or 'drop', not {mode!r}.")
    check_eager(model)
    if any(p.is_meta for p in model.parameters()):
        raise InputError("a model on the meta device has no values: load its weights first.")
    inputs = [mapped(as_double, each) for each in each_input(args, kwargs)]
    plain = clean(model)
    double = _in_double(plain).eval()
    twins = Changes(add=merged(double, inputs))
    single = _changed(double, twins) if twins.add else double
    single, found, new_orders = _aligned(single, inputs, mode == "drop")
    plan, change, units = _decide(found, len(new_orders), mode == "drop")
    del found
    gc.collect()  # the graph holds itself, and with it a copy of the model
    prepared = _changed(single, change)
    plan = spread_out(plan, prepared, change.own) if spread else plan
    shrunk = plan.apply(prepared)
    del single, prepared
    checks = tuple(check for each in inputs for check in agree(double, shrunk, each))
    del double, shrunk  # a large model is held as few times as can be
    small = plan.apply(_changed(_ordered(_changed(plain, twins), new_orders), change))
    report = _report(mode, plain, small, plan, change, units, len(twins.add), len(new_orders), checks)
    if mode == "exact" and not report.max_rel_error <= TOLERANCE:
        raise PlanError(_why_inexact(type(model).__name__, report))
    small.__dict__["prunus_extraction"] = report
    return small


def _in_double(model: nn.Module) -> nn.Module:
    """A copy on the CPU in fp64. Parameters that are that already are shared: nothing writes to them."""
    replace = {}
    for tensor in named_tensors(model).values():
        data, share = tensor.detach(), isinstance(tensor, nn.Parameter)
        dtype = torch.float64 if data.is_floating_point() else torch.complex128 if data.is_complex() else data.dtype
        replace[id(tensor)] = like(tensor, data.to("cpu", dtype, copy=not share))
    return copy_model(model, replace)


def _why_inexact(name: str, report: Extraction) -> str:
    words = f"the small {name} isn't exact ({report}). Nothing is returned"
    if report.checks[0].error <= TOLERANCE:  # what forward does depends on the size of its input
        return (
            f"{words}: it is right on the example, but that doesn't show all that forward does (a sequence of one "
            "step, say). Give a longer example, or several as prunus.Examples."
        )
    return f"{words}. This is a bug of prunus; please report the model."


def _freed(model: nn.Module) -> nn.Module:
    """The model, its tensors shared, with heads of attention that can go alone; the plan says where they did."""
    result = _changed(model, Changes())
    free(result, attentions(result))
    return result


def _ordered(model: nn.Module, new_orders: Iterable[Order]) -> nn.Module:
    for order in new_orders:
        model = order.apply(model)
    return model


def _aligned(model: nn.Module, inputs: list[Inputs], drop: bool) -> tuple[nn.Module, Interpretation, list[Order]]:
    """The same function with its units in the order by which most can go, and how it came to that."""
    new_orders: list[Order] = []
    for _ in range(_ROUNDS):
        found = interpret(_freed(model), inputs)
        more = orders(found, [way.how for way in ways(found)], drop)
        after = _ordered(model, more)
        if not more or any(check.error > TOLERANCE for each in inputs for check in agree(model, after, each)):
            return model, found, new_orders
        model, new_orders = after, [*new_orders, *more]
        gc.collect()
    return model, interpret(_freed(model), inputs), new_orders


def _decide(found: Interpretation, ordered: int, drop: bool) -> tuple[Plan, Changes, int]:
    how = ways(found)
    told = {"extract": "drop" if drop else "exact", **({"reordered": ordered} if ordered else {})}
    for _ in range(_ATTEMPTS):
        live = Liveness(found, [way.how for way in how], drop)
        keep = live.solve()
        plan = make_plan(found.graph, keep, told)
        with DoubleMode():
            fits = holding(found.graph, plan, {atom: int(mask.sum()) for atom, mask in keep.items()}) is not None
        if fits:
            change = changes(found, live, how)
            return _with_biases(plan, change), change, sum(int((~mask).sum()) for mask in keep.values())
    raise PlanError(f"no plan was found in {_ATTEMPTS} attempts: {type(found.graph.model).__name__} keeps resisting.")


def _with_biases(plan: Plan, change: Changes) -> Plan:
    """The plan of the cut, with the new biases in it."""
    shapes, kept = dict(plan.shapes), dict(plan.kept)
    for name in change.new:
        weight = name.removesuffix("bias") + "weight"
        shapes[name] = shapes[weight][:1]
        if 0 in kept.get(weight, {}):
            kept[name] = {0: kept[weight][0]}
    return replace(plan, shapes=shapes, kept=kept, biases=tuple(change.new))


def _changed(model: nn.Module, change: Changes) -> nn.Module:
    """The model before the cut with the constants in its values; tensors that stay as they are are shared with it."""
    tensors = named_tensors(model)
    replace = {id(t): t for t in tensors.values()}
    for name, delta in change.add.items():
        if name in tensors:
            old = tensors[name]
            replace[id(old)] = like(old, (old.detach().double() + delta.to(old.device)).to(old.dtype))
    result = copy_model(model, replace)
    for name in change.new:
        module: Any = result.get_submodule(name.rpartition(".")[0])
        values, weight = change.add[name], module.weight
        bias = nn.Parameter(values.to(weight.device, weight.dtype), requires_grad=weight.requires_grad)
        module.register_parameter("bias", bias)
    return result


def _report(
    mode: str,
    plain: nn.Module,
    small: nn.Module,
    plan: Plan,
    change: Changes,
    units: int,
    merged: int,
    aligned: int,
    checks: tuple[Check, ...],
) -> Extraction:
    before, after = (sum(p.numel() for p in m.parameters()) for m in (plain, small))
    if after >= before:
        raise NothingToPrune(why_nothing(plain))
    folded = sum(name.endswith("bias") for name in change.add)
    made, wide = len(change.new), len(plan.spread)
    return Extraction(mode, (before, after), units, folded, made, change.carriers, merged, aligned, wide, checks)


def why_nothing(model: nn.Module) -> str:
    """The figures of a model of which nothing can go."""
    weights = [p for p in model.parameters() if p.dim() > 1]
    zeros, total = sum(int((p == 0).sum()) for p in weights), sum(p.numel() for p in weights)
    rows = sum(int((p == 0).flatten(1).all(1).sum()) for p in weights)
    columns = sum(int((p == 0).transpose(0, 1).flatten(1).all(1).sum()) for p in weights)
    units = sum(p.shape[0] for p in weights)
    return (
        f"no unit of {type(model).__name__} is dead: {zeros / max(total, 1):.1%} of the weights are zero, but only "
        f"{rows} of {units} rows (filters, units) and {columns} columns are zero as a whole, and none of these can go "
        "alone. Masks of single weights leave no whole unit empty: prune filters "
        "(torch.nn.utils.prune.ln_structured), or use prunus.prune, which removes whole units."
    )
