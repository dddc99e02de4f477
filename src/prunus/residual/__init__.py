"""Residual blocks: modules whose output is their input plus something, found in a run."""

from prunus.residual.blocks import Block, find_blocks
from prunus.residual.reference import without_blocks

__all__ = ["Block", "find_blocks", "without_blocks"]
