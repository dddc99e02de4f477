"""Models larger than memory: pruned block by block, from one ``from_pretrained`` folder to another."""

from prunus.blockwise.cutting import cut
from prunus.blockwise.large import LargeModel
from prunus.blockwise.sparsifying import METHODS, Sparsified, sparsify

__all__ = ["METHODS", "LargeModel", "Sparsified", "cut", "sparsify"]
