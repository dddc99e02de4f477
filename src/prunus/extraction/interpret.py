"""Run a model once, for real, in fp64, and learn its axes, what is constant in it, and who reads what."""

from __future__ import annotations

import itertools
import weakref
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunus.axes import Atom, Axis, atoms
from prunus.extraction.alike import Alike, added_over, alike_after
from prunus.extraction.known import Known
from prunus.extraction.rules import averaged, averages, passed
from prunus.extraction.sinks import Sink, sinks_of
from prunus.operators import Call
from prunus.prove import DoubleMode
from prunus.running import Inputs
from prunus.trace import Graph
from prunus.trace.modes import AxisMode
from prunus.trace.run import trace_for_real
from prunus.trace.standins import NAME, set_mark

_KNOWN = "_prunus_known"
_ALIKE = "_prunus_alike"
_AVERAGING = "_prunus_averaging"
_ORIGIN = "_prunus_origin"
_STATISTIC = "_prunus_statistic"
_SAME = ("detach", "alias")
_REPEATED = ("expand", "view", "_unsafe_view", "unsqueeze")

Place = tuple[torch.Size, tuple[int, ...], int, torch.dtype]
"""Where in its storage a tensor's elements lie."""


@dataclass(eq=False)
class Interpretation:
    """What one run said.

    Attributes:
        graph: the axes.
        sinks: the operators that add over an axis, in order of the run.
        held: axes that can't lose a position without changing a statistic.
        uses: parameter -> how many operators read it.
    """

    graph: Graph
    sinks: list[Sink]
    held: list[Axis]
    uses: Mapping[str, int]


def interpret(model: nn.Module, inputs: list[Inputs], twins: bool = False) -> Interpretation:
    """Trace ``model`` (fp64, eval mode counts) for real on every example, watching what is known.

    Args:
        twins: watch what is alike too.
    """
    watchers: list[_Watcher] = []

    def watch(mode: AxisMode, training: bool) -> None:
        if not training:
            watchers.append(_Watcher(mode, twins))
            mode.on_call = watchers[-1].see

    with DoubleMode():
        graph = trace_for_real(model, inputs, watch)
    graph.freeze(graph.least, "is chosen of by value, and what is zero may be chosen too")
    _freeze_training_only(graph, {name for watcher in watchers for name in watcher.mode.reached})
    sinks = [sink for watcher in watchers for sink in watcher.sinks]
    for sink in sinks:
        sink.resolve(graph.space)
    _agree_on_constants(sinks)
    _freeze_unadded(graph, sinks)
    held = [graph.space.resolve(axis) for watcher in watchers for axis in watcher.held]
    return Interpretation(graph, sinks, held, sum((watcher.uses for watcher in watchers), Counter()))


def _freeze_training_only(graph: Graph, reached: set[str]) -> None:
    """What only training mode runs isn't dead because eval mode doesn't read it."""
    seen: set[Atom] = {a for name in reached for axis in graph.tensors[name] for a in atoms(axis)}
    others = [g.atom for g in graph.free if g.atom not in seen]
    graph.freeze(others, "not run in eval mode")


def _freeze_unadded(graph: Graph, sinks: list[Sink]) -> None:
    """What no operator adds over isn't proven dead: longer inputs may read the rest of a table of positions."""
    added = {atom for sink in sinks for atom in atoms(sink.inputs)}
    graph.freeze([g.atom for g in graph.free if g.atom not in added], "nothing adds over it in this run")


def _agree_on_constants(sinks: list[Sink]) -> None:
    """A layer that runs several times has one bias: a constant is one for it only if it's the same each time."""
    by: dict[str, list[Sink]] = {}
    for sink in sinks:
        if sink.weight is not None:
            by.setdefault(sink.weight, []).append(sink)
    for first, *others in by.values():
        for sink in others:
            first.same = first.same & sink.same & (first.value == sink.value)
        for sink in others:
            sink.same = first.same


class _Statistic:
    """What an operator took over axes. It is of no use if no other operator reads what came out, and that is gone
    before the model returns: the mean of attention's weights, most often.
    """

    def __init__(self, call: Call, modules: list[str]) -> None:
        self.axes, self.modules = call.statistics, modules
        self.read = bool(call.func._schema.is_mutable)
        self._left = len(call.outputs)
        self._outputs = [weakref.ref(out, self._note_gone) for out in call.outputs]

    def _note_gone(self, _: object) -> None:
        self._left -= len(self.modules) > 1  # the outermost module has not returned

    @property
    def used(self) -> bool:
        return self.read or self._left > 0


