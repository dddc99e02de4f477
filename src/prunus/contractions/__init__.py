"""Linear maps with weights of their own, as a run calls them: their inputs and outputs as rows, their moments, fits."""

from prunus.contractions.calls import Contraction, positions
from prunus.contractions.moments import Fit, Moments
from prunus.contractions.relevance import Rows, random_sum
from prunus.contractions.rows import with_rows
from prunus.contractions.watch import Watch, names

__all__ = [
    "Contraction",
    "Fit",
    "Moments",
    "Rows",
    "Watch",
    "names",
    "positions",
    "random_sum",
    "with_rows",
]
