"""Sparse weights: masks beside a model, criteria, granularities, schedules. Shapes stay as they are."""

from prunus.masks.criteria import CRITERIA, Criterion, Task
from prunus.masks.dense import SRSTE, Movement, SoftFilter
from prunus.masks.dynamic import SET, RigL, Ticket, erdos_renyi
from prunus.masks.interop import from_torch_prune, plain_state_dict, to_torch_prune
from prunus.masks.schedules import CURVES, Curve, Gradual, iterative
from prunus.masks.sparsegpt import sparsegpt
from prunus.masks.sparsifier import Sparsifier, from_zeros

__all__ = [
    "CRITERIA",
    "CURVES",
    "SET",
    "SRSTE",
    "Criterion",
    "Curve",
    "Gradual",
    "Movement",
    "RigL",
    "SoftFilter",
    "Sparsifier",
    "Task",
    "Ticket",
    "erdos_renyi",
    "from_torch_prune",
    "from_zeros",
    "iterative",
    "plain_state_dict",
    "sparsegpt",
    "to_torch_prune",
]
