"""Look at what modules give while a model runs, and know which of the teacher's channels the student still has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prunus.axes import keep_vector
from prunus.errors import InputError, suggest
from prunus.plan import Plan
from prunus.prove import keep_of_atoms
from prunus.running import tensors_in
from prunus.trace import trace
from prunus.trace.standins import AXES

Kept = Mapping[int, Tensor]
"""Dimension -> the indices that stay."""


@dataclass
class Seen:
    """One model's run: its output, and the activations that were tapped."""

    output: Any = None
    taps: dict[str, Tensor] = field(default_factory=dict)


@contextmanager
def tapped(model: nn.Module, paths: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Inside, each named module leaves its output here: the first tensor of it, if there are several.

    Raises:
        InputError: the model has no module of that name; close names are suggested.
    """
    found: dict[str, Tensor] = {}
    model = getattr(model, "module", model) if isinstance(model, nn.parallel.DistributedDataParallel) else model
    handles = []
    try:
        for path in dict.fromkeys(paths):
            handles.append(_module(model, path).register_forward_hook(_keeper(found, path)))
        yield found
    finally:
        for handle in handles:
            handle.remove()


def kept_channels(
    model: nn.Module, plan: Plan, paths: Iterable[str], args: Any, kwargs: Mapping[str, Any] | None = None
) -> dict[str, Kept]:
    """For the output of each named module of ``model``, which indices of which dimensions the plan keeps.

    They follow from the axes, as the plan does: the model is traced once more on the example inputs.

    Raises:
        InputError: no such module; or one whose output isn't there, or isn't of axes that the plan knows.
    """
    paths = list(dict.fromkeys(paths))
    with tapped(model, paths) as found:
        graph = trace(model, args, kwargs)
        axes = {path: tensor.__dict__.get(AXES) for path, tensor in found.items()}
    keep = keep_of_atoms(graph.tensors, plan)
    result: dict[str, Kept] = {}
    for path in paths:
        mine = axes.get(path)
        if mine is None:
            raise InputError(f"module {path!r} gave no tensor that the trace has followed: tap another one.")
        masks = [keep_vector(graph.space.resolve(axis), keep) for axis in mine]
        result[path] = {d: torch.from_numpy(np.flatnonzero(m)) for d, m in enumerate(masks) if not m.all()}
    return result


def _module(model: nn.Module, path: str) -> nn.Module:
    modules = dict(model.named_modules(remove_duplicate=False))
    if path not in modules:
        raise InputError(f"{type(model).__name__} has no module {path!r} to tap.{suggest(path, modules)}")
    found: nn.Module = modules[path]
    return found


def _keeper(found: dict[str, Tensor], path: str) -> Any:
    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        tensors = [output] if isinstance(output, Tensor) else tensors_in(output)
        if tensors:
            found[path] = tensors[0]

    return keep
