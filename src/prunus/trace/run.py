"""Run a model once and learn its axes."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from prunus.axes import Atom, Axes, Product, Space
from prunus.caches import caches_forgotten
from prunus.created import Creations
from prunus.errors import InputError, TraceError
from prunus.running import (
    Inputs,
    check_eager,
    each_input,
    mapped,
    on_cpu,
    outputs_in,
    states_in,
    tensors_in,
    uncollected,
)
from prunus.sharing import overlapping, same_place
from prunus.sizes import Attribute, Ledger, solve
from prunus.state import restored
from prunus.surgery import copy_model, named_tensors
from prunus.trace.attributes import traced_attributes
from prunus.trace.choices import Choices
from prunus.trace.functions import OpenMode, SizeMode
from prunus.trace.graph import Graph, Run
from prunus.trace.modes import AxisMode, Record, RowError, RunMode, ShapeMode
from prunus.trace.standins import AXES, NAME, SEEN, mark_names, meta_copy, meta_inputs, set_mark


def trace(model: nn.Module, args: Any, kwargs: Mapping[str, Any] | None = None) -> Graph:
    """Run ``model`` once for each example on the meta device and learn how every tensor axis relates to every other.

    No weights are read and no arithmetic is done. A model whose Python code depends on computed values is run for real
    on the CPU instead, and the graph says so in its ``notes``. Parts that only training mode runs are traced too.

    Args:
        model: any eager ``nn.Module``, on any device. It is left as it is.
        args: a tuple of example inputs for ``forward``, one tensor, a dict of keyword inputs, or several of these as
            :class:`prunus.Examples`, where control flow differs between inputs: their axes are joined.
        kwargs: keyword inputs, for every example.

    Raises:
        InputError: the model is scripted, compiled or lazy, or can't be copied.
        TraceError: ``forward`` raised on the example inputs; the model's own exception is the cause.
    """
    check_eager(model)
    inputs = each_input(args, kwargs)
    try:
        with uncollected():
            return _Tracer(model, inputs, real=False).trace()
    except (InputError, RowError):
        raise
    except Exception as error:
        if any(t.is_meta for t in named_tensors(model).values()):
            raise failed(model, error) from error
        reason = f"{type(error).__name__}: {error}"
    try:
        graph = _Tracer(model, inputs, real=True).trace()
    except (InputError, RowError):
        raise
    except Exception as error:
        raise failed(model, error) from error
    graph.notes = [*graph.notes, f"run for real on the CPU, because the meta device could not ({reason})"]
    return graph


def trace_for_real(model: nn.Module, inputs: list[Inputs], watch: Callable[[AxisMode, bool], None]) -> Graph:
    """Like :func:`trace`, always with real values on the CPU.

    Args:
        watch: called with the mode of each run before it starts, and whether it is a run in training mode.
    """
    try:
        return _Tracer(model, inputs, real=True, watch=watch).trace()
    except (InputError, RowError):
        raise
    except Exception as error:
        raise failed(model, error) from error


def failed(model: nn.Module, error: Exception) -> TraceError:
    return TraceError(
        f"{type(model).__name__}.forward raised {type(error).__name__} on the example inputs: {error}. "
        "Check that model(*args, **kwargs) runs with the args and kwargs given."
    )


class _Tracer:
    """One trace: the space, the ledger and the copy of the model that is run."""

    def __init__(
        self,
        model: nn.Module,
        inputs: list[Inputs],
        real: bool,
        watch: Callable[[AxisMode, bool], None] | None = None,
    ) -> None:
        self.model, self.inputs, self.real, self.watch = model, inputs, real, watch
        self.space = Space()
        self.ledger = Ledger(self.space)
        self.given = named_tensors(model)
        self.copy = real_copy(model) if real else meta_copy(model, self.given.values())
        self.tensors = mark_names(self.copy)
        self.axes = axes_of_tensors(self.tensors.values(), self.space)
        self._unify_shared()
        self.modes: list[AxisMode] = []
        self.notes: list[str] = []
        self.values: dict[Attribute, int] = {}

    def _unify_shared(self) -> None:
        """Tensors that are the same memory are cut alike; one that is a part of another's stays, and so does that."""
        for name, whole in overlapping(self.given).items():
            mine, theirs = self.axes[id(self.tensors[name])], self.axes[id(self.tensors[whole])]
            if same_place(self.given[name], self.given[whole]):
                for a, b in zip(mine, theirs, strict=True):
                    self.space.unify(a, b)
            else:
                for axis in (*mine, *theirs):
                    self.space.freeze(axis, f"{name} lies in the memory of {whole}")

    def trace(self) -> Graph:
        runs = [self._run(inputs, training=False) for inputs in self.inputs]
        for inputs in self.inputs:
            if self._unreached():
                runs += self._try_training(inputs)
        self._freeze_unreached()
        least = self._least()
        equations = list(self.ledger.equations.values())
        self.ledger.close()
        sizes = solve(self.space, equations, self.values, (a for axes in self.axes.values() for a in axes))
        tensors = {
            name: tuple(self.space.resolve(axis) for axis in self.axes[id(tensor)])
            for name, tensor in self.tensors.items()
        }
        unsupported = {op: where for mode in self.modes for op, where in mode.unsupported.items()}
        return Graph(
            model=self.model,
            args=self.inputs[0][0],
            kwargs=self.inputs[0][1],
            space=self.space,
            tensors=tensors,
            equations=equations,
            sizes=sizes,
            runs=runs,
            skeleton=self.copy,
            real=self.real,
            unsupported=unsupported,
            notes=self.notes,
            least=least,
        )

    def _least(self) -> dict[Atom, int]:
        """How many indices of an atom are asked for at least; what is chosen of a sum is frozen.

        Of a product, every factor stays in such a number that the least of all together are enough, the inner ones
        first: where the best groups are chosen before the best of their experts, each group keeps so many that the
        chosen groups have enough.
        """
        found: dict[Atom, int] = {}
        asked = [(self.space.resolve(axis), number, name) for mode in self.modes for axis, number, name in mode.least]
        for axis, number, name in sorted(asked, key=lambda each: isinstance(each[0], Product)):
            parts = axis.parts if isinstance(axis, Product) else (axis,)
            factors = [part for part in parts if isinstance(part, Atom)]
            if len(factors) < len(parts):
                self.space.freeze(axis, f"{name}() chooses of an axis of several parts")
                continue
            for factor in reversed(factors):
                others = math.prod(found.get(other, 1) for other in factors if other is not factor)
                needed = min(factor.size, -(-number // others))
                found[factor] = max(found.get(factor, 1), needed)
        return found

    def _run(self, inputs: Inputs, training: bool) -> Run:
        mode = AxisMode(self.space, self.real)
        mode.originals = {id(t): name for name, t in self.given.items()}
        self.modes.append(mode)
        if self.watch is not None:
            self.watch(mode, training)
        _in_mode(self.copy, training)
        importlib.import_module("torch._dynamo")  # meta kernels import it; in torch 2.6 that runs operators
        with traced_attributes(self.copy, self.ledger) as self.values:
            functions, own = SizeMode(mode, self.ledger), self.tensors.values()
            outputs = run_under(self.copy, *inputs, mode, functions, self.space, mode.note_made, own=own)
        for out in outputs_in(outputs):
            for axis in mode.axes_of(out):
                self.space.freeze(axis, "a model output")
            mode.freeze_positions(out, "positions along it are a model output")
        for state in dict.fromkeys(states_in(outputs)):
            self.notes.append(f"the {state} among the outputs is the model's own state, and is cut with it")
        return Run(inputs, training, mode.records, mode.choices.made, mode.work, mode.made)

    def _unreached(self) -> list[str]:
        reached = {name for mode in self.modes for name in mode.reached}
        return [
            name
            for name, tensor in self.tensors.items()
            if isinstance(tensor, nn.Parameter) and tensor.__dict__[NAME] not in reached
        ]

    def _try_training(self, inputs: Inputs) -> list[Run]:
        """Some parameters were not reached: training mode may run them (auxiliary heads)."""
        before = len(self._unreached())
        space, equations, notes = self.space.copy(), dict(self.ledger.equations), list(self.notes)
        try:
            run = self._run(inputs, training=True)
        except Exception as error:  # noqa: BLE001 - the model may need targets in training mode
            self.space.become(space)  # what half a run has learned ties nothing
            self.ledger.equations = equations
            self.notes = [*notes, f"training mode could not be traced: {type(error).__name__}: {error}"]
            self.modes.pop()
            return []
        return [run] if len(self._unreached()) < before else []

    def _freeze_unreached(self) -> None:
        missing = self._unreached()
        for name in missing:
            for axis in self.axes[id(self.tensors[name])]:
                self.space.freeze(axis, "not reached by the example inputs")
        if missing:
            self.notes.append(f"{len(missing)} parameters are not reached by the example inputs, such as {missing[0]}")


def real_copy(model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """A copy of ``model`` on the CPU that shares no memory with it; floating tensors in ``dtype`` if given, complex
    ones in what goes with it.
    """
    replace: dict[int, Tensor] = {}
    for tensor in named_tensors(model).values():
        data = tensor.detach().cpu().clone()
        if dtype is not None and (data.is_floating_point() or data.is_complex()):
            data = data.to(dtype.to_complex() if data.is_complex() else dtype)
        is_parameter = isinstance(tensor, nn.Parameter)
        replace.setdefault(id(tensor), nn.Parameter(data, requires_grad=False) if is_parameter else data)
    return copy_model(model, replace)


def axes_of_tensors(tensors: Iterable[Tensor], space: Space) -> dict[int, Axes]:
    """A fresh axis for every dimension of every tensor of a model, by ``id``, marked on the tensor too."""
    result: dict[int, Axes] = {}
    for tensor in tensors:
        if id(tensor) not in result:
            axes = tuple(space.fresh(n) for n in tensor.shape)
            set_mark(tensor, AXES, axes)
            result[id(tensor)] = axes
    return result


def run_under(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    mode: RunMode,
    functions: OpenMode,
    space: Space | None = None,
    made: Callable[[Tensor], None] | None = None,
    last: bool = False,
    own: Iterable[Tensor] | None = None,
) -> Any:
    """Run a copy of ours under the modes, which may know at every call the module that it is in; returns its outputs.

    With a ``space``, the axes of the inputs are frozen in it; ``made`` is called with every tensor that a module makes.
    RNG state is left as it was, and so is what ``forward`` changes of the model, unless this run is the ``last`` of it.
    ``own`` are the model's tensors, where they are known.
    """
    inputs = _own_inputs((args, kwargs), mode.real)
    for tensor in (*(named_tensors(model).values() if own is None else own), *tensors_in(inputs)):
        set_mark(tensor, SEEN, True)
    if space is not None:
        for tensor in tensors_in(inputs):
            set_mark(tensor, AXES, tuple(space.fresh(n, "a model input") for n in tensor.shape))
    with ExitStack() as stack:
        stack.enter_context(caches_forgotten(model))
        stack.enter_context(nullcontext() if last else restored(model))
        if mode.follows:
            stack.enter_context(_followed(model, mode, made))
        stack.enter_context(on_cpu())
        stack.enter_context(mode)
        stack.enter_context(functions)
        return model(*inputs[0], **inputs[1])


def _own_inputs(inputs: Any, real: bool) -> Any:
    if real:
        return mapped(lambda t: t.detach().cpu().clone(), inputs)
    return meta_inputs(inputs)


@contextmanager
def _followed(model: nn.Module, mode: RunMode, made: Callable[[Tensor], None] | None) -> Iterator[None]:
    """Within, ``mode.modules`` ends with the module that is running, and ``made`` hears of the tensors each makes."""
    known = Creations()

    def entering(path: str) -> Any:
        def hook(module: nn.Module, args: Any) -> None:
            mode.modules.append(path)
            if made is not None:
                known.enter()

        return hook

    def leaving(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if made is not None:
            for tensor in known.leave((args, kwargs), output):
                made(tensor)
        mode.modules.pop()

    handles = []
    for path, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(entering(path), prepend=True))
        handles.append(module.register_forward_hook(leaving, with_kwargs=True, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _in_mode(model: nn.Module, training: bool) -> None:
    """``model.train(training)``, unless all modules are in that mode."""
    if any(module.training != training for module in model.modules()):
        model.train(training)


def record_shapes(
    model: nn.Module, run: Run, real: bool, last: bool = False, own: Iterable[Tensor] | None = None
) -> tuple[list[Record], Exception | None]:
    """Run a copy of ours again, led by the choices of the first ``run``; returns its operator calls with their output
    shapes, and what stopped it, if anything. ``last`` and ``own`` as for :func:`run_under`.
    """
    _in_mode(model, run.training)
    mode = ShapeMode(real, Choices(run.choices))
    try:
        run_under(model, *run.inputs, mode, OpenMode(), last=last, own=own)
    except Exception as error:  # noqa: BLE001 - the caller reports it with the place in the run
        return mode.records, error
    return mode.records, None
