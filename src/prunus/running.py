"""Run a user's model without leaving a trace: modes, random state and example inputs stay as they were."""

from __future__ import annotations

import copy
import gc
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from prunus.errors import InputError, PrunusError, TraceError
from prunus.state import untouched


class Examples:
    """Several example inputs, for a model whose control flow differs between them.

    ``Examples(x, (x, mask), {"x": y})``: each is what ``args`` may be by itself, one tensor, a tuple of positional
    arguments, or a dict of keyword arguments. :func:`prunus.trace` joins what it learns from all of them, a plan holds
    on each, and :func:`prunus.prove` proves each.
    """

    def __init__(self, *examples: Any) -> None:
        """Raises InputError without any example."""
        if not examples:
            raise InputError("Examples() needs at least one example input.")
        self._examples = examples

    def __iter__(self) -> Iterator[Any]:
        return iter(self._examples)

    def __len__(self) -> int:
        return len(self._examples)


Inputs = tuple[tuple[Any, ...], dict[str, Any]]
"""The positional and the keyword arguments of one call of a model."""


def each_input(args: Any, kwargs: Mapping[str, Any] | None = None) -> list[Inputs]:
    """The arguments of every example: of each of :class:`Examples`, with ``kwargs`` common to all, or of the only one.

    A dict of keyword arguments may stand for ``args``.
    """
    if isinstance(args, Examples):
        return [pair for each in args for pair in each_input(each, kwargs)]
    if isinstance(args, Mapping):
        return [((), {**(kwargs or {}), **args})]
    return [(as_args(args), dict(kwargs or {}))]


def as_args(args: Any) -> tuple[Any, ...]:
    """Positional arguments as a tuple: ``args`` is a tuple of them, a list of them, or one tensor."""
    if isinstance(args, Tensor):
        return (args,)
    if isinstance(args, Examples):
        raise InputError("one example is wanted here, not several: give one of the Examples.")
    if isinstance(args, (tuple, list)):
        return tuple(args)
    raise InputError(
        f"args must be one tensor or a tuple of the model's positional arguments, got {type(args).__name__}. "
        "Named arguments go in kwargs."
    )


def check_eager(model: Any) -> None:
    """Raise InputError unless ``model`` is an eager, floating-point module whose parameters exist."""
    if not isinstance(model, nn.Module):
        raise InputError(f"expected a torch.nn.Module, got {type(model).__name__}.")
    for name, module in model.named_modules():
        refusal = _refusal(module)
        if refusal:
            where = f"{name!r} ({type(module).__name__})" if name else type(module).__name__
            raise InputError(f"{where} {refusal}")


def _refusal(module: nn.Module) -> str | None:
    if isinstance(module, torch.jit.ScriptModule):
        return "is a TorchScript module; give the eager model it was scripted or traced from."
    if type(module).__name__ == "OptimizedModule":
        return "is wrapped by torch.compile; give the model itself (compiled._orig_mod), and compile the small one."
    if _is_quantized(type(module)):
        return "is quantized, and can't be cut: prune first, then quantize."
    for own in (*module._parameters.values(), *module._buffers.values()):
        if own is not None and nn.parameter.is_lazy(own):
            return "is lazy and has no parameters yet: run the model once on real inputs first."
        if is_traceable_wrapper_subclass(own) and not hasattr(own, "device_mesh"):
            return f"holds a {type(own).__name__}, not plain weights, and can't be cut: prune first, then quantize."
    return None


def _is_quantized(kind: type[nn.Module]) -> bool:
    """Whether a layer computes with integers. A ``FloatFunctional`` only marks where a quantizer would look."""
    floating = kind.__name__ in ("FloatFunctional", "FXFloatFunctional")
    return kind.__module__.startswith("torch.") and ".quantized." in kind.__module__ and not floating


def cloned(value: Any) -> Any:
    """``value`` with a detached copy of every tensor in it, for a model that may work on its inputs in place."""
    return mapped(lambda tensor: tensor.detach().clone(), value)


