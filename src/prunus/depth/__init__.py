"""Depth: whole residual blocks removed."""

from prunus.depth.dropping import drop_blocks

__all__ = ["drop_blocks"]
