"""New tensors: constant fills have free axes, values that depend on their position have frozen ones."""

from __future__ import annotations

from prunus.axes import Axes
from prunus.operators.table import Call, row


@row(
    *"zeros ones full empty rand randn new_zeros new_ones new_full new_empty new_empty_strided empty_strided "
    "empty_permuted randint".split(),
    preserves_zero=False,
)  # fmt: skip
def filled(call: Call) -> list[Axes]:
    """Each dimension is free until something ties it."""
    return [tuple(call.fresh(n) for n in out.shape) for out in call.outputs]


@row(
    *"arange linspace logspace eye tril_indices triu_indices scalar_tensor range randperm hann_window "
    "hamming_window".split(),
    preserves_zero=False,
)  # fmt: skip
def counted(call: Call) -> list[Axes]:
    """The value depends on the position."""
    return call.frozen_outputs(f"{call.name}() counts along it")
