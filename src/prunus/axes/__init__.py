"""The axis algebra alone: expressions, unification, regrouping, cutting, keep-vectors. Knows no operators."""

from prunus.axes.expression import EMPTY, UNIT, Atom, Axes, Axis, Product, Sum, atoms, product, total
from prunus.axes.space import Space
from prunus.axes.vectors import Keep, count, fold, keep_vector, places

__all__ = [
    "EMPTY",
    "UNIT",
    "Atom",
    "Axes",
    "Axis",
    "Keep",
    "Product",
    "Space",
    "Sum",
    "atoms",
    "count",
    "fold",
    "keep_vector",
    "places",
    "product",
    "total",
]
