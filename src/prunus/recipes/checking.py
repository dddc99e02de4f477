"""What a recipe says of its model and data, looked up before the first stage: a slip is told at once, with its line."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from torch import nn

import prunus
from prunus.errors import InputError, suggest
from prunus.masks import Sparsifier
from prunus.matching import by_pattern, kept_atoms
from prunus.naming import callable_named
from prunus.recipes.schema import Recipe

Line = Callable[[tuple[str | int, ...]], str]
"""From the way to a key to ``"file:line"``."""


def check_arguments(spec: str, args: Mapping[str, Any], key: str, line: Line) -> None:
    """Raise InputError where what ``spec`` names doesn't take one of the arguments."""
    known = inspect.signature(callable_named(spec)).parameters
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in known.values()):
        return
    for name in args:
        if name not in known:
            takes = f"Known: {', '.join(known)}." if known else "It takes none."
            raise InputError(f"{line((key, name))}: {spec} takes no {name!r}.{suggest(name, known)} {takes}")


def check_names(recipe: Recipe, model: Callable[[], nn.Module], example: Callable[[], Any], line: Line) -> None:
    """Look up the modules, groups and parameters that stages and their policies name.

    ``model`` and ``example`` are made only where something is named.

    Raises:
        InputError: one isn't there; close names are suggested.
    """
    names = _Names(model, example)
    for number, stage in enumerate(recipe.stages):
        at: tuple[str | int, ...] = ("stages", number, stage.kind)
        _check(stage.settings, names, at, line)
        for i, policy in enumerate(getattr(stage.settings, "policies", ())):
            _check(getattr(policy, policy.kind), names, (*at, "policies", i, policy.kind), line)


class _Names:
    """The model, made and traced only where a name asks for it."""

    def __init__(self, model: Callable[[], nn.Module], example: Callable[[], Any]) -> None:
        self.make, self.example = model, example

    @cached_property
    def model(self) -> nn.Module:
        return self.make()

    @cached_property
    def graph(self) -> Any:
        return prunus.trace(self.model, self.example())


def _check(how: Any, names: _Names, at: tuple[str | int, ...], line: Line) -> None:
    looks: dict[str, Callable[[Any], Any]] = {
        "keep": lambda keep: kept_atoms(names.graph, keep),
        "only": lambda only: Sparsifier(names.model, only),
        "skip": lambda skip: Sparsifier(names.model, skip=skip),
        "ratio": lambda ratio: by_pattern(names.graph, names.graph.free, ratio, "ratio"),
        "features": lambda features: [_module(names.model, each.path) for each in features],
    }
    for key, look in looks.items():
        value = getattr(how, key, None)
        if not value or (key == "ratio" and not isinstance(value, Mapping)):
            continue
        try:
            look(value)
        except InputError as error:
            raise InputError(f"{line((*at, key))}: {error}") from error


def _module(model: nn.Module, path: str) -> nn.Module:
    known: dict[str, nn.Module] = dict(model.named_modules())
    if path not in known:
        raise InputError(f"the model has no module {path!r}.{suggest(path, known)}")
    return known[path]
