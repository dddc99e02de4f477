"""Make a small copy of a model: parameters sliced, integers set. The model that is given stays untouched."""

from __future__ import annotations

import copy
import copyreg
from collections import OrderedDict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from prunus.errors import InputError, PlanError, suggest
from prunus.settings import PER_LAYER, is_record, set_of_layer, setting, setting_at
from prunus.sharing import overlapping, placed
from prunus.skip import Returns, Skip
from prunus.state import ORDINARY, PLAIN

Kept = Mapping[str, Mapping[int, tuple[int, ...]]]
"""Tensor name -> dimension -> the indices kept, ascending. Dimensions that are not cut are absent."""

_DICTS = {dict, OrderedDict}
_WAYS = "__deepcopy__ __reduce__ __reduce_ex__ __getstate__ __getnewargs__ __getnewargs_ex__ __new__".split()
_LARGE = 1 << 20  # values, of which a few megabytes stay in the processor's cache
_DEEP = 500  # no tree of modules is: deeper ones go in circles


@dataclass(frozen=True)
class AttributeChange:
    """One integer of one module that follows a size: ``model.<module>.<name>[path] = new``.

    ``path`` leads into tuples, lists, dicts and records (``normalized_shape[0]`` is ``(0,)``, ``config.hidden_size`` is
    ``("hidden_size",)``) and is empty for a plain integer.
    """

    module: str
    name: str
    path: tuple[int | str, ...]
    old: int
    new: int

    def __str__(self) -> str:
        place = ".".join(part for part in (self.module, self.name) if part)
        return f"{place}{''.join(f'[{p!r}]' for p in self.path)}: {self.old} -> {self.new}"


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every tensor the model holds, by qualified name: parameters, buffers, and plain tensor attributes.

    A tensor with two names (tied weights) is listed under both.

    Raises:
        InputError: a module holds itself, as where a child has its parent as an attribute.
    """
    found: dict[str, Tensor] = {}
    stack = [("", model)]
    while stack:
        prefix, module = stack.pop()
        fields = module.__dict__
        for store in (fields["_parameters"], fields["_buffers"]):
            for name, tensor in store.items():
                if tensor is not None:
                    found[prefix + name] = tensor
        if not ORDINARY.issuperset(map(type, fields.values())):
            found.update((prefix + name, value) for name, value in fields.items() if isinstance(value, Tensor))
        if fields["_modules"]:
            if prefix.count(".") > _DEEP:
                circle = ".".join(prefix.split(".")[:4])
                raise InputError(
                    f"{type(model).__name__} holds itself, by {circle}...: a module that needs its parent must keep it "
                    "where torch does not register it, as in a list."
                )
            inside = reversed(fields["_modules"].items())
            stack += [(f"{prefix}{name}.", child) for name, child in inside if child is not None]
    return found


def copy_model(model: nn.Module, replace: Mapping[int, Any]) -> nn.Module:
    """Deep-copy ``model``, with the tensor or module of each ``id`` in ``replace`` standing in for the original.

    Hooks, modes, tied weights and parameter names come along; no large tensor is copied on the way.
    """
    memo: dict[int, Any] = dict(replace)
    plan = model.__dict__.get("prunus_plan")
    if plan is not None:  # immutable: share it
        memo[id(plan)] = plan
    try:
        return _copied(model, memo)  # type: ignore[no-any-return]
    except (TypeError, RuntimeError, NotImplementedError) as error:
        raise InputError(
            f"{type(model).__name__} can't be deep-copied ({error}). prunus never changes the model it is given, so it "
            "must be able to copy it: remove locks, files, streams and non-leaf tensors from the modules' attributes."
        ) from error


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    """As ``copy.deepcopy(value, memo)``, which takes several times as long for modules and their dicts."""
    if id(value) in memo:
        return memo[id(value)]
    kind: Any = type(value)
    if kind in _DICTS or (kind is set and not value):
        memo[id(value)] = result = kind()
        if value:
            _fill(result, value, memo)
    elif isinstance(value, nn.Module) and _is_its_state(kind):
        memo[id(value)] = result = object.__new__(kind)
        state: dict[str, Any] = {}
        _fill(state, value.__getstate__(), memo)
        result.__setstate__(state)
    else:
        return copy.deepcopy(value, memo)
    return result


def _fill(new: dict[Any, Any], old: Mapping[Any, Any], memo: dict[int, Any]) -> None:
    for key, value in old.items():
        if type(key) not in PLAIN:
            key = _copied(key, memo)
        kind = type(value)
        if kind in PLAIN or (kind is tuple and PLAIN.issuperset(map(type, value))):
            new[key] = value  # nothing in it can change
        else:
            new[key] = _copied(value, memo)


@cache
def _is_its_state(kind: type[nn.Module]) -> bool:
    """Whether a module of this class is copied by copying its state: the class has no other way of its own."""
    own = any(getattr(kind, name, None) is not getattr(nn.Module, name, None) for name in _WAYS)
    return not own and kind not in copyreg.dispatch_table and not copyreg._slotnames(kind)  # type: ignore[attr-defined]


def like(tensor: Tensor, data: Tensor) -> Tensor:
    """``data`` dressed as ``tensor``: a Parameter stays one, with its ``requires_grad`` and its own attributes."""
    if isinstance(tensor, nn.Parameter):
        new: Tensor = nn.Parameter(data, requires_grad=tensor.requires_grad)
        new.__dict__.update(tensor.__dict__)
        return new
    return data


def slice_tensor(
    tensor: Tensor, kept: Mapping[int, tuple[int, ...]], known: dict[tuple[int, torch.device], Tensor] | None = None
) -> Tensor:
    """A contiguous copy of ``tensor`` with only the kept indices along each given dimension.

    ``known`` remembers the indices as tensors, where many tensors are cut by the same ones.
    """
    data, known = tensor.detach(), {} if known is None else known
    if data.is_meta:
        shape = [len(kept[d]) if d in kept else size for d, size in enumerate(data.shape)]
        return torch.empty(shape, dtype=data.dtype, device=data.device)  # new_empty() takes ten times as long
    cuts = []
    for dim, indices in kept.items():
        key = id(indices), data.device
        if key not in known:
            known[key] = torch.tensor(indices, dtype=torch.long, device=data.device)
        cuts.append((dim, known[key]))
    data = _selected(data, cuts)
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous():
        return data.clone(memory_format=torch.channels_last)
    return data if kept else data.clone()


def _selected(data: Tensor, cuts: Sequence[tuple[int, Tensor]]) -> Tensor:
    """``data`` at the indices along each dimension; a large one piece by piece, without a large tensor in between."""
    if len(cuts) < 2 or data.numel() < _LARGE or data.device.type != "cpu":
        for dim, indices in cuts:
            data = data.index_select(dim, indices)
        return data
    (first, rows), *rest = cuts
    sizes = {dim: len(indices) for dim, indices in cuts}
    result = torch.empty([sizes.get(dim, n) for dim, n in enumerate(data.shape)], dtype=data.dtype, device="cpu")
    count = max(1, _LARGE * data.shape[first] // data.numel())
    for number, some in enumerate(rows.split(count)):
        piece = _selected(data.index_select(first, some), rest)
        result.narrow(first, number * count, len(some)).copy_(piece)
    return result


def apply(
    model: nn.Module, kept: Kept, attributes: tuple[AttributeChange, ...], dropped: Mapping[str, Returns] | None = None
) -> nn.Module:
    """Return a copy of ``model`` with every named tensor sliced to ``kept`` and every attribute set.

    In the place of each module in ``dropped`` is a :class:`Skip`; its tensors are not copied.

    Raises:
        PlanError: a tensor, a module or an attribute that is named is absent or not what the plan was made for.
    """
    dropped = dropped or {}
    skips = {id(module): Skip(module, dropped[path]) for path, module in _blocks(model, dropped)}
    tensors = named_tensors(model)
    if dropped:
        tensors = {name: t for name, t in tensors.items() if not lies_in(name, dropped)}
    for name in kept:
        if name not in tensors:
            raise PlanError(f"the plan cuts {name!r}, which this model doesn't have.{suggest(name, tensors)}")
    small: dict[int, tuple[Tensor, Mapping[int, tuple[int, ...]]]] = {}
    for name, tensor in tensors.items():
        cut = kept.get(name, {})
        if id(tensor) in small and small[id(tensor)][1] != cut:
            raise PlanError(f"{name!r} is tied to another tensor, but the plan cuts the two differently.")
        small[id(tensor)] = (tensor, cut)
    known: dict[tuple[int, torch.device], Tensor] = {}
    replace = {key: like(tensor, slice_tensor(tensor, cut, known)) for key, (tensor, cut) in small.items()}
    for name, whole in overlapping(tensors).items():
        data = placed(name, whole, tensors, kept, replace[id(tensors[whole])].detach())
        replace[id(tensors[name])] = like(tensors[name], data)
    result = copy_model(model, {**replace, **skips})
    set_attributes(result, attributes)
    return result


def set_attributes(model: nn.Module, changes: Iterable[AttributeChange]) -> None:
    """Set integers in place, checking that they hold the old values.

    Raises:
        PlanError: an attribute is absent, or holds another value.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    for change in sorted(changes, key=lambda each: PER_LAYER in each.path):  # what is said of all layers first
        _set_attribute(modules, change)


