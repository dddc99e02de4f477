"""Random scores: the baseline that any criterion must beat."""

from __future__ import annotations

import zlib

import numpy as np

from prunus.importance.context import Context, Found


def random(context: Context) -> Found:
    """Uniform noise for each index, the same at every call for a group of that name; no RNG of others is touched.

    No weight is read, so that a model on the meta device can be planned with it.
    """
    return {
        group: np.random.default_rng(zlib.crc32(f"{group.name}{group.size}".encode())).random(group.size)
        for group in context.graph.free
        if any(True for _ in context.members(group))
    }
