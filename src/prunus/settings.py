"""Where a model keeps its numbers: attributes of modules and of their classes, and records such as a ``config``."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from argparse import Namespace
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from prunus.state import ORDINARY

_SETTINGS = (int, float, complex, str, bytes, type, FunctionType, Enum, Path, torch.dtype, torch.device)
_LIBRARIES = {*sys.stdlib_module_names, "torch", "numpy"}
PER_LAYER = "per_layer_config"
"""How transformers' configs name what they say of single layers: ``config.per_layer_config[3].head_dim``."""


def is_record(value: Any) -> bool:
    """Whether ``value`` is an object that settings are kept in, such as a model's ``config``.

    That is a dataclass instance, a namespace, what can be written ``to_dict``, as the configurations of transformers
    and diffusers can, or an object of the user's own class that holds nothing but settings: numbers, text, types, and
    collections and records of them. They are told by what they offer, so that no library need be imported.
    """
    return type(value) not in ORDINARY and _is_record(value, ())


def setting(holder: Any, name: str) -> Any:
    """The value of a module's or a record's attribute, its own or its class's, without any ``__getattr__``.

    Raises:
        AttributeError: it has none.
    """
    return vars(holder)[name] if name in vars(holder) else inspect.getattr_static(type(holder), name)


def setting_at(holder: Any, name: str, path: Sequence[int | str]) -> Any:
    """What is found along ``path`` in a module's or a record's attribute; :class:`~prunus.surgery.AttributeChange` has
    such paths.

    Raises:
        AttributeError, KeyError, IndexError, TypeError: there is nothing.
    """
    value = setting(holder, name)
    steps = iter(path)
    for key in steps:
        if key == PER_LAYER:
            layer, name = next(steps), str(next(steps))
            own = _overrides(value).get(layer, {})
            value = own[name] if name in own else setting(value, name)
        else:
            value = setting(value, str(key)) if is_record(value) else value[key]
    return value


def of_layers(record: Any) -> Any:
    """What a config of transformers says of single layers, or None if it says nothing: an object whose
    ``per_layer_overrides`` are a dict of settings for each such layer.
    """
    found = vars(record).get("_heterogeneity_spec")
    return found if isinstance(getattr(found, "per_layer_overrides", None), dict) else None


def set_of_layer(record: Any, layer: int, name: str, value: Any) -> None:
    """Make the config ``record`` say ``value`` of one layer, if it doesn't say that of all layers."""
    overrides = _overrides(record)
    setattr(record, PER_LAYER, {**overrides, layer: {**overrides.get(layer, {}), name: value}})


def _overrides(record: Any) -> dict[Any, dict[str, Any]]:
    spec = of_layers(record)
    return dict(spec.per_layer_overrides) if spec is not None else {}


def class_integers(holder: Any) -> list[str]:
    """The names of the integers that a module or a record takes from its class (``heads = 4`` in the class body)."""
    kinds = [kind for kind in type(holder).__mro__ if kind.__module__.partition(".")[0] not in _LIBRARIES]
    names = dict.fromkeys(name for kind in kinds for name, value in vars(kind).items() if type(value) is int)
    public = [name for name in names if not name.startswith("_") and name not in vars(holder)]
    return [name for name in public if type(setting(holder, name)) is int]


def _is_record(value: Any, within: tuple[int, ...]) -> bool:
    kind = type(value)
    if isinstance(value, type | nn.Module | Tensor) or not hasattr(value, "__dict__") or id(value) in within:
        return False
    if callable(getattr(value, "to_dict", None)) or dataclasses.is_dataclass(value):
        return True
    if isinstance(value, SimpleNamespace | Namespace):
        return True
    if kind.__module__.partition(".")[0] in _LIBRARIES or _checks_what_is_set(kind):
        return False
    return not callable(value) and all(_is_setting(item, (*within, id(value))) for item in vars(value).values())


def _checks_what_is_set(kind: type) -> bool:
    return any("__setattr__" in vars(base) for base in kind.__mro__[:-1])


def _is_setting(value: Any, within: tuple[int, ...]) -> bool:
    if isinstance(value, list | tuple | set | frozenset):
        return all(_is_setting(item, within) for item in value)
    if isinstance(value, dict):
        return all(_is_setting(item, within) for item in value.values())
    return value is None or isinstance(value, _SETTINGS) or _is_record(value, within)
