"""Judge an extraction by value, apart from what prunus says of it."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

import prunus
from benchmarks.extract.models import make
from prunus.prove import DoubleMode
from prunus.running import outputs_in

DOUBLE, SINGLE = 1e-9, 2e-6
"""What the errors in fp64 and fp32 must not exceed."""


@dataclass(frozen=True)
class Outcome:
    """One model at one share of masked units.

    Attributes:
        before, after: parameters.
        double, single: ``max|small - masked| / max|masked|`` in fp64 and fp32, on an input that prunus hasn't seen.
        moves: how far the masked outputs of two inputs lie apart, over ``max|masked|``: near 0, errors say little.
        rounding: as ``single``, for the masked model in fp32 against itself in fp64: what fp32 costs anyway.
        own: as ``rounding``, for the small model in fp32 against the masked one in fp64.
        checks: on how many kinds of inputs prunus compared.
        seconds: processor time of the extraction.
        memory: the most that the process held at once, in GB.
        why: what went wrong, if anything did.
    """

    name: str
    amount: float
    before: int = 0
    after: int = 0
    double: float = float("inf")
    single: float = float("inf")
    rounding: float = float("inf")
    own: float = float("inf")
    checks: int = 0
    seconds: float = 0.0
    memory: float = 0.0
    moves: float = 0.0
    why: str = ""

    @property
    def ok(self) -> bool:
        """Exact and smaller; in fp32 both models round, each as much as the masked one does."""
        return self.double <= DOUBLE and self.single <= max(SINGLE, 2 * self.rounding) and self.after < self.before

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    def __str__(self) -> str:
        told = self.why or f"{self.before:,} -> {self.after:,}, {self.double:.1e}, {self.single:.1e} in fp32"
        cost = f"{self.seconds:.1f} s, {self.memory:.1f} GB"
        return f"{'ok ' if self.ok else 'BAD'} {self.name} {self.amount:.0%}: {told} ({cost})"


def died(name: str, amount: float) -> Outcome:
    """The outcome where the process that judged ended before it did."""
    return Outcome(name, amount, why="the process died: out of memory?")


def judge(name: str, amount: float) -> Outcome:
    torch.set_num_threads(1)
    masked, inputs = make(name, amount)
    masked, inputs = masked.double(), as_type(inputs, torch.float64)
    start = time.process_time()
    try:
        small = prunus.extract(masked, (), inputs)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the result
        return Outcome(name, amount, why=f"{type(error).__name__}: {str(error)[:200]}")
    seconds = time.process_time() - start
    other = unseen(inputs)
    whole = outputs(masked, other)
    double = worst(whole, outputs(small, other))
    other = as_type(other, torch.float32)
    rounded, found = outputs(masked.float(), other), outputs(small.float(), other)
    single, rounding, own = worst(rounded, found), worst(whole, rounded), worst(whole, found)
    before, after = (sum(p.numel() for p in m.parameters()) for m in (masked, small))
    checks = len(small.__dict__["prunus_extraction"].checks)
    apart = worst([y[:1] for y in outputs(masked.double(), inputs)], [y[:1] for y in whole])
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return Outcome(name, amount, before, after, double, single, rounding, own, checks, seconds, memory, apart)


def unseen(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Two other images, or the words backwards."""
    draw = torch.Generator().manual_seed(9)

    def other(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if value.is_floating_point():
            return torch.randn(2, *value.shape[1:], generator=draw, dtype=value.dtype)
        return value.flip(1)

    return {name: other(value) for name, value in inputs.items()}


def as_type(inputs: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    return {n: v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v for n, v in inputs.items()}


def outputs(model: nn.Module, inputs: Mapping[str, Any]) -> list[Tensor]:
    """In fp64 without casts to less, if the model is in fp64."""
    with torch.no_grad():
        if next(model.parameters()).dtype == torch.float64:
            with DoubleMode():
                return outputs_in(model(**inputs))
        return outputs_in(model(**inputs))


def worst(expected: list[Tensor], found: list[Tensor]) -> float:
    """The largest over all outputs; infinite for other shapes."""
    if [t.shape for t in expected] != [t.shape for t in found]:
        return float("inf")
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(expected, found, strict=True))
