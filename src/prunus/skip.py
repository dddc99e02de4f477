"""What stands in for a block that was removed: it returns its inputs in the form that the block returned them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

Returns = Mapping[str, Any]
"""What a block returns, as JSON values: ``{"input": [position or None, name or None]}``, ``{"value": a scalar}``, or
``{"tuple": [...]}`` and ``{"list": [...]}`` of such."""

SCALARS = (bool, int, float, str, type(None))


class Skip(nn.Module):
    """Returns its inputs as ``returns`` says. It has no parameters, does no arithmetic, and leaves nothing in ONNX.

    The block's own scalars (``attention_type`` and its like) stay readable, for parents that ask for them.
    """

    def __init__(self, block: nn.Module, returns: Returns) -> None:
        super().__init__()
        for name, value in vars(block).items():
            if not name.startswith("_") and type(value) in SCALARS:
                setattr(self, name, value)
        self._returns = returns

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return _build(self._returns, args, kwargs)

    def extra_repr(self) -> str:
        return "removed block"


def _build(returns: Returns, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    if "input" in returns:
        at, name = returns["input"]
        return args[at] if at is not None and at < len(args) else kwargs[name]
    if "value" in returns:
        return returns["value"]
    kind, items = next(iter(returns.items()))
    built = [_build(item, args, kwargs) for item in items]
    return tuple(built) if kind == "tuple" else built


def check_returns(value: Any) -> Returns:
    """``value`` if it has the form of :data:`Returns`.

    Raises:
        TypeError: it hasn't.
    """
    if not isinstance(value, dict) or len(value) != 1:
        raise TypeError("what a removed block returns must be an object with one entry")
    (kind, inner), *_ = value.items()
    if kind == "value" and isinstance(inner, SCALARS):
        return value
    if kind == "input" and isinstance(inner, list) and len(inner) == 2:
        at, name = inner
        if (
            (at is None or (type(at) is int and at >= 0))
            and (name is None or isinstance(name, str))
            and inner != [None] * 2
        ):
            return value
    if kind in ("tuple", "list") and isinstance(inner, list):
        for item in inner:
            check_returns(item)
        return value
    raise TypeError(f"a removed block can't return {str(value)[:60]}")


def inputs_of(returns: Returns) -> list[tuple[int | None, str | None]]:
    """The inputs that are returned, in order, each by position and by name."""
    if "input" in returns:
        at, name = returns["input"]
        return [(at, name)]
    nested = returns.get("tuple", returns.get("list", ()))
    return [found for item in nested for found in inputs_of(item)]
