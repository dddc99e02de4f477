"""Which layers can lose how much: measured group by group, and turned into a pruning table."""

from prunus.sensitivity.curves import Row, Sensitivity
from prunus.sensitivity.measuring import Evaluate, sensitivity
from prunus.sensitivity.table import PruningTable

__all__ = ["Evaluate", "PruningTable", "Row", "Sensitivity", "sensitivity"]
