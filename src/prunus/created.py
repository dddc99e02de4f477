"""Which tensors the calls of modules make: what is handed through, or worked on in place, is not made."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from prunus.running import tensors_in


class Creations:
    """Told of every call when it begins and when it ends, it knows the tensors that are new at each end."""

    def __init__(self) -> None:
        self._made: list[list[weakref.ref[Tensor]]] = [[]]

    def enter(self) -> None:
        """A call begins."""
        self._made.append([])

    def leave(self, inputs: Any, output: Any) -> list[Tensor]:
        """It ends: the tensors in ``output`` that are neither in ``inputs`` nor made by calls within this one."""
        inner = self._made.pop()
        old = {id(tensor) for tensor in tensors_in(inputs)} | {id(ref()) for ref in inner}
        new = [tensor for tensor in tensors_in(output) if id(tensor) not in old]
        self._made[-1] += inner + [weakref.ref(tensor) for tensor in new]
        return new


@contextmanager
def creations(model: nn.Module, tell: Callable[[Tensor], None]) -> Iterator[None]:
    """Within, ``tell`` is called with every tensor that a call of ``model`` or of a module in it makes."""
    known = Creations()

    def before(module: nn.Module, args: Any) -> None:
        known.enter()

    def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        for tensor in known.leave((args, kwargs), output):
            tell(tensor)

    handles = []
    for module in model.modules():
        handles.append(module.register_forward_pre_hook(before))
        handles.append(module.register_forward_hook(after, with_kwargs=True, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
