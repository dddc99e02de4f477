"""Which rows of calibration data a fit takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import repeat

from torch import nn

from prunus.contractions.relevance import Rows, may_be_padded, relevant_rows
from prunus.running import Batches, Inputs

_ROWS_PER_INPUT = 4


def with_rows(model: nn.Module, batches: Batches) -> tuple[Iterable[Inputs], Iterable[Rows]]:
    """The batches with the rows that count in each: of padded ones those that the model's outputs depend on.

    Not where so few rows would be left of a layer that its weights couldn't be told.
    """
    if not may_be_padded(*batches.first()):
        return batches, repeat({})
    examples = list(batches)  # tokens are small, and the rows belong to these very batches
    found = [relevant_rows(model, *example) for example in examples]
    sizes = {name: parameter[0].numel() for name, parameter in model.named_parameters() if parameter.dim() > 1}
    total: Counter[str] = Counter()
    for rows in found:
        total.update({name: sum(map(len, calls)) for name, calls in rows.items()})
    enough = {name for name, n in total.items() if n >= _ROWS_PER_INPUT * sizes.get(name, 0)}
    return examples, [{name: calls for name, calls in rows.items() if name in enough} for rows in found]
