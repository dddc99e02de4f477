"""Where an axis ends: the operators that add over it, with what each of its positions adds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from prunus.axes import Axis, Space
from prunus.extraction.alike import Alike
from prunus.extraction.known import Known, along
from prunus.extraction.rules import MATRICES, Look, canonical, slides_off
from prunus.operators import Call, find
from prunus.operators.table import dims

Origin = Callable[[Tensor], tuple[str, bool] | None]


@dataclass(eq=False)
class Sink:
    """One operator call that adds over the positions of ``inputs``.

    Attributes:
        module: the module it ran in.
        inputs: the axis that is added over, ``groups * in`` positions.
        outputs: the axis of the results, ``groups * out`` positions; None where all of them count.
        kernel: ``[groups, out, in, taps]``, the weights; None where both factors depend on the input.
        touches: without a kernel, per position: may it add anything but zero?
        same: per position: is it one constant over all other dimensions?
        value: that constant.
        border: a constant plane doesn't give a constant plane (zero padding).
        weight: the parameter that the kernel is, with its layout: "conv", "transposed", "linear" or "matrix".
        bias: the parameter that is added to the results, if the operator itself does so.
        alike: which positions of ``inputs`` are multiples of each other, where that was watched.
        silent: all of them are zero at this call.
    """

    module: str
    inputs: Axis
    outputs: Axis | None
    kernel: Tensor | None
    touches: Tensor | None
    same: Tensor
    value: Tensor
    border: bool = False
    weight: str | None = None
    layout: str = ""
    bias: str | None = None
    alike: Alike | None = None

    def __post_init__(self) -> None:
        self.silent = bool((self.same & (self.value == 0)).all())

    def resolve(self, space: Space) -> None:
        self.inputs = space.resolve(self.inputs)
        self.outputs = None if self.outputs is None else space.resolve(self.outputs)

    def reads(self, kept_outputs: Tensor | None) -> Tensor:
        """Per position of ``inputs``: does a kept result read it, with a weight that isn't zero?"""
        if self.kernel is None:
            assert self.touches is not None
            return self.touches
        groups, outs, inner, _ = self.kernel.shape
        used = self.used
        if kept_outputs is not None:
            used = used & kept_outputs.view(groups, outs, 1)
        return used.any(1).reshape(groups * inner)

    @property
    def used(self) -> Tensor:
        """``[groups, out, in]``: the weights that aren't zero at every tap."""
        if "_used" not in self.__dict__:
            assert self.kernel is not None
            self.__dict__["_used"] = (self.kernel != 0).any(3)
        used: Tensor = self.__dict__["_used"]
        return used


def as_kernel(weight: Tensor, layout: str, groups: int) -> Tensor:
    """A view of a parameter as ``[groups, out, in, taps]``."""
    if layout in ("linear", "matrix"):
        return (weight if layout == "linear" else weight.t())[None, :, :, None]
    grouped = weight.view(groups, weight.shape[0] // groups, weight.shape[1], -1)
    return grouped.transpose(1, 2) if layout == "transposed" else grouped


_PASSING = ("pointwise", "shape", "pooling", "indexing", "creation", "normalization", "reduction")


def sinks_of(call: Call, look: Look, origin: Origin, module: str) -> list[Sink | Axis]:
    """The sinks that a call makes; axes among them can't lose any position at all."""
    row = find(call.name) if call.func.namespace in ("aten", "prims") else None
    family = row.rule.__module__.rpartition(".")[2] if row is not None else ""
    if call.name in ("sum", "nansum", "count_nonzero"):
        return [*_summed(call, look, module)]
    if family in _PASSING or call.name in ("outer", "ger"):
        return []  # what they take statistics over, they declare
    if family == "convolution":
        return [_convolved(call, look, origin, module)]
    if family == "contraction":
        return _contracted(call, look, origin, module)
    if family == "attention":
        return [_compared(call, look, module)]
    return [axis for tensor in call.given for axis in call.axes_of(tensor)]


def _summed(call: Call, look: Look, module: str) -> list[Sink]:
    x, axes = call.args[0], call.first()
    result = []
    for d in dims(call.arg("dim"), len(axes)):
        same, value = along(look(x), d, x.shape[d])
        result.append(Sink(module, axes[d], None, None, ~_zero(look(x), d, x.shape[d]), same, value))
    return result


def _zero(found: Known | None, dim: int, size: int) -> Tensor:
    """Per position of ``dim``: is it zero throughout?"""
    same, value = along(found, dim, size)
    return same & (value == 0)


def _convolved(call: Call, look: Look, origin: Origin, module: str) -> Sink:
    x, weight, bias = call.args[0], call.arg("weight"), call.arg("bias")
    channel = x.dim() - weight.dim() + 1
    same, value = along(look(x), channel, x.shape[channel])
    inputs, outputs = call.axes_of(x)[channel], call.axes_of(call.outputs[0])[channel]
    found = look(weight)
    if found is None or not found.whole:
        return Sink(module, inputs, None, None, ~(same & (value == 0)), same, value)
    layout = "transposed" if call.arg("transposed") else "conv"
    name = _named(weight, origin, False)
    shift = _named(bias, origin, False) if isinstance(bias, Tensor) else None
    kernel = canonical(weight.detach(), call)
    return Sink(module, inputs, outputs, kernel, None, same, value, slides_off(call), name, layout, shift)


def _named(tensor: Tensor, origin: Origin, turned: bool) -> str | None:
    found = origin(tensor)
    return found[0] if found is not None and found[1] == turned else None


def _contracted(call: Call, look: Look, origin: Origin, module: str) -> list[Sink | Axis]:
    added = call.name in ("addmm", "baddbmm")
    a, b = call.args[1:3] if added else call.args[:2]
    if call.name not in MATRICES or a.dim() < 2 or b.dim() < 2:
        return [axis for tensor in call.given for axis in call.axes_of(tensor)]
    inputs, size = call.axes_of(a)[-1], a.shape[-1]
    same, value = along(look(a), a.dim() - 1, size)
    weights = look(b)
    repeated = b.dim() > 2 and origin(b) is not None
    if (
        (b.dim() > 2 and not repeated)
        or weights is None
        or not weights.whole
        or (added and (call.arg("alpha"), call.arg("beta")) != (1, 1))
    ):
        silent = _zero(look(a), a.dim() - 1, size) | _zero(weights, b.dim() - 2, size)
        return [Sink(module, inputs, None, None, ~silent, same, value)]
    straight, turned = _named(b, origin, False), _named(b, origin, True)
    shift = _named(call.args[0], origin, False) if added and call.args[0].dim() == 1 else None
    outputs = call.axes_of(call.outputs[0])[-1]
    kernel = as_kernel(b.detach()[(0,) * (b.dim() - 2)], "matrix", 1)
    layout = "linear" if turned else "matrix"
    return [Sink(module, inputs, outputs, kernel, None, same, value, False, turned or straight, layout, shift)]


def _compared(call: Call, look: Look, module: str) -> Sink:
    """Queries against keys, over the width of a head."""
    query, key = call.arg("query"), call.arg("key")
    size = query.shape[-1]
    silent = _zero(look(query), query.dim() - 1, size) | _zero(look(key), key.dim() - 1, size)
    none = torch.zeros(size, dtype=torch.bool, device="cpu")
    return Sink(module, call.axes_of(query)[-1], None, None, ~silent, none, none.double())
