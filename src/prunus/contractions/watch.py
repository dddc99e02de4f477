"""Seeing the linear maps of a run: a mode that calls back for each whose weight is a parameter of the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from prunus.contractions.calls import CALLS, Contraction
from prunus.trace.functions import OpenMode

See = Callable[[str, Contraction, Tensor], Any]


class Watch(OpenMode):
    """Calls ``see(name, contraction, output)`` for every linear map whose weight is a parameter of the model."""

    def __init__(self, names: dict[int, str], see: See) -> None:
        super().__init__()
        self.names, self.see = names, see

    def call(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        output = func(*args, **kwargs)
        read = CALLS.get(getattr(func, "__name__", ""))
        if read is not None:
            found = read(*args, **kwargs)
            name = self.names.get(id(found.weight)) if found is not None else None
            if name is not None and found is not None:
                self.see(name, found, output)
        return output


def names(model: nn.Module) -> dict[int, str]:
    """The name of each parameter, by its id; of tied ones the first."""
    return {id(parameter): name for name, parameter in model.named_parameters()}
