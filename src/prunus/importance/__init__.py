"""How much each index of a group matters: a saliency per weight, gathered over everything that goes through the index.

A criterion is a function from a parameter to a non-negative tensor of the same shape. Writing one takes a few lines::

    def squared(name, weight):
        return weight.detach() ** 2

    prunus.prune(model, args, importance=squared)
"""

from prunus.importance.scores import CRITERIA, Criterion, criterion, score

__all__ = ["CRITERIA", "Criterion", "criterion", "score"]
