"""Seeing the linear maps of a run: a mode that calls back for each whose weight is a parameter of the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from prunus.contractions.calls import CALLS, Contraction
from prunus.trace.functions import OpenMode

See = Callable[[str, Contraction, Tensor], Any]
Added = Callable[[str, Tensor], Any]

_SUMS = {"add", "__add__", "__radd__", "add_", "__iadd__"}


class Watch(OpenMode):
    """Calls ``see(name, contraction, output)`` for every linear map whose weight is a parameter of the model.

    Where the output is then added to a tensor of its shape, as to a residual stream, ``added(name, tensor)`` is called
    with that tensor, before the addition.
    """

    def __init__(self, names: dict[int, str], see: See, added: Added | None = None) -> None:
        super().__init__()
        self.names, self.see, self.added = names, see, added
        self._outputs: dict[int, tuple[str, Tensor]] = {}

    def call(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        kind = getattr(func, "__name__", "")
        if self.added is not None and kind in _SUMS and not kwargs and len(args) == 2:
            self._sum(args[0], args[1], self.added)
        output = func(*args, **kwargs)
        read = CALLS.get(kind)
        if read is not None:
            found = read(*args, **kwargs)
            name = self.names.get(id(found.weight)) if found is not None else None
            if name is not None and found is not None:
                if self.added is not None:
                    self._outputs[id(output)] = name, output
                self.see(name, found, output)
        return output

    def _sum(self, a: Any, b: Any, added: Added) -> None:
        for one, other in ((a, b), (b, a)):
            name, output = self._outputs.get(id(one), ("", None))
            if output is not None and output is one and isinstance(other, Tensor) and other.shape == output.shape:
                del self._outputs[id(one)]
                added(name, other)
                return


def names(model: nn.Module) -> dict[int, str]:
    """The name of each parameter, by its id; of tied ones the first."""
    return {id(parameter): name for name, parameter in model.named_parameters()}
