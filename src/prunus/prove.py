"""Prove that the small model computes what the masked original computes.

The original runs in fp64 with its removed indices zeroed in every parameter and, after each operator that makes
something of nothing (a sigmoid, an added constant), in its output too. Statistics over a cut axis (layer norm, softmax,
mean) are taken over the kept indices alone. Operators that only move, select, contract or pool values must leave the
removed positions zero by themselves: where one doesn't, the axes were misread, and the proof fails by its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from prunus.axes import Atom, Axes, Axis, Keep, Space, atoms, count, fold, keep_vector
from prunus.caches import caches_forgotten
from prunus.errors import InputError, PlanError
from prunus.operators import Call, find, operator_name
from prunus.plan import Plan
from prunus.precision import GROUPED_MM, Precise, as_double, doubled, in_double
from prunus.residual import without_blocks
from prunus.running import Inputs, check_eager, each_input, mapped, on_cpu, outputs_in
from prunus.surgery import named_tensors
from prunus.trace.choices import Choices
from prunus.trace.functions import OpenMode
from prunus.trace.modes import AxisMode
from prunus.trace.run import axes_of_tensors, real_copy, run_under

TOLERANCE = 1e-9


@dataclass(frozen=True)
class Proof:
    """The outcome of a proof.

    Where every output of the masked original is zero (a head initialized with zeros), any small model would agree with
    it: such a proof is *vacuous*, and not ok.

    Attributes:
        max_rel_error: the largest ``max|small - masked| / max|masked|`` over all outputs, in fp64.
        ok: whether it is within ``tolerance`` and no operator leaked.
        outputs: how many output tensors were compared.
        leaks: operators that left values in removed positions although they can't make any.
        vacuous: every output of the masked original is zero.
        tolerance: what ``max_rel_error`` may be at most.
    """

    max_rel_error: float
    ok: bool
    outputs: int
    leaks: tuple[str, ...] = ()
    vacuous: bool = False
    tolerance: float = TOLERANCE

    def __str__(self) -> str:
        if self.vacuous:
            return "NOT PROVEN: the masked original's output is zero everywhere, so that there is nothing to compare"
        verdict = "proven" if self.ok else "NOT PROVEN"
        leaks = f"; values in removed positions after {', '.join(self.leaks)}" if self.leaks else ""
        error = f"{self.max_rel_error:.1e} (tolerance {self.tolerance:.0e})"
        return f"{verdict}: relative error {error} in fp64 over {self.outputs} outputs{leaks}"


def prove(model: nn.Module, small: nn.Module, plan: Plan, args: Any, kwargs: Mapping[str, Any] | None = None) -> Proof:
    """Compare ``small`` with the masked ``model`` in fp64, in eval mode, on the given inputs.

    Both models are left as they are. The check needs two runs of the original and one of the small model, for each of
    several :class:`prunus.Examples`; the proof is then of the worst.

    Raises:
        PlanError: the plan isn't for this model, or cuts tensors that the model's own axes say must be cut alike.
        InputError: a model is on the meta device: there are no values to compare.
    """
    check_eager(model)
    plan.check_fits(model)
    if any(tensor.is_meta for each in (model, small) for tensor in each.parameters()):
        raise InputError("a model on the meta device has no values to compare: load its weights first.")
    proofs = [_prove_one(model, small, plan, inputs) for inputs in each_input(args, kwargs)]
    return Proof(
        max(proof.max_rel_error for proof in proofs),
        all(proof.ok for proof in proofs),
        sum(proof.outputs for proof in proofs),
        tuple(dict.fromkeys(leak for proof in proofs for leak in proof.leaks)),
        any(proof.vacuous for proof in proofs),
    )


def _prove_one(model: nn.Module, small: nn.Module, plan: Plan, example: Inputs) -> Proof:
    inputs = mapped(lambda t: as_double(t.detach().cpu().clone()), example)
    return _prove_depth(model, small, plan, inputs) if plan.dropped else _prove_width(model, small, plan, inputs)


def _prove_depth(model: nn.Module, small: nn.Module, plan: Plan, inputs: Inputs) -> Proof:
    """The original whose removed blocks add nothing against the one without them; that one, masked, against ``small``.

    Where nothing else is cut, ``small`` is the one without them.
    """
    depth, width = plan.parts()
    original = real_copy(model, torch.float64).eval()
    expected = outputs_in(without_blocks(original, depth.dropped, inputs, DoubleMode))
    middle = depth.apply(original) if width.kept else real_copy(small, torch.float64).eval()
    first = _verdict(expected, outputs_in(_run(middle, inputs, DoubleMode())))
    if not width.kept or not first.ok:
        return first
    second = _prove_width(middle, small, width, inputs)
    return replace(second, max_rel_error=max(first.max_rel_error, second.max_rel_error))


def _prove_width(model: nn.Module, small: nn.Module, plan: Plan, inputs: Inputs) -> Proof:
    choices = Choices()
    found = _run(real_copy(small, torch.float64).eval(), inputs, DoubleMode(choices))
    calls, keep = _learn(real_copy(model, torch.float64).eval(), plan, inputs, Choices(choices.made))
    original = real_copy(model, torch.float64).eval()  # afresh: a run may have written into buffers and weights
    for name, tensor in named_tensors(original).items():
        for dim, indices in plan.kept.get(name, {}).items():
            gone = sorted(set(range(tensor.shape[dim])) - set(indices))
            tensor.data.index_fill_(dim, torch.tensor(gone, device="cpu"), 0)
    mode = _MaskMode(calls, keep)
    expected = _run(original, inputs, mode)
    return _verdict(outputs_in(expected), outputs_in(found), tuple(dict.fromkeys(mode.leaks)))


def _verdict(expected: Sequence[Tensor], found: Sequence[Tensor], leaks: tuple[str, ...] = ()) -> Proof:
    error = largest_error(expected, found)
    vacuous = not any(bool(out.ne(0).any()) for out in expected)
    return Proof(error, error <= TOLERANCE and not leaks and not vacuous, len(expected), leaks, vacuous)


def _run(model: nn.Module, inputs: Any, mode: TorchDispatchMode) -> Any:
    own = mapped(torch.clone, inputs)
    with caches_forgotten(model), on_cpu(), mode, OpenMode():
        return model(*own[0], **own[1])


def largest_error(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """The largest ``max|found - expected| / max|expected|`` over pairs of tensors; infinite where shapes differ."""
    if [t.shape for t in expected] != [t.shape for t in found]:
        return float("inf")
    worst = 0.0
    for a, b in zip(expected, found, strict=True):
        a, b = (
            a.to(torch.complex128 if a.is_complex() else torch.float64),
            b.to(torch.complex128 if b.is_complex() else torch.float64),
        )
        same = (a == b) | (a.isnan() & b.isnan())
        difference = torch.where(same, torch.zeros_like(a), a - b).abs()
        scale = a[a.abs().isfinite()].abs().max().item() if a.abs().isfinite().any() else 0.0
        error = difference.max().item() / (scale or 1.0) if difference.numel() else 0.0
        worst = float("inf") if error != error else max(worst, error)
    return worst


@dataclass(frozen=True)
class _Learned:
    """What the masked run needs to know of one operator call."""

    name: str
    inputs: tuple[Axes, ...]
    outputs: tuple[Axes, ...]
    statistics: tuple[Axis, ...]
    sizes: tuple[tuple[str, int | None, Axis], ...]
    strides: tuple[tuple[int, ...], ...]
    positions: tuple[Axis | None, ...] = ()


def _learn(model: nn.Module, plan: Plan, inputs: Any, choices: Choices) -> tuple[list[_Learned], dict[Atom, Keep]]:
    """Learn the axes of the real run, operator by operator, and what the plan means for its atoms.

    The run is led through the choices that the small model made. The masked run makes its own: it must decide alike.
    """
    space = Space()
    tensors = named_tensors(model)
    axes = axes_of_tensors(tensors.values(), space)
    mode = _LearnMode(space, choices)
    with DoubleMode():
        run_under(model, inputs[0], inputs[1], mode, OpenMode(), space)
    resolved = {name: tuple(space.resolve(a) for a in axes[id(t)]) for name, t in tensors.items()}
    for call in mode.learned:
        call.__dict__.update(
            inputs=tuple(tuple(space.resolve(a) for a in each) for each in call.inputs),
            outputs=tuple(tuple(space.resolve(a) for a in each) for each in call.outputs),
            statistics=tuple(space.resolve(a) for a in call.statistics),
            sizes=tuple((name, at, space.resolve(a)) for name, at, a in call.sizes),
            positions=tuple(a and space.resolve(a) for a in call.positions),
        )
    return mode.learned, keep_of_atoms(resolved, plan)


class _LearnMode(AxisMode):
    def __init__(self, space: Space, choices: Choices) -> None:
        super().__init__(space, real=True, choices=choices)
        self.learned: list[_Learned] = []
        self.on_call = self._note

    def _note(self, call: Call) -> None:
        inputs = tuple(self.axes_of(t) for t in call.given)
        outputs = tuple(self.axes_of(t) for t in call.outputs)
        statistics, sizes = tuple(call.statistics), tuple(call.sizes)
        strides = tuple(t.stride() for t in call.outputs)
        positions = tuple(call.positions.get(i) for i in range(len(call.outputs)))
        self.learned.append(_Learned(call.name, inputs, outputs, statistics, sizes, strides, positions))


def keep_of_atoms(tensors: Mapping[str, Axes], plan: Plan) -> dict[Atom, Keep]:
    """An index of an atom stays if any position through it does; the plan must then say so everywhere."""
    found: dict[Atom, Any] = {}
    for name, axes in tensors.items():
        for dim, axis in enumerate(axes):
            fold(axis, _mask(plan, name, dim, axis.size).astype(float), found, np.max, np.maximum)
    keep = {atom: values > 0 for atom, values in found.items()}
    for name, axes in tensors.items():
        for dim, axis in enumerate(axes):
            if not np.array_equal(keep_vector(axis, keep), _mask(plan, name, dim, axis.size)):
                raise PlanError(
                    f"the plan cuts dimension {dim} of {name!r} otherwise than the tensors that are coupled to it."
                )
    return {atom: mask for atom, mask in keep.items() if not mask.all()}


def _mask(plan: Plan, name: str, dim: int, size: int) -> Keep:
    kept = plan.kept.get(name, {}).get(dim)
    mask = np.full(size, kept is None)
    if kept is not None:
        mask[list(kept)] = True
    return mask


class DoubleMode(Precise):
    """Casts to lower floating precision give fp64 instead, so that a proof isn't limited by them; notes choices."""

    def __init__(self, choices: Choices | None = None) -> None:
        super().__init__()
        self.choices = choices or Choices()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is GROUPED_MM:
            return super().__torch_dispatch__(func, types, args, kwargs)
        return self.choices.run(func, args, doubled(kwargs))


