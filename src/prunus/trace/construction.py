"""What a model's constructor makes of its config: which size is which field, learned by building it once more.

A model that is built as ``Model(config)``, as those of transformers are, can be built small by its own class, if a
config fits the small model. The constructor runs on the meta device with every integer of the config a
:class:`~prunus.sizes.Size`; each tensor and each attribute it makes then says which fields its sizes come from.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from prunus.axes import Atom, Space, product
from prunus.errors import InputError
from prunus.settings import PER_LAYER, is_record, setting_at
from prunus.sizes import (
    Arithmetic,
    Attribute,
    Count,
    Equation,
    Expression,
    Ledger,
    Size,
    Sizes,
    call_site,
    expression,
    solve,
)
from prunus.sizes.expression import leaves
from prunus.surgery import named_tensors
from prunus.trace.attributes import Tracer
from prunus.trace.functions import sizes_given
from prunus.trace.graph import Graph

CONFIG = "config"
_FACTORIES = {*"empty zeros ones full rand randn".split()}
_NEW = {*"new_empty new_zeros new_ones new_full".split()}
_POINTWISE = {*"mul __mul__ __rmul__ add __add__ __radd__ sub div __truediv__ neg log exp clone to detach".split()}
# What is read while weights are drawn shapes nothing.
_DRAWING = {*"_init_weights init_weights initialize_weights post_init reset_parameters _reset_parameters".split()}
_META_CANT = (RuntimeError, TypeError, ValueError)  # what reading a value of a meta tensor raises


@dataclass(frozen=True)
class Construction:
    """What a constructor says of its model.

    Attributes:
        equations: sizes of tensors and attributes, as expressions over the fields of the config.
        local: those of tensors, by name and dimension, and of attributes, by their place.
        products: what is known of the quotients in them.
        values: the present values of what is unknown in them.
        refusal: why the class doesn't build this model from its config, or None.
    """

    equations: Sequence[Equation] = ()
    values: Mapping[Attribute, int] = field(default_factory=dict)
    refusal: str | None = None
    local: Mapping[str | Attribute, Equation] = field(default_factory=dict)
    products: Mapping[Attribute, Equation] = field(default_factory=dict)

    def within(self, path: str) -> list[Equation]:
        """The equations about the tensors and the attributes inside the module called ``path``."""
        names = {place: place if isinstance(place, str) else f"{place.module}." for place in self.local}
        return [e for place, e in self.local.items() if names[place].startswith(f"{path}.")]


def with_products(equations: Sequence[Equation], products: Mapping[Attribute, Equation]) -> list[Equation]:
    """``equations`` with the products of the quotients in them: a default that nobody takes asks for nothing."""
    result, waiting = list(equations), dict(products)
    for equation in result:  # it grows
        for unknown in [*leaves(equation.left), *leaves(equation.right)]:
            if isinstance(unknown, Attribute) and unknown in waiting:
                result.append(waiting.pop(unknown))
    return result


def has_config(model: nn.Module) -> bool:
    """Whether the model holds a record called ``config``."""
    return is_record(model.__dict__.get(CONFIG))


def construction(graph: Graph) -> Construction:
    """Build the model of ``graph`` once more from its config, and learn what each size comes from."""
    if not has_config(graph.model):
        return Construction(refusal=f"{type(graph.model).__name__} holds no config")
    ledger = _Ledger(graph.space)
    holder = SimpleNamespace(**{CONFIG: copy.deepcopy(graph.model.__dict__[CONFIG])})
    Tracer(ledger).enter(holder, CONFIG, Attribute("", CONFIG))
    _keep_factors(vars(holder)[CONFIG], set())
    made = _Made(ledger)
    try:
        with _ratios_kept(graph.model):
            built = _build(graph.model, vars(holder)[CONFIG], made)
    except Exception as error:  # noqa: BLE001 - a constructor of the user's may want other arguments and raise anything
        return Construction(refusal=f"{type(graph.model).__name__}(config) raised {type(error).__name__}: {error}")
    refusal = _difference(built, graph.skeleton)
    if refusal is not None:
        return Construction(refusal=f"{type(graph.model).__name__}(config) builds another model: {refusal[1]}")
    local: dict[str | Attribute, Equation] = {
        **dict(_of_attributes(graph, built)),
        **dict(_of_tensors(graph, built, made)),
    }
    asked = _of_layers([*ledger.equations.values(), *local.values()])
    equations = with_products(asked, ledger.products)
    ledger.close()
    return Construction(equations, {**graph.sizes.values, **ledger.quotients}, None, local, ledger.products)


def tied(graph: Graph, made: Construction) -> Graph:
    """``graph`` with its counts tied so that one config fits; ``graph`` itself stays as it is.

    Raises:
        InputError: the model's class doesn't build it from a config.
    """
    if made.refusal is not None:
        raise InputError(
            f"uniform=True needs a model that its own class builds from its config, as {type(graph.model).__name__}"
            f"(model.config): {made.refusal}."
        )
    space = graph.space.copy()
    kept = set(graph.skeleton.state_dict())
    for name in graph.tensors.keys() - kept:
        for axis in graph.tensors[name]:
            space.freeze(axis, f"{name} isn't saved: the constructor computes it from the config")
    equations = [*graph.equations, *made.equations]
    held = [axis for axes in graph.tensors.values() for axis in axes]
    sizes = solve(space, equations, made.values, held)
    while _hold_all_but_one(space, sizes):
        sizes = solve(space, equations, made.values, held)
    return replace(graph, space=space, equations=equations, sizes=sizes, pairs={}, failures=set())


def _hold_all_but_one(space: Space, sizes: Sizes) -> bool:
    """Where a count follows the product of several that could be chosen, freeze all but one of them.

    A width of ``kv_heads * repeats * head_dim`` would lose three quarters where each of its factors loses half.
    """
    for atom, expr in sizes.followers.items():
        found = dict.fromkeys(a for a in _sources(expr, sizes) if space.reason(a) is None)
        if len(found) > 1:
            others = set(list(found)[1:])
            alike = [a for a, e in sizes.followers.items() if others.issuperset(_sources(e, sizes))]
            for other in (*others, *alike):
                space.freeze(other, f"an axis of {atom.size} is made of it and others; of those one is cut")
            return True
    return False


def _sources(expr: Expression, sizes: Sizes) -> Iterator[Atom]:
    for atom in leaves(expr):
        if isinstance(atom, Atom):
            if atom in sizes.followers:
                yield from _sources(sizes.followers[atom], sizes)
            else:
                yield atom


def misfit(small: nn.Module) -> tuple[str, str] | None:
    """Where what the class builds from ``small.config`` differs from ``small``: the tensor or module, and how.

    The config goes through its own dict form where it has one, as it does when it is saved.
    """
    try:
        built = _build(small, _written(small.__dict__[CONFIG]))
    except Exception as error:  # noqa: BLE001 - a config that its own class refuses doesn't fit
        return "", f"{type(small).__name__}(config) raised {type(error).__name__}: {error}"
    return _difference(built, small)


# -- building ----------------------------------------------------------------------------------------------------


def _build(model: nn.Module, config: Any, mode: TorchFunctionMode | None = None) -> nn.Module:
    """``type(model)(config)`` on the meta device, on the CPU where it needs values; RNG state stays as it was."""
    for device in ("meta", "cpu"):
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=[]))
            stack.enter_context(torch.device(device))
            if mode is not None:
                stack.enter_context(mode)
            try:
                built: nn.Module = type(model)(config)
            except _META_CANT:
                if device == "cpu":
                    raise
                continue
            return built
    raise AssertionError("the CPU returns or raises")


def _written(config: Any) -> Any:
    if callable(getattr(config, "to_dict", None)) and callable(getattr(type(config), "from_dict", None)):
        return type(config).from_dict(config.to_dict())
    return copy.deepcopy(config)


class _Ledger(Ledger):
    """Notes numbers read from a config, unless they only draw weights; knows every exact quotient by a product.

    ``head_dim = width // heads`` becomes an unknown with ``width == head_dim * heads``, from which more follows.
    """

    def __init__(self, space: Space) -> None:
        super().__init__(space)
        self.quotients: dict[Attribute, int] = {}
        self.products: dict[Attribute, Equation] = {}

    def number(self, expr: Expression, value: int) -> None:
        frame = sys._getframe(1)
        while frame is not None:
            if frame.f_code.co_name in _DRAWING:
                return
            frame = frame.f_back  # type: ignore[assignment]
        super().number(expr, value)

    def quotient(self, top: int, bottom: int) -> int:
        if int(top) % int(bottom):
            return super().quotient(top, bottom)
        unknown = Attribute("", "", (f"{expression(top)} // {expression(bottom)}",))
        if unknown not in self.quotients:
            self.quotients[unknown] = int(top) // int(bottom)
            known = Arithmetic("*", unknown, expression(bottom))
            reason = f"{expression(top)} is divided by {expression(bottom)} at {call_site()}"
            self.products[unknown] = Equation(expression(top), known, reason)
        return Size.of(self.quotients[unknown], unknown, self)

    def ratio(self, top: int, bottom: int) -> float:
        return super().ratio(top, bottom) if int(top) % int(bottom) else _Ratio.of(self.quotient(top, bottom))

    def scaled(self, size: Size, factor: float) -> float:
        return _Ratio.of(size * int(factor)) if factor.is_integer() else super().scaled(size, factor)


class _Ratio(float):
    """A whole number made of sizes, which ``int()`` turns back into a size; any other use of it is one as a number."""

    size: int

    @classmethod
    def of(cls, size: int) -> _Ratio:
        ratio = cls(int(size))
        ratio.size = size
        return ratio

    def _number(name: str) -> Any:  # type: ignore[misc]
        plain = getattr(float, name)

        def operation(self: _Ratio, *others: Any) -> Any:
            if isinstance(self.size, Size):
                self.size.ledger.number(self.size.expr, int(self.size))
            return plain(self, *others)

        return operation

    __add__, __radd__, __sub__, __rsub__ = map(_number, ("__add__", "__radd__", "__sub__", "__rsub__"))
    __mul__, __rmul__, __truediv__ = map(_number, ("__mul__", "__rmul__", "__truediv__"))
    __rtruediv__, __pow__, __rpow__ = map(_number, ("__rtruediv__", "__pow__", "__rpow__"))


class _Factor(float):
    """A whole number that a config has as a float (``mlp_ratio = 4.0``): its product with a size remembers the size."""

    def __mul__(self, other: Any) -> Any:
        return other * self if isinstance(other, Size) else float.__mul__(self, other)


def _keep_factors(record: Any, seen: set[int]) -> None:
    """Make every whole float in a record, and in those that it holds, a :class:`_Factor`."""
    if id(record) in seen:
        return
    seen.add(id(record))
    for name, value in vars(record).items():
        if is_record(value):
            _keep_factors(value, seen)
        else:
            vars(record)[name] = _as_factors(value)


def _as_factors(value: Any) -> Any:
    if type(value) in (list, tuple):
        return type(value)(map(_as_factors, value))
    return _Factor(value) if type(value) is float and value.is_integer() else value


class _IntType(type):
    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, int)

    def __call__(cls, *args: Any) -> Any:
        value = args[0] if len(args) == 1 else None
        return value.size if isinstance(value, _Ratio) else value if isinstance(value, Size) else int(*args)


class _Int(metaclass=_IntType):
    """``int`` as the modules that define a model see it meanwhile: it would forget where a size comes from."""


@contextmanager
def _ratios_kept(model: nn.Module) -> Iterator[None]:
    """Within, ``int(width / heads)`` in the code of the model's classes gives a :class:`Size`."""
    files = {sys.modules.get(c.__module__) for m in model.modules() for c in type(m).__mro__}
    spaces = [vars(f) for f in files if f is not None and not f.__name__.startswith(("torch.", "builtins"))]
    spaces = [space for space in spaces if "int" not in space]
    for space in spaces:
        space["int"] = _Int
    try:
        yield
    finally:
        for space in spaces:
            del space["int"]


