"""Residual blocks, modules whose output is their input plus something, and rows of modules, found in a run."""

from prunus.residual.blocks import Block, find_blocks
from prunus.residual.chain import find_chain
from prunus.residual.reference import without_blocks
from prunus.residual.row import Row, Stream, find_row, without_cache

__all__ = ["Block", "Row", "Stream", "find_blocks", "find_chain", "find_row", "without_blocks", "without_cache"]
