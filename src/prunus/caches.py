"""What functions of a model's own files remember from call to call (``functools.lru_cache``)."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from torch import nn


@contextmanager
def caches_forgotten(model: nn.Module) -> Iterator[None]:
    """Before and after: empty the ``lru_cache`` of every function in the files that the model's classes come from.

    Within, the model computes everything anew, whatever an earlier run left; afterwards no stand-in of ours is left
    where the user's model would find it.
    """
    files = {type(module).__module__ for module in model.modules()}
    found = [each for name in files if not name.startswith("torch.") for each in _caches_of(name)]
    try:
        for each in found:
            each.cache_clear()
        yield
    finally:
        for each in found:
            each.cache_clear()


def _caches_of(name: str) -> Iterator[Any]:
    """The caches of the functions and methods that the Python module ``name`` defines."""
    for value in list(vars(sys.modules[name]).values()) if name in sys.modules else ():
        if getattr(value, "__module__", None) == name:
            for each in vars(value).values() if isinstance(value, type) else (value,):
                yield from _caches_in(getattr(each, "__func__", each))


def _caches_in(function: Any) -> Iterator[Any]:
    """``function`` itself if it caches, or what a decorator's closure holds."""
    if isinstance(function, functools._lru_cache_wrapper):
        yield function
    for cell in getattr(function, "__closure__", None) or ():
        with suppress(ValueError):  # an empty cell
            if isinstance(cell.cell_contents, functools._lru_cache_wrapper):
                yield cell.cell_contents