class _MaskMode(Precise):
    """Runs the original with the removed indices out of the way, operator by operator."""

    def __init__(self, calls: Sequence[_Learned], keep: Mapping[Atom, Keep]) -> None:
        super().__init__()
        self.calls = iter(calls)
        self.keep = keep
        self.counts = {atom: int(mask.sum()) for atom, mask in keep.items()}
        self.leaks: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = doubled(kwargs)
        call = next(self.calls)
        if call.name != operator_name(func):
            raise PlanError(f"the masked original runs {func._schema.name} where the original runs {call.name}.")
        if any(self._is_cut(axis) for axis in call.statistics):
            return self._over_kept(func, args, kwargs, call)
        result = in_double(func, args, kwargs)
        if not (func.is_view or func._schema.is_mutable):
            result = _as_before(result, call.strides)
        outputs = [out for out in pytree.tree_leaves(result) if isinstance(out, Tensor)]
        dirty = [(out, axes) for out, axes in zip(outputs, call.outputs, strict=True) if self._leaks(out, axes)]
        if not dirty:
            return result
        row = find(call.name)
        if row is not None and row.preserves_zero:
            self.leaks.append(call.name)
        if len(outputs) == 1 and func.is_view:
            result = _laid_out(result, call.strides[0])
            dirty = [(result, call.outputs[0])]
        for out, axes in dirty:
            self._zero(out, axes)
        return result

    def _is_cut(self, axis: Axis) -> bool:
        return any(atom in self.keep for atom in atoms(axis))

    def _gone(self, axis: Axis) -> Tensor:
        return torch.from_numpy(np.flatnonzero(~keep_vector(axis, self.keep)))

    def _leaks(self, out: Tensor, axes: Axes) -> bool:
        for d, axis in enumerate(axes):
            if out.stride(d) == 0 and axis.size > 1 and not self._is_cut(axis):
                out = out.narrow(d, 0, 1)  # an expanded dimension repeats itself: once is enough
        return any(
            bool(out.index_select(d, self._gone(axis)).ne(0).any()) for d, axis in enumerate(axes) if self._is_cut(axis)
        )

    def _zero(self, out: Tensor, axes: Axes) -> None:
        for d, axis in enumerate(axes):
            if self._is_cut(axis):
                out.index_fill_(d, self._gone(axis), 0)

    # -- statistics over the kept indices ------------------------------------------------------------------------

    def _over_kept(self, func: Any, args: Any, kwargs: Any, call: _Learned) -> Any:
        """Take the kept part of every input, run with the sizes it has, and lay the result back among zeros."""
        waiting = list(call.inputs)
        small = [self._shrunk(value, waiting) for value in args]
        named = {key: self._shrunk(value, waiting) for key, value in kwargs.items()}
        for name, at, axis in call.sizes:
            _set_size(func, small, named, name, at, count(axis, self.counts))
        result = in_double(func, small, named)
        leaves, spec = pytree.tree_flatten(result)
        leaves = [self._renumbered(t, axis) for t, axis in zip(leaves, call.positions, strict=True)]
        full = [self._spread(t, axes) for t, axes in zip(leaves, call.outputs, strict=True)]
        result = pytree.tree_unflatten([_laid_out(t, s) for t, s in zip(full, call.strides, strict=True)], spec)
        return args[0].copy_(result) if _writes_first(func) and isinstance(result, Tensor) else result

    def _shrunk(self, value: Any, waiting: list[Axes]) -> Any:
        if isinstance(value, list | tuple):
            return [self._shrunk(item, waiting) for item in value]
        if not isinstance(value, Tensor):
            return value
        for d, axis in enumerate(waiting.pop(0)):
            if self._is_cut(axis):
                value = value.index_select(d, torch.from_numpy(np.flatnonzero(keep_vector(axis, self.keep))))
        return value

    def _renumbered(self, chosen: Tensor, axis: Axis | None) -> Tensor:
        """Positions among the kept, as positions in the whole of ``axis``."""
        if axis is None or not self._is_cut(axis):
            return chosen
        return torch.from_numpy(np.flatnonzero(keep_vector(axis, self.keep)))[chosen]

    def _spread(self, tensor: Tensor, axes: Axes) -> Tensor:
        for d, axis in enumerate(axes):
            if self._is_cut(axis):
                shape = [*tensor.shape]
                shape[d] = axis.size
                where = torch.from_numpy(np.flatnonzero(keep_vector(axis, self.keep)))
                tensor = tensor.new_zeros(shape).index_copy_(d, where, tensor)
        return tensor


