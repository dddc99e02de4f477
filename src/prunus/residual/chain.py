"""The longest row of modules each of which runs on what the one before it returned, found in a run with values."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.weak import WeakTensorKeyDictionary

from prunus.errors import InputError
from prunus.residual.row import Place, Row, version
from prunus.running import Inputs, call, cloned, tensors_in
from prunus.skip import SCALARS, Returns
from prunus.surgery import lies_in

_STREAM = object()

State = tuple[int, int]
"""The number of a tensor, and how often it has been changed in place."""


@dataclass
class _Visit:
    """One call of a module: the states of its arguments, that of the one tensor it returns, and what it returns."""

    inputs: dict[Place, State]
    sizes: dict[Place, int]
    output: State | None = None
    returned: Any = None


@dataclass
class _Run:
    """Every call of a module in a run, in the order in which they began."""

    visits: dict[str, list[_Visit]] = field(default_factory=lambda: defaultdict(list))
    known: WeakTensorKeyDictionary = field(default_factory=WeakTensorKeyDictionary)
    numbers: Iterator[int] = field(default_factory=count)
    open: list[_Visit] = field(default_factory=list)

    def watch(self, path: str, module: nn.Module) -> Iterator[Any]:
        """The handles of hooks on a module."""
        yield module.register_forward_pre_hook(partial(self._before, path), with_kwargs=True)
        yield module.register_forward_hook(self._after)

    def _before(self, path: str, _: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        places: list[tuple[Place, Any]] = [((at, None), value) for at, value in enumerate(args)]
        places += [((None, name), value) for name, value in kwargs.items()]
        found = {place: value for place, value in places if isinstance(value, Tensor)}
        visit = _Visit({p: self._state(t) for p, t in found.items()}, {p: t.nbytes for p, t in found.items()})
        self.visits[path].append(visit)
        self.open.append(visit)

    def _after(self, _: nn.Module, __: Any, output: Any) -> None:
        visit, tensors = self.open.pop(), tensors_in(output)
        if len(tensors) == 1:
            visit.output = self._state(tensors[0])
            visit.returned = pytree.tree_map_only(Tensor, lambda _: _STREAM, output)

    def _state(self, tensor: Tensor) -> State:
        if tensor not in self.known or tensor.is_inference():  # the latter don't count changes: none is known again
            self.known[tensor] = next(self.numbers)
        return self.known[tensor], version(tensor)


def find_chain(model: nn.Module, example: Inputs) -> Row:
    """Modules that follow each other, of any kind: each runs once, on the very tensor that the one before returned.

    Nothing lies between them, and none of them gets anything else that one of them got or returned. Of the rows in
    ``model`` that in which the most modules run, each taken apart where it is itself such a row from end to end.

    Raises:
        InputError: there is none.
        TraceError: the model doesn't run on the example.
    """
    run = _Run()
    handles = [handle for path, module in model.named_modules() for handle in run.watch(path, module)]
    try:
        call(model, *cloned(example))
    finally:
        for handle in handles:
            handle.remove()
    inside = _inside(run.visits)
    rows = [row for children in inside.values() for row in _rows(children, run.visits)]
    if not rows:
        raise InputError(f"{type(model).__name__} has no modules that run one on what another returns.")
    place, names = max(rows, key=lambda row: sum(lies_in(path, row[1]) for path in run.visits))
    names = [part for name in names for part in _apart(name, place, inside, run.visits)]
    visits = [run.visits[name][0] for name in names]
    returns = tuple(_returns(visit.returned, place) for visit in visits)
    return Row(tuple(names), returns, place, tuple(visit.sizes[place] for visit in visits))


def _inside(visits: Mapping[str, Sequence[_Visit]]) -> dict[str, list[str]]:
    """By module the nearest ones inside it that ran, in the order in which they first did."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in visits:
        above = path
        while above:
            above = above.rpartition(".")[0]
            if above in visits:
                found[above].append(path)
                break
    return found


def _rows(paths: Sequence[str], visits: Mapping[str, Sequence[_Visit]]) -> Iterator[tuple[Place, list[str]]]:
    """The rows among modules that ran one after another, with where each takes its stream."""
    row: list[str] = []
    place: Place | None = None
    for path in paths:
        able = len(visits[path]) == 1 and bool(_returns(visits[path][0].returned, (0, None)))
        found = _next(row, place, path, visits) if able and row else None
        if found is None:
            if place is not None:
                yield place, row
            row, place = [path] if able else [], None
        else:
            row, place = [*row, path], found
    if place is not None:
        yield place, row


def _next(row: Sequence[str], place: Place | None, path: str, visits: Mapping[str, Sequence[_Visit]]) -> Place | None:
    """Where a module takes what the last of a row returned, if it can be the next; ``place`` if it is known yet."""
    before, inputs = [visits[name][0] for name in row], visits[path][0].inputs
    found = next((p for p, state in inputs.items() if state == before[-1].output), None)
    if found is None or place not in (None, found) or found not in before[0].inputs:
        return None
    known = {before[0].inputs[found], *(visit.output for visit in before)}
    others = {state for p, state in inputs.items() if p != found}
    return None if known & others else found


def _apart(
    path: str, place: Place, inside: Mapping[str, Sequence[str]], visits: Mapping[str, Sequence[_Visit]]
) -> list[str]:
    """The modules of the row that ``path`` is from end to end, or itself."""
    (whole,) = visits[path]
    for taken, row in _rows(inside.get(path, ()), visits):
        first, last = visits[row[0]][0], visits[row[-1]][0]
        if taken == place and first.inputs[place] == whole.inputs[place] and last.output == whole.output:
            return [part for name in row for part in _apart(name, place, inside, visits)]
    return [path]


def _returns(returned: Any, place: Place) -> Returns:
    """What stands in for a module returns; empty where it can't be told."""
    if returned is _STREAM:
        return {"input": list(place)}
    if type(returned) in SCALARS:
        return {"value": returned}
    items = [_returns(item, place) for item in returned] if type(returned) in (tuple, list) else []
    return {type(returned).__name__: items} if items and all(items) else {}
