"""Carry what removed constants add: into the bias behind them, or into another constant channel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from prunus.extraction.interpret import Interpretation
from prunus.extraction.liveness import Liveness
from prunus.extraction.sinks import Sink, as_kernel

RECURRENT = (nn.RNN, nn.LSTM, nn.GRU)
LAYERS = (
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
"""Layers whose ``forward`` is known to add ``bias``, and nothing else, to what the operator gives."""


@dataclass(frozen=True)
class Way:
    """How a sink's constants can be carried: ``how`` is "bias", "channel" or "" (not at all).

    Attributes:
        bias: the parameter to add to.
        new: it doesn't exist yet.
    """

    how: str = ""
    bias: str = ""
    new: bool = False


def ways(found: Interpretation) -> list[Way]:
    """One per sink."""
    times = Counter((s.weight, s.layout, s.border, s.bias) for s in found.sinks)
    return [_way(found, s, times[s.weight, s.layout, s.border, s.bias]) for s in found.sinks]


def _way(found: Interpretation, sink: Sink, times: int) -> Way:
    """How the constants of a layer that runs so many times can be carried."""
    if sink.weight is None or found.uses[sink.weight] != times:
        return Way()
    if not sink.border:
        if sink.bias is not None and found.uses[sink.bias] == times:
            return Way("bias", sink.bias)
        own = _own_bias(found, sink, times)
        if own is not None:
            return own
    return Way("channel")


def layer_of(model: nn.Module, sink: Sink) -> nn.Module | None:
    """The plain torch layer that a sink is, if it is one."""
    module = model.get_submodule(sink.module)
    weight = f"{sink.module}.weight" if sink.module else "weight"
    return module if type(module) in LAYERS and sink.weight == weight else None


def _own_bias(found: Interpretation, sink: Sink, times: int) -> Way | None:
    layer, name = layer_of(found.graph.skeleton, sink), f"{sink.module}.bias" if sink.module else "bias"
    if layer is None:
        return _recurrent_bias(found, sink, times)
    if layer._parameters.get("bias") is None:
        return Way("bias", name, True) if sink.layout != "transposed" else None
    return Way("bias", name) if found.uses[name] == times else None


def _recurrent_bias(found: Interpretation, sink: Sink, times: int) -> Way | None:
    """``bias_ih_l0`` is added to what ``weight_ih_l0`` gives, and nothing else is."""
    module, (path, _, own) = found.graph.skeleton.get_submodule(sink.module), (sink.weight or "").rpartition(".")
    name = own.replace("weight", "bias")
    if type(module) not in RECURRENT or path != sink.module or module._parameters.get(name) is None:
        return None
    name = f"{path}.{name}" if path else name
    return Way("bias", name) if found.uses[name] == times else None


@dataclass
class Changes:
    """What to do to the values of the model before the cut.

    Attributes:
        add: parameter -> what to add to it, in fp64 and in its shape before the cut.
        new: the biases among them that must be made first.
        carriers: how many constant channels carry others.
        own: the modules whose ``forward`` is what reads their weight.
    """

    add: dict[str, Tensor] = field(default_factory=dict)
    new: list[str] = field(default_factory=list)
    carriers: int = 0
    own: frozenset[str] = frozenset()


def changes(found: Interpretation, live: Liveness, how: Sequence[Way]) -> Changes:
    """Carry every constant that is gone and read by a kept result."""
    result = Changes(own=frozenset(s.module for s in found.sinks if layer_of(found.graph.skeleton, s) is not None))
    carried: set[str | None] = set()
    for sink, way in zip(found.sinks, how, strict=True):
        outputs = None if sink.outputs is None else live.kept(sink.outputs)
        kept = live.kept(sink.inputs)
        lost = ~kept & sink.reads(outputs) & sink.same & (sink.value != 0)
        if live.drop or sink.weight in carried or not bool(lost.any()):
            continue
        carried.add(sink.weight)
        if way.how == "bias":
            _into_bias(result, sink, way, lost)
        else:
            _into_channel(result, found, sink, lost, kept)
    return result


def _adds(sink: Sink, lost: Tensor) -> Tensor:
    """``[groups, out, taps]``: what the lost constants add to each result, tap by tap."""
    assert sink.kernel is not None
    groups, _, inner, _ = sink.kernel.shape
    value = torch.where(lost, sink.value, 0).view(groups, inner).to(sink.kernel.dtype)
    return torch.einsum("goik,gi->gok", sink.kernel, value)


def _into_bias(result: Changes, sink: Sink, way: Way, lost: Tensor) -> None:
    result.add[way.bias] = _adds(sink, lost).sum(2).flatten()
    if way.new:
        result.new.append(way.bias)


def _into_channel(result: Changes, found: Interpretation, sink: Sink, lost: Tensor, kept: Tensor) -> None:
    assert sink.kernel is not None and sink.weight is not None
    groups, _, inner, _ = sink.kernel.shape
    adds = _adds(sink, lost)
    size = (sink.value.abs() * (kept & sink.same)).view(groups, inner)
    weight = found.graph.skeleton.get_parameter(sink.weight)
    delta = torch.zeros_like(weight)
    view = as_kernel(delta, sink.layout, groups)
    for g in torch.nonzero(lost.view(groups, inner).any(1)).flatten().tolist():
        carrier = int(size[g].argmax())
        view[g, :, carrier] += adds[g] / sink.value.view(groups, inner)[g, carrier]
        result.carriers += 1
    result.add[sink.weight] = delta