def _writes_first(func: Any) -> bool:
    """Whether an operator works in place on its first argument."""
    alias = func._schema.arguments[0].alias_info
    return alias is not None and bool(alias.is_write)


def _as_before(result: Any, strides: Sequence[tuple[int, ...]]) -> Any:
    """New tensors in the layout that they had in the original's run."""
    before = iter(strides)
    return pytree.tree_map_only(
        Tensor, lambda t: t if t.stride() == (wanted := next(before)) or 0 in wanted else _laid_out(t, wanted), result
    )


def _laid_out(tensor: Tensor, stride: tuple[int, ...]) -> Tensor:
    """A copy in the memory layout that the original's tensor had, so that the same operators follow."""
    if 0 in stride:
        stride = _unfolded(tensor.shape, stride)
    return torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype, device="cpu").copy_(tensor)


def _unfolded(shape: Sequence[int], stride: Sequence[int]) -> tuple[int, ...]:
    """Strides with room for distinct values in expanded dimensions (stride zero), which merge in a view with the same
    neighbours as before: among themselves only.
    """
    step = 2 + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
    result = list(stride)
    for d in range(len(shape) - 1, -1, -1):
        if stride[d] == 0:
            result[d], step = step, step * shape[d]
    return tuple(result)


def _set_size(func: Any, args: list[Any], kwargs: dict[str, Any], name: str, at: int | None, size: int) -> None:
    place = next((i for i, p in enumerate(func._schema.arguments) if p.name == name), None)
    store: Any = args if place is not None and place < len(args) else kwargs
    key: Any = place if store is args else name
    if at is None:
        store[key] = size
    else:
        store[key] = [size if i == at else n for i, n in enumerate(store[key])]
