"""What a user may write as a budget, read into numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from prunus.budget.costs import UNITS
from prunus.errors import InputError, suggest

Asked = Mapping[str, str | int | float]

_NUMBER = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)(?:e([+-]?\d+))?\s*(\S*)\s*", re.IGNORECASE)
_THOUSANDS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "t": 1e12}
_BYTES = {
    **{f"{prefix}b": 1000.0**i for i, prefix in enumerate(("", "k", "m", "g", "t"))},
    **{f"{prefix}ib": 1024.0**i for i, prefix in enumerate(("", "k", "m", "g", "t")) if prefix},
    "": 1.0,
}
_SUFFIXES = {
    "parameters": _THOUSANDS,
    "macs": {**_THOUSANDS, **{f"{suffix}macs": n for suffix, n in _THOUSANDS.items()}},
    "bytes": _BYTES,
    "activation_memory": _BYTES,
    "latency": {"s": 1e3, "ms": 1.0, "us": 1e-3},
}


@dataclass(frozen=True)
class Limit:
    """At most ``value`` of a unit; a ``share`` of what the model costs now if it is one."""

    unit: str
    value: float
    share: bool
    text: str

    def of(self, now: float) -> float:
        """The limit in the unit itself, for a model that costs ``now``."""
        return self.value * now if self.share else self.value

    def times(self, factor: float) -> Limit:
        """A limit ``factor`` times as high; a share ends at all."""
        value = self.value * factor
        return replace(self, value=min(value, 1.0) if self.share else value)


def read(budget: Asked) -> tuple[Limit, ...]:
    """``{"macs": "60%", "latency": "4 ms"}`` as limits.

    A percentage is the share that may stay. Other values are absolute: ``parameters`` and ``macs`` take ``"1.5M"`` or a
    number, ``bytes`` and ``activation_memory`` take ``"10 MB"``, ``"8 MiB"`` or a number, ``latency`` takes ``"4 ms"``.

    Raises:
        InputError: no budget, an unknown unit, or a value that isn't one.
    """
    if not isinstance(budget, Mapping) or not budget:
        raise InputError(f"a budget is a dict such as {{'macs': '60%'}}, not {budget!r}. Units: {', '.join(UNITS)}.")
    return tuple(_limit(unit, value) for unit, value in budget.items())


def _limit(unit: str, value: str | int | float) -> Limit:
    if unit not in UNITS:
        raise InputError(f"there is no budget unit {unit!r}.{suggest(str(unit), UNITS)} Units: {', '.join(UNITS)}.")
    suffixes = _SUFFIXES[unit]
    match = _NUMBER.fullmatch(value if isinstance(value, str) else repr(value) if _is_number(value) else "")
    if match is None:
        raise InputError(f"the budget of {unit} can't be read: {value!r}. {_cure(unit)}")
    number, suffix = float(match[1]) * 10.0 ** int(match[2] or 0), match[3].lower()
    if suffix == "%":
        if not 0 < number <= 100:
            raise InputError(f"the budget of {unit} is a share that stays, above 0 and at most 100 %, not {value!r}.")
        return Limit(unit, number / 100, True, str(value).strip())
    if suffix not in suffixes:
        raise InputError(f"the budget of {unit} has an unknown unit: {value!r}. {_cure(unit)}")
    if not suffix and number <= 1:
        raise InputError(f"the budget of {unit}, {value!r}, could be a share or an amount. {_cure(unit)}")
    return Limit(unit, number * suffixes[suffix], False, str(value).strip())


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _cure(unit: str) -> str:
    examples = {"latency": "'4 ms'", "bytes": "'10 MB'", "activation_memory": "'10 MB'"}
    return f"Write a share that stays, such as '60%', or an amount, such as {examples.get(unit, repr('1.5M'))}."


def show(unit: str, value: float) -> str:
    """A cost for people, in its unit."""
    if unit == "latency":
        return f"{value:.3f} ms"
    if unit in ("bytes", "activation_memory"):
        return f"{value / 1e6:,.3f} MB"
    return f"{value:,.0f}"
