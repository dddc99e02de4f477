"""What ``forward`` may change of a model itself, put back as it was: buffers, attributes, what its containers hold."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from operator import is_
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

PLAIN = {bool, int, float, str, type(None)}
"""What can't change."""

ORDINARY = {*PLAIN, tuple, list, dict, OrderedDict, set}
"""What nearly all attributes of modules are: no tensor, no record. To ask isinstance() of each is slow."""

_STORES = {"_parameters", "_buffers"}
_CONTAINERS = (dict, list, set, deque)
_USUAL = {dict, OrderedDict, list}
_NOT_ITS_OWN = {"torch", "builtins", __name__.partition(".")[0]}


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Afterwards every attribute, buffer and parameter of the modules is what it was: what ``forward`` cached is gone.

    The values of buffers and parameters are not looked at. Dicts, lists and sets stay the objects that they were, with
    what they held: the handle of a hook still removes it. So do objects of classes from the model's own package (a
    config, a counter). Within, lists and dicts hold copies of the tensors that are none of the modules' own.
    """
    modules = list(model.modules())
    stores = [store for m in modules for store in (m._parameters, m._buffers, m.__dict__)]
    shared = {_storage(t) for store in stores for t in store.values() if _is_tensor(t)}
    with _put_back(stores, _held(modules), _Copies(shared)):
        yield


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Like :func:`restored`; within, the model works on copies of its buffers and of the tensors in its attributes.

    What ``forward`` writes into them is gone afterwards, and outputs that are such tensors keep their values.
    Parameters stay the model's own, and so does what shares memory with them.
    """
    modules = list(model.modules())
    stores = [store for m in modules for store in (m._buffers, m.__dict__)]
    own = _Copies({_storage(parameter) for parameter in model.parameters()})
    with _put_back(stores, _held(modules), own):
        for store in stores:
            store.update({name: own(value) for name, value in store.items() if _is_tensor(value)})
        yield


@contextmanager
def _put_back(stores: list[dict[str, Any]], held: list[Any], own: _Copies) -> Iterator[None]:
    """Afterwards ``stores`` and containers hold what they held; meanwhile, the containers hold copies of tensors."""
    saved = [dict(store) for store in stores]
    empty = [value for value in held if isinstance(value, _CONTAINERS) and not value]  # nearly all: of hooks
    held = [value for value in held if not isinstance(value, _CONTAINERS) or value]
    before = [_content(value) for value in held]
    for value in held:
        if isinstance(value, list):
            value[:] = map(own, value)
        elif isinstance(value, dict):
            tensors = {key: own(item) for key, item in value.items() if isinstance(item, Tensor)}
            if tensors:
                value.update(tensors)
    try:
        yield
    finally:
        for value in empty:
            if value:
                value.clear()
        for value, content in zip(held, before, strict=True):
            _refill(value, content)
        for store, values in zip(stores, saved, strict=True):
            store.clear()
            store.update(values)


class _Copies:
    """Gives one copy of each tensor; those in ``shared`` memory stay themselves."""

    def __init__(self, shared: set[Any]) -> None:
        self.shared = shared
        self.copies: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or _storage(value) in self.shared:
            return value
        if id(value) not in self.copies:
            self.copies[id(value)] = value, value.detach().clone()
        return self.copies[id(value)][1]


def _is_tensor(value: Any) -> TypeGuard[Tensor]:
    return type(value) not in ORDINARY and isinstance(value, Tensor)


def _storage(tensor: Tensor) -> Any:
    """What tells tensors that share memory; those without strides (sparse ones) share none."""
    return tensor.untyped_storage()._cdata if tensor.layout is torch.strided else id(tensor)


def _held(modules: Sequence[nn.Module]) -> list[Any]:
    """The containers in the modules' attributes, and the objects of the model's own package, each once."""
    packages = {kind.__module__.partition(".")[0] for kind in {*map(type, modules)}} - _NOT_ITS_OWN
    fields = [v for m in modules for k, v in m.__dict__.items() if type(v) not in PLAIN and k not in _STORES]
    found = [value for value in fields if type(value) in _USUAL and not value]  # nearly all, of hooks
    seen = {id(value) for value in found}
    stack = [value for value in fields if id(value) not in seen]
    while stack:
        value = stack.pop()
        if type(value) in PLAIN or id(value) in seen or isinstance(value, Tensor | nn.Module | type):
            continue
        seen.add(id(value))
        inside = _inside(value, packages)
        if inside is not None:
            stack += inside
            if not isinstance(value, tuple):
                found.append(value)
    return found


def _inside(value: Any, packages: set[str]) -> Iterable[Any] | None:
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, (*_CONTAINERS, tuple)):
        return value
    own = type(value).__module__.partition(".")[0] in packages and hasattr(value, "__dict__")
    return vars(value).values() if own else () if isinstance(value, torch.Generator) else None


def _content(value: Any) -> Any:
    """A copy of what is in it; of a dict of any class a plain one, for not every class can be copied."""
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, _CONTAINERS):
        return next(kind for kind in _CONTAINERS if isinstance(value, kind))(value)
    return dict(vars(value))


def _refill(value: Any, content: Any) -> None:
    """Put ``content`` back, where anything has changed: some containers refuse every change."""
    if isinstance(value, torch.Generator):
        value.set_state(content)
        return
    store = value if isinstance(value, _CONTAINERS) else vars(value)
    if _same(store, content):
        return
    store.clear()
    (store.extend if isinstance(store, list | deque) else store.update)(content)


def _same(store: Any, content: Any) -> bool:
    """Whether the two hold the same objects, in the same order."""
    if len(store) != len(content):
        return False
    alike = all(map(is_, store, content))
    return alike and (not isinstance(store, dict) or all(map(is_, store.values(), content.values())))
