"""JSON from outside, bounded before it is parsed: no text makes more objects than a second and 1 GB have room for."""

from __future__ import annotations

import json
from typing import Any, NoReturn

MAX_BYTES = 32 * 2**20
MAX_VALUES = 4_000_000
MAX_CONTAINERS = 400_000
"""A plan stores each index list once: that of a 70-billion-parameter model has 2 million numbers, and takes 14 MB."""


def parse(text: str, constants: bool = True) -> Any:
    """The value of a JSON text; ``constants=False`` refuses NaN and infinities.

    Raises:
        ValueError: not JSON, nested too deeply, or more than the bounds above allow.
    """
    check_bounds(text)
    try:
        return json.loads(text, parse_constant=None if constants else _refuse)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def check_bounds(text: str) -> None:
    """Count what the parser would make an object of, characters in strings included.

    Raises:
        ValueError: more than any plan needs.
    """
    if len(text) > MAX_BYTES:
        raise ValueError(f"{len(text):,} characters are more than any plan needs ({MAX_BYTES:,})")
    for found, most, what in (
        (text.count(","), MAX_VALUES, "values"),
        (text.count("[") + text.count("{"), MAX_CONTAINERS, "lists and objects"),
    ):
        if found > most:
            raise ValueError(f"it holds {found:,} {what}, more than any plan needs ({most:,})")


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")