def mapped(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """``value`` with every tensor in it replaced; objects that hold tensors are copied.

    Raises:
        InputError: such an object can't be copied.
    """

    def each(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return function(leaf)
        inside = {id(tensor): function(tensor) for tensor in tensors_in(leaf)}
        try:
            return copy.deepcopy(leaf, inside) if inside else leaf
        except (TypeError, RuntimeError) as error:
            raise InputError(f"an input of type {type(leaf).__name__} can't be copied ({error}).") from error

    return pytree.tree_map(each, value)


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors inside nested containers, dataclasses and other objects, in order."""
    return [leaf for leaf in _leaves(value, lambda _: False, {}) if isinstance(leaf, Tensor)]


def outputs_in(value: Any) -> list[Tensor]:
    """The tensors and arrays of a model's output, without the states it keeps for its own next call (see `states_in`).

    Raises:
        InputError: there is an iterator in it, whose tensors nobody has seen yet.
    """
    found: list[Tensor] = []
    for leaf in _leaves(value, _is_state, {}):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biufc":
            found.append(torch.from_numpy(leaf.copy()))
        elif isinstance(leaf, Iterator):
            raise InputError(
                f"the model returns a {type(leaf).__name__}, which gives its tensors later: return a list."
            )
    return found


def _leaves(value: Any, is_leaf: Callable[[Any], bool], seen: dict[int, Any]) -> Iterator[Any]:
    """What is left of ``value`` when every container and every object that holds something is opened."""
    for leaf in pytree.tree_leaves(value, is_leaf=is_leaf):
        held = [] if isinstance(leaf, _OPAQUE) or is_leaf(leaf) or id(leaf) in seen else _held(leaf)
        if not held:
            yield leaf
        seen[id(leaf)] = leaf  # kept, so that no other object gets its id
        for each in held:
            yield from _leaves(each, is_leaf, seen)


_OPAQUE = (
    *(Tensor, nn.Module, np.ndarray, str, bytes, bytearray, int, float, complex, type(None), Iterator),
    *(type, types.ModuleType, types.FunctionType, types.MethodType, types.BuiltinFunctionType),
)


def _held(value: Any) -> list[Any]:
    """What an object that torch's pytree doesn't know holds: its items, and its attributes."""
    if isinstance(value, Mapping):
        return list(value.values())
    items = list(value) if isinstance(value, Sequence | Set) else []
    slots = [kind.__dict__.get("__slots__", ()) for kind in type(value).__mro__]
    names = [name for each in slots for name in ([each] if isinstance(each, str) else each)]
    return [*items, *getattr(value, "__dict__", {}).values(), *(getattr(value, name, None) for name in names)]


def states_in(value: Any) -> list[str]:
    """The types of the key-value caches in a model's output.

    A cache that the model itself fills and reads is no output of the user's: it shrinks with the model. It is known by
    what every such class offers, to add to itself and to say how long it is.
    """
    return [type(leaf).__name__ for leaf in pytree.tree_leaves(value, is_leaf=_is_state) if _is_state(leaf)]


def _is_state(value: Any) -> bool:
    return all(callable(getattr(value, name, None)) for name in ("update", "get_seq_length"))


def check_finite(what: str, *tensors: Tensor) -> None:
    """Raises InputError where one of the tensors, made from the data, holds NaN or infinity; ``what`` says whose."""
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise InputError(
            f"{what}, on this data, holds NaN or infinity: look for such values in the batches, or run the model in a "
            "wider type of numbers."
        )


def call(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """``model(*args, **kwargs)``; an exception of the user's code comes as the cause of a TraceError."""
    try:
        return model(*args, **kwargs)
    except PrunusError:
        raise
    except Exception as error:
        shapes = (
            ", ".join(f"{list(t.shape)} {t.dtype} on {t.device}" for t in tensors_in((args, kwargs))) or "no tensors"
        )
        raise TraceError(
            f"{type(model).__name__}.forward raised {type(error).__name__}: {error}. It was given {shapes}; check that "
            "the example inputs are what the model expects, and on its device."
        ) from error


def call_afresh(model: nn.Module, inputs: Inputs) -> Any:
    """The same on copies of ``inputs``; what ``forward`` changes of the model itself is put back, so that the next call
    starts where this one did.
    """
    with untouched(model):
        return call(model, *cloned(inputs))


class Enough(BaseException):  # not an Exception: the model's own handlers must not catch it
    """All that is wanted of this run has been seen."""


class Batches:
    """Batches of a user's data as ``(args, kwargs)``, for a model that takes what the example shows.

    A batch is one tensor, a tuple or list of positional inputs, or a dict of named ones. What the example doesn't have
    (targets after the inputs, labels beside them) is left out. Tensors are moved to the example's device.

    Raises:
        InputError: the data is empty or can be iterated only once, or a batch lacks what the example has.
    """

    def __init__(self, data: Iterable[Any], args: Any, kwargs: Mapping[str, Any] | None = None) -> None:
        if isinstance(args, Mapping) and kwargs is None:
            args, kwargs = (), args
        self.args, self.kwargs = as_args(args), dict(kwargs or {})
        if isinstance(data, Iterator):
            raise InputError(
                "data is an iterator, which can be read only once; give a list of batches or a DataLoader."
            )
        self.data = [data] if isinstance(data, Tensor) else data
        tensors = tensors_in((self.args, self.kwargs))
        self.device = tensors[0].device if tensors else torch.device("cpu")

    def __iter__(self) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
        empty = True
        for batch in self.data:
            empty = False
            yield self._fitted(batch)
        if empty:
            raise InputError("data holds no batch.")

    def first(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The first batch."""
        return next(iter(self))

    def _fitted(self, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        moved = pytree.tree_map_only(Tensor, lambda t: t.to(self.device), batch)
        if isinstance(moved, Mapping):
            missing = sorted(set(self.kwargs) - set(moved))
            if missing or self.args:
                raise InputError(f"a batch of data has {sorted(moved)}, but the model takes {missing or 'args'}.")
            return (), {name: moved[name] for name in self.kwargs}
        items = as_args(moved)
        if len(items) < len(self.args) or self.kwargs:
            wanted = f"{len(self.args)} positional inputs" + (f" and {sorted(self.kwargs)}" if self.kwargs else "")
            raise InputError(f"a batch of data has {len(items)} items, but the model takes {wanted}.")
        return items[: len(self.args)], {}


@contextmanager
def differentiable(weights: Iterable[nn.Parameter]) -> Iterator[None]:
    """Within: gradients are on, and the parameters require them."""
    before = [(weight, weight.requires_grad) for weight in weights]
    with torch.enable_grad():
        try:
            for weight, _ in before:
                weight.requires_grad_(True)
            yield
        finally:
            for weight, required in before:
                weight.requires_grad_(required)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Within: eval mode, no gradients, a forked random state. Afterwards modes and random state are as before, and so
    is what ``forward`` changed of the model itself (see :func:`prunus.state.untouched`).
    """
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    cuda = sorted(device.index or 0 for device in devices if device.type == "cuda")
    with untouched(model), torch.random.fork_rng(devices=cuda), torch.no_grad():
        model.eval()
        yield


@contextmanager
def on_cpu() -> Iterator[None]:
    """For a run of a copy of ours, which is on no GPU. Within: no gradients, a forked random state, and what
    ``forward`` makes without naming a device is on the CPU, whatever ``torch.set_default_device`` says.
    """
    default = torch.get_default_device().type
    here = nullcontext() if default == "cpu" else torch.device("cpu")
    with here, torch.random.fork_rng(devices=[]), torch.no_grad():
        yield


@contextmanager
def uncollected() -> Iterator[None]:
    """Within: no search for garbage that goes in circles, which takes a good part of the time where thousands of small
    objects are made that all stay. What is freed by its count is freed as ever.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def no_fast_path() -> Iterator[None]:
    """torch's transformer layers run as one opaque operator in eval mode; within, they run as what it stands for."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
