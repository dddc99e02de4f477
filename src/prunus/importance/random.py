"""Random scores: the baseline that any criterion must beat."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray


def random(name: str, size: int) -> NDArray[np.float64]:
    """Uniform noise for ``size`` indices, the same at every call for a group of that name; no RNG of others is touched.

    No weight is read, so that a model on the meta device can be planned with it.
    """
    return np.random.default_rng(zlib.crc32(f"{name}{size}".encode())).random(size)
