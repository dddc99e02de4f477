"""Integers that follow sizes: their provenance during the run, and what must change with a cut."""

from prunus.sizes.expression import Arithmetic, Attribute, Count, Expression, evaluate, resolved
from prunus.sizes.solver import Sizes, define, solve
from prunus.sizes.traced import Equation, Ledger, Size, call_site, expression

__all__ = [
    "Arithmetic",
    "Attribute",
    "Count",
    "Equation",
    "Expression",
    "Ledger",
    "Size",
    "Sizes",
    "call_site",
    "define",
    "evaluate",
    "expression",
    "resolved",
    "solve",
]
