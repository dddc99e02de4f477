"""Which tensors the calls of modules make: what is handed through, or worked on in place, is not made."""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor

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
