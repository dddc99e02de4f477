"""The residual stream of every module call: which tensors are the call's input, moved about and added to.

For each call of a module and each of its input tensors, a *stream* holds the tensors that are this input itself, the
input in another shape, or the input plus something that was made from it. Marks on the tensors carry it along, so
that it ends with them.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from prunus.skip import Returns
from prunus.trace.modes import RunMode
from prunus.trace.standins import set_mark

STREAM, MADE_FROM, MADE_BY, SETTLED = "_prunus_stream", "_prunus_made_from", "_prunus_made_by", "_prunus_settled"

# Values change places or take another shape, none changes: judged by moving positions in the same way.
_MOVES = {*"view _unsafe_view _reshape_alias permute transpose t squeeze unsqueeze clone detach alias roll".split()}
_SAME = {"_to_copy", "lift_fresh"}
# Applied twice they do what they do once.
_SETTLING = {*"relu relu6 hardtanh".split()}
_KEEPS_SETTLED = _MOVES | _SAME | {"max_pool2d_with_indices", "max_pool2d"}


@dataclass(frozen=True, eq=False, slots=True)
class Source:
    """One input tensor of one call of a module: its position and name among the arguments, and what it was."""

    position: int | None
    name: str | None
    shape: tuple[int, ...]
    dtype: torch.dtype
    settled: Any


@dataclass(frozen=True, slots=True)
class Addition:
    """Operator call ``number`` of the run, of the operator called ``operator``, adds to its argument ``operand``."""

    number: int
    operator: str
    operand: int


@dataclass(frozen=True, slots=True)
class Move:
    """An operator that moves values about; argument 0 is what it moves."""

    func: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Nothing:
    """An operator that leaves the stream's values as they are."""


@dataclass(frozen=True, slots=True)
class Link:
    """How a tensor of a stream came of the one before it; ``before`` is None where it is the input itself."""

    before: Link | None
    step: Addition | Move | Nothing

    def steps(self) -> list[Addition | Move]:
        """From the input on."""
        found, link = [], self
        while link.before is not None:
            if not isinstance(link.step, Nothing):
                found.append(link.step)
            link = link.before
        return found[::-1]


@dataclass(frozen=True)
class Visit:
    """One call of a module: what it returned of its inputs, or why that can't be said.

    ``paths`` has, for every tensor that was returned, the input it is made of and the steps to it.
    """

    returns: Returns = field(default_factory=dict)
    paths: tuple[tuple[Source, tuple[Addition | Move, ...]], ...] = ()
    refusal: str | None = None


