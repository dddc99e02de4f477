"""What a run decides by computed values: how many boxes are left, which rows a mask takes, what ``.item()`` reads.

Two networks that compute different values (the original and one that was cut) decide otherwise, and then no longer run
the same operators on the same sizes. So a run notes its choices, and another run of the same code can be *led* through
them: it computes its own values, and decides as the first did. Only what comes from parameters or chance is led: a size
that the code puts into a tensor must be seen to be another.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

_COMPUTED = "_prunus_computed"
_TAGS = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output}
_UNTAGGED = {"torchvision::nms"}
# Their second argument may be a mask: what it takes is the choice, not the values that are taken.
_MASKED = {f"aten::{name}" for name in "index index_put index_put_ _index_put_impl_ masked_select".split()}
_MASKED |= {"aten::masked_scatter", "aten::masked_scatter_", "aten::_unsafe_index", "aten::_unsafe_index_put"}


class Choices:
    """Runs operators and notes in ``made`` what they decide; with ``given``, decides as was done there."""

    def __init__(self, given: Iterable[Any] | None = None) -> None:
        self.made: list[Any] = []
        self._given = iter(given if given is not None else ())

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """``func(*args, **kwargs)``, with its choice noted or led."""
        values = [v for v in pytree.tree_leaves((args, kwargs)) if isinstance(v, Tensor)]
        computed = torch.Tag.nondeterministic_seeded in func.tags or any(map(_is_computed, values))
        result = self._run(func, args, kwargs, computed)
        if computed:
            _mark(result)
            if func._schema.is_mutable:
                _mark([t._base for t in values])
        return result

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], computed: bool) -> Any:
        name = func._schema.name
        if name in _MASKED:
            return func(args[0], self._masks(args[1]), *args[2:], **kwargs)
        if name in _UNTAGGED or _TAGS.intersection(func.tags):
            return _own(self._choose(func(*args, **kwargs), computed))
        return func(*args, **kwargs)

    def _masks(self, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [self._masks(item) for item in value]
        if not isinstance(value, Tensor) or value.dtype not in (torch.bool, torch.uint8):
            return value
        once = value  # an expanded dimension repeats itself, and may be longer here than there
        for d, stride in enumerate(value.stride()):
            once = once.narrow(d, 0, 1) if stride == 0 and value.shape[d] else once
        return self._choose(once, _is_computed(value)).expand(value.shape)

    def _choose(self, found: Any, computed: bool) -> Any:
        given = next(self._given, found)
        chosen = given if computed else found
        self.made.append(_own(chosen))
        return chosen


def _is_computed(tensor: Tensor | None) -> bool:
    """Whether it, or what it is a view of, comes from parameters or from chance."""
    if tensor is None:
        return False
    return isinstance(tensor, nn.Parameter) or _COMPUTED in tensor.__dict__ or _is_computed(tensor._base)


def _mark(outputs: Any) -> None:
    for tensor in pytree.tree_leaves(outputs):
        if isinstance(tensor, Tensor):
            tensor.__dict__[_COMPUTED] = True


def _own(value: Any) -> Any:
    """A copy that nobody else writes to."""
    return pytree.tree_map_only(Tensor, torch.clone, value)