class _Watcher:
    """Sees every call of a run; keeps what is known on the tensors themselves."""

    def __init__(self, mode: AxisMode, twins: bool) -> None:
        self.mode, self.twins = mode, twins
        self.sinks: list[Sink] = []
        self._held: list[Axis] = []
        self._statistics: list[_Statistic] = []
        self.uses: Counter[str] = Counter()
        self._clock = itertools.count(1)
        self._written: dict[int, dict[Place, int]] = {}

    @property
    def held(self) -> list[Axis]:
        """Axes that can't lose a position; asked for after the run."""
        return [*self._held, *(axis for each in self._statistics if each.used for axis in each.axes)]

    def look(self, tensor: Tensor) -> Known | None:
        """What is known of a tensor now; what was written to its memory by another way in is forgotten."""
        found, since = tensor.__dict__.get(_KNOWN, (None, 0))
        if self._overwritten(tensor, since):
            return None
        if since == 0 and NAME in tensor.__dict__:
            return Known(tensor.detach(), torch.ones((), dtype=torch.bool, device="cpu").expand(tensor.shape), True)
        known: Known | None = found
        return known

    def alike(self, tensor: Tensor) -> Alike | None:
        """What is alike in a tensor now."""
        found, since = tensor.__dict__.get(_ALIKE, (None, 0))
        alike: Alike | None = None if found is None or self._overwritten(tensor, since) else found
        return alike

    def _overwritten(self, tensor: Tensor, since: int) -> bool:
        places = self._written.get(tensor.untyped_storage().data_ptr(), {})
        return any(when > since and _overlap(tensor, place) for place, when in places.items())

    def origin(self, tensor: Tensor) -> tuple[str, bool] | None:
        """The parameter that a tensor is a view of, and whether it is transposed."""
        name = tensor.__dict__.get(NAME)
        found: tuple[str, bool] | None = (name, False) if name is not None else tensor.__dict__.get(_ORIGIN)
        return found

    def see(self, call: Call) -> None:
        self._follow_origins(call)
        self._note_statistics(call)
        found = sinks_of(call, self.look, self.origin, self.mode.modules[-1])
        self._held += [x for x in found if not isinstance(x, Sink)]
        new = [x for x in found if isinstance(x, Sink)]
        self.sinks += new
        alike: list[Alike | None] = [None] * len(call.outputs)
        if self.twins:
            alike = alike_after(call, self.look, self.alike)
            for sink in new:
                sink.alike = added_over(call, self.alike) if sink.weight is not None else None
        changed = _changed(call)
        lost = any(_shares(t, self.look(t)) for t in changed)  # the values looked at are those after the change
        result = [None] * len(call.outputs) if lost else self._passed(call)
        now = next(self._clock)
        for tensor in changed:
            self._written.setdefault(tensor.untyped_storage().data_ptr(), {})[_place(tensor)] = now
        for out, each in zip(call.outputs, result, strict=True):
            set_mark(out, _KNOWN, (each, now))
        for out, same in zip(call.outputs, alike, strict=True):
            set_mark(out, _ALIKE, (same, now))

    def _passed(self, call: Call) -> list[Known | None]:
        if averages(call, _averaging):
            set_mark(call.outputs[0], _AVERAGING, call.outputs[0]._version)
        if call.name in ("bmm", "matmul") and _averaging(call.args[0]):
            return [averaged(call, self.look)]
        return passed(call, self.look)

    def _note_statistics(self, call: Call) -> None:
        for tensor in call.given:
            read: _Statistic | None = tensor.__dict__.get(_STATISTIC)
            if read is not None:
                read.read = True
        if call.statistics:
            self._statistics.append(_Statistic(call, self.mode.modules))
            for out in call.outputs:
                set_mark(out, _STATISTIC, self._statistics[-1])

    def _follow_origins(self, call: Call) -> None:
        for tensor in call.given:
            source = self.origin(tensor)
            if source is None:
                continue
            turned = _is_turned(call)
            if turned or call.name in _SAME or _is_repeated(call):
                set_mark(call.outputs[0], _ORIGIN, (source[0], source[1] != turned))
            else:
                self.uses[source[0]] += 1


def _averaging(tensor: Tensor) -> bool:
    """Whether the last dimension adds up to one; what was written to since doesn't count."""
    version: int | None = tensor.__dict__.get(_AVERAGING)
    return version is not None and version == tensor._version


def _is_turned(call: Call) -> bool:
    """Whether the call transposes a matrix."""
    if not isinstance(call.args[0], Tensor) or call.args[0].dim() != 2:
        return False
    if call.name == "transpose":
        return bool((call.arg("dim0") - call.arg("dim1")) % 2)
    return call.name == "t" or (call.name == "permute" and [d % 2 for d in call.arg("dims")] == [1, 0])


def _is_repeated(call: Call) -> bool:
    """Whether the call lays a matrix, in memory once, along new dimensions in front: a matmul of batches does."""
    if call.name not in _REPEATED:
        return False
    x, out = call.args[0], call.outputs[0]
    leading = zip(out.shape[:-2], out.stride()[:-2], strict=True)
    return x.dim() >= 2 and out.shape[-2:] == x.shape[-2:] and all(n == 1 or step == 0 for n, step in leading)


def _place(tensor: Tensor) -> Place:
    return tensor.shape, tensor.stride(), int(tensor.storage_offset()), tensor.dtype


def _overlap(tensor: Tensor, place: Place) -> bool:
    """Whether a tensor has an element in common with another one in the same storage."""
    size, stride, offset, dtype = place
    if dtype != tensor.dtype:
        return True
    touched = torch.zeros(tensor.untyped_storage().nbytes() // tensor.element_size(), dtype=torch.bool, device="cpu")
    touched.as_strided(size, stride, offset).fill_(True)
    return bool(touched.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).any())


def _changed(call: Call) -> list[Tensor]:
    """The arguments that the call writes to."""
    pairs = zip(call.func._schema.arguments, call.args, strict=False)
    written = [v for p, v in pairs if p.alias_info is not None and p.alias_info.is_write]
    return [v for v in (*written, call.kwargs.get("out")) if isinstance(v, Tensor)]


def _shares(tensor: Tensor, found: Known | None) -> bool:
    return found is not None and found.value.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()