class _Made(TorchFunctionMode):
    """Remembers the sizes that each new tensor was given."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger
        self._sizes: dict[int, tuple[Tensor, list[Any]]] = {}  # by storage, which a Parameter shares

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name in _FACTORIES or name in _NEW:
            sizes = sizes_given(args[1:] if name in _NEW else args, kwargs, "size")
            self._note(result, sizes)
        elif name in _POINTWISE and isinstance(result, Tensor):
            like = next((t for t in args if isinstance(t, Tensor) and t.shape == result.shape), result)
            self._note(result, self.sizes_of(like))
        elif not name.startswith("__"):
            for value in (*args, *kwargs.values()):
                for item in value if isinstance(value, list | tuple) else (value,):
                    if isinstance(item, Size):
                        self.ledger.number(item.expr, int(item))
        return result

    def _note(self, tensor: Tensor, sizes: list[Any]) -> None:
        self._sizes[tensor.untyped_storage()._cdata] = (tensor, sizes)

    def sizes_of(self, tensor: Tensor) -> list[int]:
        """The sizes ``tensor`` was made with, those that are known with their provenance."""
        found = self._sizes.get(tensor.untyped_storage()._cdata)
        same = found is not None and list(found[1]) == list(tensor.shape)
        return list(found[1]) if found is not None and same else list(tensor.shape)


def _of_layers(equations: Sequence[Equation]) -> list[Equation]:
    """``equations`` with what follows from fields of the config that each layer has for itself.

    Layers that are compared must stay alike: a config that is asked for a kind of layer refuses if they aren't. And a
    field that is read for all layers at once can't be another in one of them.
    """
    result: list[Equation] = []
    read: dict[Atom | Attribute, None] = {}
    for e in equations:
        compared = _is_of_layer(e.left) and _is_of_layer(e.right)
        result.append(replace(e, soft=False) if compared else e)
        read |= dict.fromkeys(x for side in (e.left, e.right) for x in leaves(side) if not compared)
    for place in read:
        if isinstance(place, Attribute) and _is_of_layer(place):
            whole = replace(place, path=(*place.path[: place.path.index(PER_LAYER)], place.path[-1]))
            if whole in read:
                result.append(Equation(place, whole, f"{whole} is read for all layers"))
    return result


def _is_of_layer(expr: Expression) -> bool:
    return isinstance(expr, Attribute) and PER_LAYER in expr.path


# -- what it says ------------------------------------------------------------------------------------------------


def _of_tensors(graph: Graph, built: nn.Module, made: _Made) -> Iterator[tuple[str, Equation]]:
    for name, tensor in named_tensors(built).items():
        reason = f"{name} is built so by {type(built).__name__} from its config"
        for dim, (size, axis) in enumerate(zip(made.sizes_of(tensor), graph.tensors[name], strict=True)):
            yield f"{name}[{dim}]", Equation(expression(size), Count(product([axis])), reason)


def _of_attributes(graph: Graph, built: nn.Module) -> Iterator[tuple[Attribute, Equation]]:
    modules = dict(built.named_modules())
    for place in graph.sizes.values:
        try:
            value: Any = setting_at(modules[place.module], place.name, place.path)
        except (AttributeError, KeyError, IndexError, TypeError):
            continue  # set after the constructor, by whoever uses the model
        if isinstance(value, int) and expression(value) != place:
            yield (
                place,
                Equation(expression(value), place, f"{place} is set so by {type(built).__name__} from its config"),
            )


def _difference(built: nn.Module, model: nn.Module) -> tuple[str, str] | None:
    """The first tensor shape, or plain value of a module, in which the two differ: where, and how."""
    found = {name: tuple(t.shape) for name, t in named_tensors(built).items()}
    for name, tensor in named_tensors(model).items():
        if found.get(name) != tuple(tensor.shape):
            made = "has none" if name not in found else f"has {list(found[name])}"
            return name, f"{name!r} of shape {list(tensor.shape)}, where a model built from the config {made}"
        del found[name]
    if found:
        return "", f"a model built from the config has {next(iter(found))!r} too"
    theirs = dict(built.named_modules())
    for path, module in model.named_modules():
        others = vars(theirs[path]) if path in theirs else {}
        for name, value in vars(module).items():
            other = others.get(name, value)
            if value is other or name == "training" or name.startswith("_") or not (_plain(value) and _plain(other)):
                continue
            if _listed(other) != _listed(value):
                place = f"{path}.{name}" if path else name
                return path, f"{place} = {value!r}, where a model built from the config has {other!r}"
    return None


def _listed(value: Any) -> Any:
    """Tuples as lists, which they become in JSON."""
    return [_listed(item) for item in value] if isinstance(value, list | tuple) else value


def _plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    return value is None or isinstance(value, int | float | str)
