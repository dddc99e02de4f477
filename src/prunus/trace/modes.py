"""The dispatch modes of a run: one that learns axes, one that only records shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from prunus.axes import Axes, Axis, Space
from prunus.errors import InputError, PrunusError
from prunus.operators import Call, Work, find, tensors_among, unsupported, work_of
from prunus.trace.choices import Choices
from prunus.trace.inference import infer
from prunus.trace.standins import AXES, NAME, POSITIONS, SEEN, SHADOW, SHADOW_LIMIT, meta_like, set_mark, shadow_of

_FEW = 16
_AS_STRIDED = torch.ops.aten.as_strided_.default
_CONSTANT_FACTORIES = {
    *"arange zeros ones full eye linspace scalar_tensor tril_indices triu_indices lift_fresh".split(),
}


# Of one tensor the values come out as they are, in the first output or in all of them.
_CARRIED = {
    *"view reshape _unsafe_view expand permute transpose t unsqueeze squeeze select slice narrow clone".split(),
    *"split split_with_sizes chunk unbind detach alias lift_fresh index index_select gather sort repeat".split(),
    *"contiguous repeat_interleave unfold flip roll".split(),
}
_OF_FIRST = {"sort"}
_SIZED_BY_BINS = {"aten::histc"}  # whose numbers are sizes: its row and the function mode look after them


class RowError(PrunusError):
    """A row of the operator table is wrong: a bug of prunus, to be reported."""


class ValuesNeeded(RuntimeError):
    """Python code asked for a value that a run without values doesn't have."""


@dataclass(frozen=True, slots=True)
class Record:
    """One operator call of a run: its name, the module it ran in, the plain numbers that it was given (those in small
    tensors that the code made out of nothing too), and the parameters.
    """

    name: str
    module: str
    numbers: tuple[float, ...]
    outputs: tuple[Any, ...]  # axes when learning, shapes when recording
    reads: tuple[str, ...] = ()


