"""One line for one case."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from benchmarks.zoo.case import Case, Example


def entry(name: str, build: Callable[[], tuple[nn.Module, Any]], sample: bool = True, **options: Any) -> Case:
    """A case of this zoo; ``build`` returns the model with its inputs: a tensor, a tuple, or a dict of keywords."""

    def example() -> Example:
        model, inputs = build()
        if isinstance(inputs, dict):
            return Example(model, (), inputs)
        return Example(model, inputs if isinstance(inputs, tuple) else (inputs,))

    return Case("handmade", name, example, sample=sample, **options)
