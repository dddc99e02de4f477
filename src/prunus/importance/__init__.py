"""How much each index of a group matters.

A criterion is a function. ``f(name, weight)`` gives each weight of a parameter its saliency, and what goes through an
index is gathered over all that the group runs through::

    def squared(name, weight):
        return weight.detach() ** 2

    prunus.prune(model, args, importance=squared)

``f(context)`` sees everything, the data and the loss too, and returns scores for parameters (by name), for single
dimensions of them (``Member``), or for whole groups (``Group``). docs/criteria.md shows one of each.
"""

from prunus.importance.context import Context, Found, Loss, Place, cross_entropy
from prunus.importance.criteria import CRITERIA, name_of, resolve, score
from prunus.importance.scores import AGGREGATIONS, Criterion, Importance

__all__ = [
    "AGGREGATIONS",
    "CRITERIA",
    "Context",
    "Criterion",
    "Found",
    "Importance",
    "Loss",
    "Place",
    "cross_entropy",
    "name_of",
    "resolve",
    "score",
]
