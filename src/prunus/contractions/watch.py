"""Seeing the linear maps of a run: a mode that calls back for each whose weight is a parameter of the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from prunus.contractions.calls import CALLS, Contraction
from prunus.contractions.recurrent import unrolled
from prunus.trace.functions import OpenMode

See = Callable[[str, Contraction, Tensor], Any]
Added = Callable[[str, Tensor], Any]

_CLOSED = 1e-2  # of the mean scale of a norm's channels
_SUMS = {"add", "__add__", "__radd__", "add_", "__iadd__"}


class Watch(OpenMode):
    """Calls ``see(name, contraction, output)`` for every linear map whose weight is a parameter of the model, those
    within recurrent layers too, which run step by step.

    Where the output is then added to a tensor of its shape that was there before it, as to a residual stream,
    ``added(name, tensor)`` is called with that tensor, before the addition; where a batch norm with fixed statistics
    lies between, with the tensor in the units of the output, before the norm's scale (zero in channels that the norm
    all but closes).
    """

    def __init__(self, names: Mapping[int, str], see: See, added: Added | None = None) -> None:
        super().__init__()
        self.names, self.see, self.added = names, see, added
        self._outputs: dict[int, tuple[str, Tensor, Tensor | None]] = {}
        self._made, self._numbers = WeakTensorKeyDictionary(), count(1)

    def call(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        kind = getattr(func, "__name__", "")
        if self.added is not None and kind in _SUMS and not kwargs and len(args) == 2:
            self._sum(args[0], args[1], self.added)
        steps = unrolled(kind)
        if steps is not None:
            with self:
                return steps(*args, **kwargs)
        output = func(*args, **kwargs)
        if self.added is not None and kind == "batch_norm" and not kwargs:
            self._normalized(args, output)
        read = CALLS.get(kind)
        if read is not None:
            found = read(*args, **kwargs)
            name = self.names.get(id(found.weight)) if found is not None else None
            if name is not None and found is not None:
                if self.added is not None:
                    self._outputs[id(output)] = name, output, None
                self.see(name, found, output)
        if self.added is not None:
            for tensor in output if isinstance(output, tuple | list) else (output,):
                if isinstance(tensor, Tensor):
                    self._made[tensor] = next(self._numbers)
        return output

    def _sum(self, a: Any, b: Any, added: Added) -> None:
        for one, other in ((a, b), (b, a)):
            name, output, factor = self._outputs.get(id(one), ("", None, None))
            if output is None or output is not one or not isinstance(other, Tensor) or other.shape != output.shape:
                continue
            if self._made.get(other, 0) < self._made[output]:
                del self._outputs[id(one)]
                added(name, other if factor is None else other * factor)
                return

    def _normalized(self, args: Any, output: Tensor) -> None:
        """Follow an output through a norm that only scales and shifts its channels."""
        x, weight, _, mean, variance, training, _, eps = args[:8]
        name, seen, factor = self._outputs.get(id(x), ("", None, None))
        if seen is None or seen is not x or factor is not None or training or mean is None:
            return
        scale = (variance + eps).rsqrt() * (1 if weight is None else weight)
        open_ = scale.abs() > _CLOSED * scale.abs().mean()
        factor = torch.where(open_, 1 / scale, 0).reshape(-1, *[1] * (x.dim() - 2))
        self._outputs[id(output)] = name, output, factor


def names(model: nn.Module) -> dict[int, str]:
    """The name of each parameter, by its id; of tied ones the first."""
    return {id(parameter): name for name, parameter in model.named_parameters()}
