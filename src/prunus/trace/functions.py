"""The function mode of a run: sizes that remember their axis, and what the user's code asks of them.

``x.shape`` gives :class:`~prunus.sizes.Size` integers. Where one of them, an attribute of a module, or a literal
reaches a function as a size (``view``, ``split``, ``zeros``, slices, ...), the ledger notes which axis it must match.
Anywhere else a size is a plain number, which must not change.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator
from torch.overrides import TorchFunctionMode

from prunus.axes import Axis, product
from prunus.operators.striding import memory_order, relaid
from prunus.sizes import Arithmetic, Count, Expression, Ledger, Size, expression
from prunus.trace.modes import AxisMode

_SHAPE = torch.Tensor.shape.__get__  # type: ignore[attr-defined]
_CHECKS = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")


def _no(*_: Any) -> bool:
    return False


@cache
def open_body(func: types.FunctionType) -> Callable[..., Any]:
    """A Python function of torch without its hand-over to the mode, so that the calls inside it are seen."""
    names = {name: _no for name in _CHECKS if name in func.__globals__}
    cells = tuple(_open_cell(cell, func) for cell in func.__closure__ or ()) or None
    opened = types.FunctionType(func.__code__, {**func.__globals__, **names}, func.__name__, func.__defaults__, cells)
    opened.__kwdefaults__ = func.__kwdefaults__
    return opened


def _open_cell(cell: types.CellType, holder: types.FunctionType) -> types.CellType:
    """Torch wraps some functions in others, which hold them (and at times themselves) in cells."""
    inner = cell.cell_contents
    if not isinstance(inner, types.FunctionType) or inner is holder:
        return cell
    return types.CellType(open_body(inner)) if str(inner.__module__).startswith("torch.") else cell


def _listed(tensor: Tensor) -> Any:
    """``tensor.tolist()``, which reads memory without any operator, by operators that the run sees."""
    return tensor.item() if tensor.dim() == 0 else [_listed(row) for row in tensor.unbind()]


def plain_body(operator: HigherOrderOperator) -> Callable[..., Any]:
    """What an operator that takes functions does on plain tensors, written in other operators.

    Raises:
        NotImplementedError: it isn't known here.
    """
    if operator.name() != "flex_attention":
        raise NotImplementedError(
            f"{operator.name()}, an operator that takes functions, isn't known to prunus: call its plain form instead."
        )
    return import_module("torch._higher_order_ops.flex_attention").math_attention  # type: ignore[no-any-return]


@contextmanager
def _nothing_compiled() -> Iterator[None]:
    """Within the context, what ``forward`` compiles (FlexAttention does so by itself) runs as it is written."""
    flex = sys.modules.get("torch.nn.attention.flex_attention")
    switch = "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG"
    with torch.compiler.set_stance("force_eager"), ExitStack() as stack:
        if hasattr(flex, switch):
            stack.callback(setattr, flex, switch, getattr(flex, switch))
            setattr(flex, switch, True)
        yield


def _one_hot(func: Any, tensor: Tensor, num_classes: int = -1) -> Any:
    """``one_hot()`` written with a scatter, whichever way the device has: it says which axis the classes are."""
    if num_classes < 1:
        return func(tensor, num_classes)
    zeros = torch.zeros((*tensor.shape, num_classes), dtype=torch.long, device=tensor.device)
    return zeros.scatter(-1, tensor.unsqueeze(-1), 1)


def batch_norm(x: Tensor, *rest: Any) -> Tensor:
    """torch's of that name without the empty tensor that it makes beside each result, for kernels of other devices."""
    vectors, channels = rest[:4], x.shape[1:2]
    if not x.numel() or any(t is not None and t.shape != channels for t in vectors):
        return torch.batch_norm(x, *rest)
    return torch.native_batch_norm(x, *rest[:-1])[0]