class StreamMode(RunMode):
    """Runs a model and learns the streams of all its modules; ``visits`` has the calls of each, by path."""

    def __init__(self, real: bool) -> None:
        super().__init__(real)
        self.visits: dict[str, list[Visit]] = {}
        self._open: list[list[tuple[Source, Tensor]]] = []

    # -- operators -----------------------------------------------------------------------------------------------

    def learn(self, func: Any, args: Any, kwargs: dict[str, Any], outputs: list[Tensor]) -> tuple[Any, ...]:
        name = _plain(func)
        tensors = list(_tensors((*args, *kwargs.values())))
        made_from: frozenset[Source] = frozenset().union(*(_made_from(t) for t in tensors))
        streams = self._streams(name, func, args, kwargs, outputs)
        settled = _settled(name, args)
        for i, out in enumerate(outputs):
            set_mark(out, MADE_FROM, made_from)
            set_mark(out, STREAM, streams if i == 0 else {})
            set_mark(out, SETTLED, settled if i == 0 else None)
            set_mark(out, MADE_BY, f"{func._schema.name.split('::')[1]}() in {self.modules[-1] or 'the model'}")
        return ()

    def _streams(
        self, name: str, func: Any, args: Any, kwargs: dict[str, Any], outputs: list[Tensor]
    ) -> dict[Source, Link]:
        found: dict[Source, Link] = {}
        for at, tensor in enumerate(args):
            if not isinstance(tensor, Tensor) or not outputs:
                continue
            for source, link in _stream(tensor).items():
                if source in found:  # added to itself: twice the input
                    found.pop(source)
                    continue
                step = self._step(name, func, args, kwargs, at, source)
                if step is not None and (not isinstance(step, Addition) or outputs[0].shape == tensor.shape):
                    found[source] = Link(link, step)
        return found

    def _step(
        self, name: str, func: Any, args: Any, kwargs: dict[str, Any], at: int, source: Source
    ) -> Addition | Move | Nothing | None:
        if _adds(name, args, kwargs, at, source):
            return Addition(len(self.records), func._schema.name, at)
        if at == 0 and name in _MOVES:
            return Move(func, tuple(args[1:]), dict(kwargs))
        if at == 0 and name in _SAME:
            return Nothing()
        if at == 0 and name in _SETTLING and source.settled == (name, *args[1:]):
            return Nothing()
        return None

    # -- modules -------------------------------------------------------------------------------------------------

    def watch(self, model: nn.Module) -> list[Any]:
        """Hang hooks on every module; returns their handles."""
        handles = []
        for path, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(self._entering, with_kwargs=True))
            handles.append(module.register_forward_hook(self._left(path), with_kwargs=True))
        return handles

    def _entering(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        names = _names(module)
        given: list[tuple[int | None, str | None, Any]] = [
            (i, names[i] if i < len(names) else None, value) for i, value in enumerate(args)
        ]
        given += [(names.index(k) if k in names else None, k, v) for k, v in kwargs.items()]
        seen: set[int] = set()
        sources = []
        for at, name, value in given:
            if isinstance(value, Tensor) and id(value) not in seen:
                seen.add(id(value))
                source = Source(at, name, tuple(value.shape), value.dtype, value.__dict__.get(SETTLED))
                set_mark(value, STREAM, {**_stream(value), source: Link(None, Nothing())})
                set_mark(value, MADE_FROM, _made_from(value) | {source})
                sources.append((source, value))
        self._open.append(sources)

    def _left(self, path: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            sources = self._open.pop()
            self.visits.setdefault(path, []).append(_visit(output, [source for source, _ in sources]))
            closed = {source for source, _ in sources}
            for tensor in {id(t): t for t in (*_tensors((output,)), *(t for _, t in sources))}.values():
                set_mark(tensor, STREAM, {s: link for s, link in _stream(tensor).items() if s not in closed})

        return hook


def _adds(name: str, args: Any, kwargs: Mapping[str, Any], at: int, source: Source) -> bool:
    """Whether the operator adds to its argument ``at`` something that was made from ``source``."""
    if name == "addcmul":
        others = args[1:3]
        fits = at == 0
    else:
        others = [args[1 - at]] if name in ("add", "sub") and at < 2 <= len(args) else []
        fits = bool(others) and (at == 0 or (name == "add" and kwargs.get("alpha", 1) == 1))
    return fits and any(isinstance(t, Tensor) and source in _made_from(t) for t in others)


def _settled(name: str, args: Any) -> Any:
    """What was last done to the values that, done again, would change nothing."""
    if name in _SETTLING:
        return (name, *args[1:])
    return args[0].__dict__.get(SETTLED) if name in _KEEPS_SETTLED and isinstance(args[0], Tensor) else None


def _visit(output: Any, sources: list[Source]) -> Visit:
    paths: list[tuple[Source, tuple[Addition | Move, ...]]] = []
    try:
        return Visit(_returns(output, sources, paths), tuple(paths))
    except _Refusal as refusal:
        return Visit(refusal=str(refusal))


class _Refusal(Exception):
    """Why a module's output isn't made of its inputs alone."""


def _returns(value: Any, sources: list[Source], paths: list[Any]) -> Returns:
    if isinstance(value, Tensor):
        source, link = _source_of(value, sources)
        paths.append((source, tuple(link.steps())))
        return {"input": [source.position, source.name]}
    if value is None or type(value) in (bool, int, float, str):
        return {"value": value}
    if type(value) in (tuple, list):
        return {type(value).__name__: [_returns(item, sources, paths) for item in value]}
    raise _Refusal(f"it returns a {type(value).__name__}")


def _source_of(tensor: Tensor, sources: list[Source]) -> tuple[Source, Link]:
    for source in sources:
        link = _stream(tensor).get(source)
        if link is not None and source.shape == tuple(tensor.shape):
            if source.dtype != tensor.dtype:
                raise _Refusal(f"it turns its input of {source.dtype} into {tensor.dtype}")
            return source, link
    if all(source.shape != tuple(tensor.shape) for source in sources):
        shapes = ", ".join(str(list(source.shape)) for source in sources) or "none"
        raise _Refusal(f"it makes a tensor of shape {list(tensor.shape)} of its inputs of shape {shapes}")
    maker = tensor.__dict__.get(MADE_BY, "something outside it")
    raise _Refusal(f"its output comes out of {maker}, and isn't its input plus something made from it")


def _names(module: nn.Module) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in inspect.signature(module.forward).parameters.values() if p.kind in kinds]


def _plain(func: Any) -> str:
    name = str(func._schema.name).split("::")[1]
    return name[:-1] if name.endswith("_") and not name.startswith("_") else name


def _stream(tensor: Tensor) -> dict[Source, Link]:
    found: dict[Source, Link] = tensor.__dict__.get(STREAM) or {}
    return found


def _made_from(tensor: Tensor) -> frozenset[Source]:
    found: frozenset[Source] = tensor.__dict__.get(MADE_FROM, frozenset())
    return found


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