class RunMode(TorchDispatchMode):
    """Runs operators on stand-ins, keeps shadows up to date, and hands every call to :meth:`learn`."""

    follows: ClassVar[bool] = True  # whether it wants to know the module of each call

    def __init__(self, real: bool, choices: Choices | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.real = real
        self.choices = choices or Choices()
        self.records: list[Record] = []
        self.strides: tuple[int, ...] | None = None
        self.modules: list[str] = [""]
        self.originals: Mapping[int, str] = {}  # the user's own tensors, by id: a copy must not reach them
        self._foreign: dict[int, tuple[Tensor, Tensor]] = {}
        self._stale: set[int] = set()

    def learn(self, func: OpOverload, args: Any, kwargs: dict[str, Any], outputs: list[Tensor]) -> tuple[Any, ...]:
        raise NotImplementedError

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        self.strides = args[0].stride() if func is _AS_STRIDED else None
        values = (*args, *kwargs.values())
        given = tensors_among(values)
        constants = tuple([number for t in given if SEEN not in t.__dict__ for number in _values(t)])
        reads = tuple([t.__dict__[NAME] for t in given if NAME in t.__dict__ and isinstance(t, nn.Parameter)])
        if self.real:
            result = self.choices.run(func, args, kwargs)
        else:
            if torch.device in map(type, values) or not all(t.is_meta for t in given):
                args = tuple(self._stand_in(a) for a in args)
                kwargs = {key: self._stand_in(a) for key, a in kwargs.items()}
                given = tensors_among((*args, *kwargs.values()))
            result = self._run(func, args, kwargs, given)
        outputs = tensors_among(result)
        for out in outputs:
            set_mark(out, SEEN, True)
        learned = self.learn(func, args, kwargs, outputs)
        numbers = (*_numbers(func, args), *constants)
        self.records.append(Record(func._schema.name, self.modules[-1], numbers, learned, reads))
        return result

    # -- running without values ----------------------------------------------------------------------------------

    def _stand_in(self, value: Any) -> Any:
        if isinstance(value, Tensor) and not value.is_meta:
            self.check_foreign(value)
            if id(value) not in self._foreign:
                self._foreign[id(value)] = (value, meta_like(value, shadow=True))
            return self._foreign[id(value)][1]
        if isinstance(value, list | tuple) and any(isinstance(item, Tensor) for item in value):
            return type(value)(self._stand_in(item) for item in value)
        if isinstance(value, torch.device):
            return torch.device("meta")
        return value

    def check_foreign(self, tensor: Tensor) -> None:
        """Raise InputError if a copy of the model reaches into the original, through a function that holds a module."""
        name = self.originals.get(id(tensor))
        if name is not None:
            raise InputError(
                f"a copy of the model still uses the original's {name!r}: some function, lambda or closure in it holds "
                "a module or a parameter. Let the module that uses it own it (self.layer = ...), as copies then do."
            )

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Tensor]) -> Any:
        shadows = {id(t): shadow_of(t) for t in tensors}
        name = func._schema.name.split("::")[1]
        known = all(s is not None and _storage(s) not in self._stale for s in shadows.values())
        if not tensors and name not in _CONSTANT_FACTORIES:
            known = False
        if torch.Tag.nondeterministic_seeded in func.tags:
            known = False
        if torch.Tag.data_dependent_output in func.tags:
            return self._value(func, args, kwargs, shadows, known)
        if not tensors:
            kwargs["device"] = torch.device("meta")
        try:
            result = infer(func, args, kwargs)
        except NotImplementedError:  # the output's shape depends on values (nonzero, a boolean mask)
            return self._value(func, args, kwargs, shadows, known)
        outputs = tensors_among(result)
        if known and sum(out.numel() for out in outputs) <= SHADOW_LIMIT:
            self._shadow(func, args, kwargs, shadows, outputs)
        elif func._schema.is_mutable:
            self._forget(shadows, outputs)
        return result

    def _shadow(self, func: Any, args: Any, kwargs: Any, shadows: dict[int, Any], outputs: list[Tensor]) -> None:
        real = tensors_among(func(*_real(args, shadows), **_real(kwargs, shadows)))
        for out, value in zip(outputs, real, strict=True):
            set_mark(out, SHADOW, value)

    def _value(self, func: Any, args: Any, kwargs: Any, shadows: dict[int, Any], known: bool) -> Any:
        if not known:
            raise ValuesNeeded(f"{func._schema.name} needs the values of a tensor")
        result = func(*_real(args, shadows), **_real(kwargs, shadows))
        return meta_like(result, shadow=True) if isinstance(result, Tensor) else result

    def _forget(self, shadows: dict[int, Any], outputs: list[Tensor]) -> None:
        """An unknown value was written over known ones: whatever shares their storage isn't known any more."""
        for out in outputs:
            shadow = shadows.get(id(out))
            if shadow is not None:
                self._stale.add(_storage(shadow))


@cache
def _number_places(func: OpOverload) -> tuple[int, ...]:
    """The positions of the arguments that are numbers, or tensors for which a number may stand."""
    wanted = ("number", "float", "Tensor", "Optional[number]", "Optional[float]")
    return tuple(i for i, p in enumerate(func._schema.arguments) if str(p.type) in wanted)


def _numbers(func: OpOverload, args: Any) -> tuple[float, ...]:
    if func._schema.name in _SIZED_BY_BINS:
        return ()
    given = (args[i] for i in _number_places(func) if i < len(args))
    return tuple(n for n in given if isinstance(n, int | float) and n == n)


def _values(tensor: Tensor) -> tuple[float, ...]:
    """The numbers in a constant that the code made without an operator, if they are few: they may come from a size."""
    if tensor.is_meta or tensor.is_complex() or tensor.numel() > _FEW:
        return ()
    return tuple(n for n in tensor.detach().flatten().tolist() if n == n)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _real(value: Any, shadows: dict[int, Any]) -> Any:
    if isinstance(value, Tensor):
        return shadows[id(value)]
    if isinstance(value, list | tuple):
        return type(value)(_real(item, shadows) for item in value)
    if isinstance(value, dict):
        return {key: _real(item, shadows) for key, item in value.items()}
    return torch.device("cpu") if isinstance(value, torch.device) else value


