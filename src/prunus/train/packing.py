"""Nested states as JSON beside tensors: nothing in them can run when they are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from prunus.errors import SaveError

_PLAIN = (bool, int, float, str, type(None))


def pack(value: Any, tensors: dict[str, Tensor], path: str = "") -> Any:
    """``value`` as JSON values, its tensors moved to ``tensors`` under their paths. Types and key types come back.

    Raises:
        SaveError: it holds an object that is neither; its place is named.
    """
    if isinstance(value, Tensor):
        tensors[path] = value
        return {"tensor": path}
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Mapping):
        for key in value:
            if type(key) not in (int, str):
                raise SaveError(f"{path} has a key {key!r}: a checkpoint holds keys that are strings or integers.")
        return {"dict": [[key, pack(each, tensors, f"{path}/{key}")] for key, each in value.items()]}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [pack(each, tensors, f"{path}/{i}") for i, each in enumerate(value)]}
    raise SaveError(
        f"{path} is of type {type(value).__name__}, which a checkpoint doesn't hold (no pickle is written): let its "
        "state_dict() give dicts, lists, numbers, strings and tensors."
    )


def unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What ``pack`` packed.

    Raises:
        SaveError: it isn't of that form, or a tensor is missing.
    """
    if type(value) in _PLAIN:
        return value
    if isinstance(value, dict) and len(value) == 1:
        kind, inside = next(iter(value.items()))
        if kind == "tensor" and inside in tensors:
            return tensors[inside]
        if kind == "dict":
            return {key: unpack(each, tensors) for key, each in inside}
        if kind in ("list", "tuple"):
            items = [unpack(each, tensors) for each in inside]
            return items if kind == "list" else tuple(items)
    raise SaveError(f"the checkpoint is malformed at {str(value)[:80]}.")
