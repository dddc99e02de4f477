"""Work in a forked process of its own: what it takes is given back, and a crash stays there."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

T = TypeVar("T")


def apart(work: Callable[..., T], *args: object, died: Callable[..., T]) -> T:
    """``work(*args)``, a function of a module, in a process; ``died(*args)`` here if that ended before the work did."""
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        try:
            return pool.submit(work, *args).result()
        except BrokenProcessPool:
            return died(*args)