class AxisMode(RunMode):
    """Learns the axes of every tensor, by the operator table."""

    def __init__(self, space: Space, real: bool = False, choices: Choices | None = None) -> None:
        super().__init__(real, choices)
        self.space = space
        self.unsupported: dict[str, str] = {}
        self.reached: set[str] = set()
        self._constants: dict[int, tuple[Tensor, Axes]] = {}
        self.work: list[tuple[str, Work]] = []
        self.made: list[tuple[Axes, int]] = []
        self.least: list[tuple[Axis, int, str]] = []
        self.on_call: Callable[[Call], None] | None = None

    def axes_of(self, tensor: Tensor) -> Axes:
        """The axes of a tensor; one that comes from nowhere is a constant, whose axes are frozen."""
        axes: Axes | None = tensor.__dict__.get(AXES)
        if axes is None:
            axes = self._constants.get(id(tensor), (tensor, None))[1]
        if axes is None:
            self.check_foreign(tensor)
            axes = tuple(
                self.space.fresh(n, "a constant tensor made outside the model's parameters") for n in tensor.shape
            )
            self._constants[id(tensor)] = (tensor, axes)
        return self.space.resolve_all(axes)

    def learn(self, func: OpOverload, args: Any, kwargs: dict[str, Any], outputs: list[Tensor]) -> tuple[Any, ...]:
        call = Call(self.space, func, args, kwargs, outputs, self.axes_of, self.strides, positions_of=self.positions_of)
        for tensor in call.given:
            name = tensor.__dict__.get(NAME)
            if name is not None:
                self.reached.add(name)
        row = find(call.name)
        result = row.rule(call) if row is not None else None
        if not outputs:  # a value is read: no axes are related
            result = []
        if result is None:
            self.unsupported.setdefault(func._schema.name, self.modules[-1])
            result = unsupported(call)
        per_output = [result] if isinstance(result, tuple) else result
        for out, axes in zip(outputs, per_output, strict=True):
            self._check(func, out, axes)
            set_mark(out, AXES, axes)
        self._follow_positions(call)
        work = work_of(call, per_output)
        if work is not None:
            self.work.append((self.modules[-1], work))
        if self.on_call is not None:
            self.on_call(call)
        return tuple(per_output)

    def positions_of(self, tensor: Tensor) -> Axis | None:
        """The axis along which the integers in a tensor are positions that an operator chose; None if they are none."""
        axis: Axis | None = tensor.__dict__.get(POSITIONS)
        return None if axis is None else self.space.resolve(axis)

    def _follow_positions(self, call: Call) -> None:
        """Positions that were chosen along an axis go on as they are, are looked up, or are computed with: then the
        axis can't be cut, for a position that is left would be another number.
        """
        for number, axis in call.positions.items():
            set_mark(call.outputs[number], POSITIONS, axis)
        self.least += [(axis, n, call.name) for axis, n in call.least]
        for i, tensor in enumerate(call.given):
            along = self.positions_of(tensor)
            if along is None or id(tensor) in call.followed:
                continue
            if i == 0 and self._carries(call):
                for out in call.outputs[: 1 if call.name in _OF_FIRST else None]:
                    set_mark(out, POSITIONS, along)
            else:
                self.freeze_positions(tensor, f"{call.name}() computes with positions along it")

    def _carries(self, call: Call) -> bool:
        to_number = call.name == "_to_copy" and call.arg("dtype") is not torch.bool
        return call.name in _CARRIED or to_number

    def freeze_positions(self, tensor: Tensor, reason: str) -> None:
        """What the integers in a tensor are positions of can't be cut."""
        axis = self.positions_of(tensor)
        if axis is not None:
            self.space.freeze(axis, reason)

    def note_made(self, tensor: Tensor) -> None:
        """A module made a tensor: remember its axes and the bytes of each value."""
        self.made.append((self.axes_of(tensor), tensor.element_size()))

    def _check(self, func: OpOverload, out: Tensor, axes: Axes) -> None:
        sizes = tuple(axis.size for axis in axes)
        if sizes != tuple(out.shape):
            raise RowError(f"the row of {func._schema.name} gives {sizes} for an output of {tuple(out.shape)}")


class ShapeMode(RunMode):
    """Records the shape of every tensor: what the small model really does, to compare with the prediction."""

    follows = False

    def learn(self, func: OpOverload, args: Any, kwargs: dict[str, Any], outputs: list[Tensor]) -> tuple[Any, ...]:
        return tuple(tuple(out.shape) for out in outputs)