class OpenMode(TorchFunctionMode):
    """Makes every torch function run as plain code, without fused fast paths, and sees each call."""

    def __init__(self) -> None:
        super().__init__()
        self._open: list[Any] = []  # a function that comes back to itself through torch isn't opened again
        self._depth = 0
        self._outermost = ExitStack()

    def __enter__(self) -> OpenMode:
        if self._depth == 0:
            self._outermost.enter_context(_nothing_compiled())
        self._depth += 1
        return super().__enter__()  # type: ignore[no-untyped-call, no-any-return]

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._depth -= 1
        if self._depth == 0:
            self._outermost.close()

    def __torch_function__(self, func: Any, types_: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.tolist:
            with self:
                return _listed(args[0])
        if isinstance(func, HigherOrderOperator):
            func = plain_body(func)
        if func is torch.nn.functional.one_hot:
            with self:
                return _one_hot(func, *args, **kwargs)
        if isinstance(func, types.FunctionType) and (not self._open or self._open[-1] is not func):
            self._open.append(func)
            try:
                with self:
                    return open_body(func)(*args, **kwargs)
            finally:
                self._open.pop()
        if func is torch.batch_norm and not kwargs:
            func = batch_norm
        return self.call(func, args, kwargs)

    def call(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        return func(*args, **kwargs)


class SizeMode(OpenMode):
    """Notes in the ledger what the code asks of sizes."""

    def __init__(self, axes: AxisMode, ledger: Ledger) -> None:
        super().__init__()
        self.axes = axes
        self.ledger = ledger

    def call(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        result = func(*args, **kwargs)
        name = func.__name__
        if name == "__get__":
            return self._shape(args[0]) if func == _SHAPE else result
        if name in ("size", "numel", "nelement", "__len__"):
            return self._size(name, args, kwargs, result)
        if name == "stride":
            return self._strides(args, kwargs, result)
        handler = HANDLERS.get(name)
        if handler is not None:
            handler(self, args, kwargs, result)
        else:
            self.numbers((*args, *kwargs.values()))
        return result

    # -- giving sizes out ----------------------------------------------------------------------------------------

    def _shape(self, tensor: Tensor) -> torch.Size:
        return torch.Size([self._sized(axis) for axis in self.axes.axes_of(tensor)])

    def _sized(self, axis: Axis) -> int:
        return Size.of(axis.size, Count(axis), self.ledger) if axis.size > 1 else axis.size

    def _size(self, name: str, args: Any, kwargs: dict[str, Any], result: Any) -> Any:
        axes = self.axes.axes_of(args[0])
        if isinstance(result, torch.Size):
            return self._shape(args[0])
        if name == "size":
            return self._sized(axes[kwargs.get("dim", args[1] if len(args) > 1 else 0)])
        return self._sized(axes[0] if name == "__len__" else product(axes))

    def _strides(self, args: Any, kwargs: dict[str, Any], result: Any) -> Any:
        """Where a tensor fills its memory, a stride is the size of all that lies inside one step."""
        axes, strides = self.axes.axes_of(args[0]), list(torch.Tensor.stride(args[0]))
        order = memory_order([axis.size for axis in axes], strides) or []
        for i, d in enumerate(order):
            strides[d] = self._sized(product(axes[e] for e in order[i + 1 :]))
        return tuple(strides) if isinstance(result, tuple) else strides[_dim(args, kwargs, 1)]

    # -- taking them in ------------------------------------------------------------------------------------------

    def numbers(self, values: Sequence[Any]) -> None:
        """Sizes among ``values`` are used as plain numbers."""
        for value in values:
            if isinstance(value, Size) and not value.ledger.closed:
                self.ledger.number(value.expr, int.__int__(value))
            elif isinstance(value, list | tuple):
                self.numbers(value)
            elif isinstance(value, slice):
                self.numbers((value.start, value.stop, value.step))

    def require(self, value: Any, axis: Axis, what: str = "is sized") -> None:
        """The integer ``value`` is the size of ``axis``; -1 stands for whatever is left."""
        if isinstance(value, int) and value >= 0:
            self.ledger.require(expression(value), Count(axis), what)

    def same_count(self, a: Axis, b: Axis, what: str) -> None:
        if a.size == b.size:
            self.ledger.require(Count(a), Count(b), what)
        else:
            for axis in (a, b):
                self.axes.space.freeze(axis, f"{what} into uneven parts")


Handler = Callable[[SizeMode, Any, dict[str, Any], Any], None]
HANDLERS: dict[str, Handler] = {}


def handles(names: str) -> Callable[[Handler], Handler]:
    def enter(handler: Handler) -> Handler:
        for name in names.split():
            HANDLERS[name] = handler
        return handler

    return enter


def sizes_given(args: Any, kwargs: dict[str, Any], *names: str) -> list[Any]:
    """The sizes among arguments, given as ``f(x, 2, 3)``, ``f(x, (2, 3))`` or ``f(x, size=(2, 3))``."""
    for name in names:
        if name in kwargs:
            return list(kwargs[name])
    if args and isinstance(args[0], list | tuple):
        return list(args[0])
    return [a for a in args if isinstance(a, int) and not isinstance(a, bool)]


@handles("view reshape expand broadcast_to new_zeros new_ones new_empty new_full")
def _reshaped(mode: SizeMode, args: Any, kwargs: dict[str, Any], result: Any) -> None:
    _match(mode, sizes_given(args[1:], kwargs, "size", "shape"), result, "is reshaped")


@handles("zeros ones empty full rand randn")
def _created(mode: SizeMode, args: Any, kwargs: dict[str, Any], result: Any) -> None:
    _match(mode, sizes_given(args, kwargs, "size"), result, "is created")


def _match(mode: SizeMode, sizes: list[Any], result: Tensor, what: str) -> None:
    axes = mode.axes.axes_of(result)
    if len(sizes) == len(axes):
        for size, axis in zip(sizes, axes, strict=True):
            mode.require(size, axis, what)


@handles("as_strided")
def _strided(mode: SizeMode, args: Any, kwargs: dict[str, Any], result: Tensor) -> None:
    """Sizes are those of the result; a step over whole blocks is a multiple of their size."""
    names = ("size", "stride", "storage_offset")
    given: list[Any] = [kwargs.get(k, args[i] if len(args) > i else None) for i, k in enumerate(names, 1)]
    size, stride, offset = given
    axes = mode.axes.axes_of(args[0])
    order = memory_order([axis.size for axis in axes], torch.Tensor.stride(args[0]))
    if offset or order is None or not all(isinstance(step, int) for step in stride):
        for axis in axes:
            mode.axes.space.freeze(axis, "as_strided() over it")
        return
    _match(mode, list(size), result, "is laid out anew")
    found = relaid(axes, order, result.shape, stride)
    stays, block = {**found.front, **found.back}, product(axes[d] for d in found.back.values())
    for d, step in enumerate(stride):
        inside: Expression = Arithmetic("*", int(step) // block.size, Count(block))
        if d in stays:
            inside = Count(product(found.behind(axes, stays[d])))
        if result.shape[d] > 1:
            mode.ledger.require(expression(step), inside, "is laid out anew, in steps,")


@handles("unflatten")
def _unflattened(mode: SizeMode, args: Any, kwargs: dict[str, Any], result: Tensor) -> None:
    dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
    sizes = list(kwargs.get("sizes", args[-1]))
    axes = mode.axes.axes_of(result)
    dim = dim % (len(axes) - len(sizes) + 1)
    for size, axis in zip(sizes, axes[dim : dim + len(sizes)], strict=True):
        mode.require(size, axis, "is unflattened")


def _dim(args: Any, kwargs: dict[str, Any], at: int) -> int:
    return int(kwargs.get("dim", args[at] if len(args) > at else 0))


@handles("split split_with_sizes unsafe_split")
def _split(mode: SizeMode, args: Any, kwargs: dict[str, Any], result: Any) -> None:
    dim = _dim(args, kwargs, 2)
    wanted = next((kwargs[k] for k in ("split_size_or_sections", "split_size", "split_sizes") if k in kwargs), None)
    wanted = args[1] if wanted is None else wanted
    pieces = [mode.axes.axes_of(piece)[dim] for piece in result]
    sizes = list(wanted) if isinstance(wanted, list | tuple) else [wanted] * len(pieces)
    for size, piece in zip(sizes, pieces, strict=True):
        if size == piece.size:
            mode.require(size, piece, "is split")
        else:
            mode.axes.space.freeze(piece, "what is left of an uneven split()")


@handles("chunk unsafe_chunk tensor_split")
def _chunk(mode: SizeMode, args: Any, kwargs: dict[str, Any], result: Any) -> None:
    dim = _dim(args, kwargs, 2)
    pieces = [mode.axes.axes_of(piece)[dim] for piece in result]
    for piece in pieces[1:]:
        mode.same_count(pieces[0], piece, "is chunked")
    mode.numbers(args[1:2])


@handles("repeat tile")
def _repeated(mode: SizeMode, args: Any, kwargs: dict[str, Any], result: Tensor) -> None:
    for times, axis in zip(sizes_given(args[1:], kwargs, "repeats", "dims"), mode.axes.axes_of(result), strict=False):
        parts = mode.axes.space.split(axis, int(times)) if times > 1 else None
        if parts is not None:
            mode.require(times, parts[0], "is repeated")


@handles("repeat_interleave")
def _repeated_in_a_row(mode: SizeMode, args: Any, kwargs: dict[str, Any], result: Tensor) -> None:
    times: Any = kwargs.get("repeats", args[1] if len(args) > 1 else None)
    dim = kwargs.get("dim", args[2] if len(args) > 2 else None)
    if isinstance(times, int) and times > 1:
        axis = mode.axes.axes_of(result)[dim or 0]
        parts = mode.axes.space.split(axis, axis.size // int(times))
        if parts is not None:
            mode.require(times, parts[1], "is repeated")


@handles("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d")
def _convolved(mode: SizeMode, args: Any, kwargs: dict[str, Any], result: Any) -> None:
    groups = kwargs.get("groups", args[6] if len(args) > 6 else 1)
    if groups > 1:
        weight: Tensor = kwargs["weight"] if "weight" in kwargs else args[1]
        parts = mode.axes.space.split(mode.axes.axes_of(weight)[0], int(groups))
        if parts is not None:
            mode.require(groups, parts[0], "is convolved in groups")
    mode.numbers([*args[3:6], *args[7:], *(v for k, v in kwargs.items() if k != "groups")])


@handles("group_norm channel_shuffle native_channel_shuffle")
def _grouped(mode: SizeMode, args: Any, kwargs: dict[str, Any], result: Any) -> None:
    groups = kwargs.get("num_groups", kwargs.get("groups", args[1] if len(args) > 1 else 1))
    parts = mode.axes.space.split(mode.axes.axes_of(args[0])[1], int(groups)) if groups > 1 else None
    if parts is not None:
        mode.require(groups, parts[0], "is normalized in groups")


@handles("layer_norm rms_norm")
def _normalized(mode: SizeMode, args: Any, kwargs: dict[str, Any], result: Any) -> None:
    shape = kwargs.get("normalized_shape", args[1] if len(args) > 1 else ())
    for size, axis in zip(reversed(shape), reversed(mode.axes.axes_of(args[0])), strict=False):
        mode.require(size, axis, "is normalized")


@handles("scaled_dot_product_attention")
def _attended(mode: SizeMode, args: Any, kwargs: dict[str, Any], result: Any) -> None:
    if kwargs.get("scale") is None:
        query: Tensor = kwargs["query"] if "query" in kwargs else args[0]
        width = mode.axes.axes_of(query)[-1]
        mode.axes.space.freeze(width, "it sets the scale of scaled_dot_product_attention(), which is given none")


@handles("affine_grid_generator")
def _gridded(mode: SizeMode, args: Any, kwargs: dict[str, Any], result: Tensor) -> None:
    """A size ``[n, channels, h, w]`` is asked for, of which the channels are not used."""
    size = list(kwargs.get("size", args[1] if len(args) > 1 else ()))
    mode.require(size[0], mode.axes.axes_of(result)[0])
    mode.numbers(size[2:])


@handles("numpy __dlpack__")
def _left_torch(mode: SizeMode, args: Any, kwargs: dict[str, Any], result: Any) -> None:
    for axis in mode.axes.axes_of(args[0]):
        mode.axes.space.freeze(axis, "its values leave torch, as an array")
    mode.axes.freeze_positions(args[0], "positions along it leave torch, as an array")


@handles("histc")
def _counted(mode: SizeMode, args: Any, kwargs: dict[str, Any], result: Tensor) -> None:
    """A bin for each position along an axis, the last of which is one less than its size."""
    given = [kwargs.get(k, args[i] if len(args) > i else 0) for i, k in enumerate(("bins", "min", "max"), 1)]
    axis = mode.axes.axes_of(result)[0]
    mode.require(given[0], axis, "is counted in bins")
    mode.numbers(given[1:2])
    if isinstance(given[2], int):
        mode.ledger.require(expression(given[2]), Arithmetic("-", Count(axis), 1), "is counted up to")


@handles("narrow")
def _narrowed(mode: SizeMode, args: Any, kwargs: dict[str, Any], result: Tensor) -> None:
    dim, start, length = (
        kwargs.get(k, args[i] if len(args) > i else 0) for i, k in ((1, "dim"), (2, "start"), (3, "length"))
    )
    _between(mode, mode.axes.axes_of(args[0])[dim], start, None)
    mode.require(length, mode.axes.axes_of(result)[dim], "is narrowed")


@handles("select")
def _selected(mode: SizeMode, args: Any, kwargs: dict[str, Any], result: Any) -> None:
    index = kwargs.get("index", args[2] if len(args) > 2 else 0)
    _at(mode, mode.axes.axes_of(args[0])[_dim(args, kwargs, 1)], index)


@handles("__getitem__ __setitem__")
def _indexed(mode: SizeMode, args: Any, kwargs: dict[str, Any], result: Any) -> None:
    tensor, index = args[0], args[1]
    items = list(index) if isinstance(index, tuple) else [index]
    taken = sum(_width(item) for item in items)
    axes = list(mode.axes.axes_of(tensor))
    for item in items:
        if item is Ellipsis:
            del axes[: len(axes) - taken]
        elif isinstance(item, slice) and axes:
            axis = axes.pop(0)
            if item.step in (None, 1):
                _between(mode, axis, item.start, item.stop)
        elif isinstance(item, int) and not isinstance(item, bool) and axes:
            _at(mode, axes.pop(0), item)
        elif item is not None:
            if isinstance(item, Tensor) and item.dim() == 0 and axes:
                _at(mode, axes[0], item)
            del axes[: _width(item)]
            if isinstance(item, list | tuple):
                mode.numbers(item)
        taken -= _width(item)


def _width(item: Any) -> int:
    """How many dimensions an index item takes up."""
    if item is None or item is Ellipsis or isinstance(item, bool):
        return 0
    return item.dim() if isinstance(item, Tensor) and item.dtype is torch.bool else 1


def _at(mode: SizeMode, axis: Axis, index: Any) -> None:
    """One position: as many indices as before must stay in front of it (or behind it, counted from the end)."""
    size = axis.size
    _fixed(mode, axis, index)
    if not isinstance(index, int) or not -size <= index < size:
        return
    before, _, after = mode.axes.space.cut(axis, [int(index) % size, 1, size - int(index) % size - 1])
    if index >= 0:
        mode.require(index, before, "is indexed")
    else:
        _require_negative(mode, index + 1, after)


def _between(mode: SizeMode, axis: Axis, start: Any, stop: Any) -> None:
    """A slice: each boundary inside the axis must stay at the end of what lay in front of it."""
    for bound in (start, stop):
        _fixed(mode, axis, bound)
        if isinstance(bound, int) and bound and -axis.size < bound < axis.size:
            before, after = mode.axes.space.cut(axis, [int(bound) % axis.size, axis.size - int(bound) % axis.size])
            if bound > 0:
                mode.require(bound, before, "is sliced")
            else:
                _require_negative(mode, bound, after)


def _fixed(mode: SizeMode, axis: Axis, position: Any) -> None:
    """A position that a tensor gives is a number of which nobody knows what it follows."""
    if isinstance(position, Tensor):
        mode.axes.space.freeze(axis, "is indexed at a position that a tensor gives")


def _require_negative(mode: SizeMode, value: Any, axis: Axis) -> None:
    expr: Expression = expression(-value)
    mode.ledger.require(expr, Count(axis), "is sliced from the end")
