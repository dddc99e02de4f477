"""Sparse weights: masks beside a model, criteria, granularities, schedules. Shapes stay as they are."""

from prunus.masks.criteria import CRITERIA, Criterion, Task
from prunus.masks.interop import from_torch_prune, plain_state_dict, to_torch_prune
from prunus.masks.sparsifier import Sparsifier, from_zeros

__all__ = [
    "CRITERIA",
    "Criterion",
    "Sparsifier",
    "Task",
    "from_torch_prune",
    "from_zeros",
    "plain_state_dict",
    "to_torch_prune",
]