def lies_in(name: str, blocks: Container[str]) -> bool:
    """Whether the tensor or module of that name lies in one of the named modules, or is one of them."""
    parts = name.split(".")
    return any(".".join(parts[:i]) in blocks for i in range(1, len(parts) + 1))


def _blocks(model: nn.Module, names: Iterable[str]) -> Iterator[tuple[str, nn.Module]]:
    known = dict(model.named_modules(remove_duplicate=False))
    for name in names:
        if name not in known or not name:
            raise PlanError(f"the plan drops {name!r}, which this model doesn't have.{suggest(name, known)}")
        yield name, known[name]


def _set_attribute(modules: Mapping[str, nn.Module], change: AttributeChange) -> None:
    try:
        module = modules[change.module]
        value, old = setting(module, change.name), setting_at(module, change.name, change.path)
    except (AttributeError, KeyError, IndexError, TypeError) as error:
        raise PlanError(f"the plan sets {change}, but this model has no such attribute.") from error
    if old not in (change.old, change.new):
        raise PlanError(f"the plan sets {change}, but this model has {old!r} there: it isn't the model of the plan.")
    module.__dict__[change.name] = _replaced(value, change.path, change.new)


def _replaced(value: Any, path: tuple[int | str, ...], new: int) -> Any:
    if not path:
        return new
    key, rest = path[0], path[1:]
    if is_record(value) and key == PER_LAYER:
        set_of_layer(value, int(rest[0]), str(rest[1]), new)
        return value
    if is_record(value):  # many modules may hold this very object; it is the copy's own
        vars(value)[str(key)] = _replaced(setting(value, str(key)), rest, new)
        return value
    if isinstance(value, tuple):
        items = [_replaced(item, rest, new) if i == key else item for i, item in enumerate(value)]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    changed = copy.copy(value)
    changed[key] = _replaced(value[key], rest, new)
    return changed
