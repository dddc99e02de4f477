"""A model's own way of being saved with its config: it may go on, but says so where the config doesn't fit."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

from torch import nn

METHOD = "save_pretrained"
FITS = "one config fits"
NONE_FITS = "no config fits"


def guard(small: nn.Module, verdict: str | None) -> None:
    """Make ``small.save_pretrained`` warn if no config fits it; where one does, or nothing is known, leave it alone.

    It stays usable: training loops write their checkpoints with it, and the weights are right.
    """
    if isinstance(small.__dict__.get(METHOD), partial):
        del small.__dict__[METHOD]  # of an earlier cut
    if verdict is not None and verdict.startswith(NONE_FITS) and callable(getattr(type(small), METHOD, None)):
        small.__dict__[METHOD] = partial(_warn_and_save, small, verdict)


def _warn_and_save(small: Any, verdict: str, *args: Any, **kwargs: Any) -> Any:
    warnings.warn(
        f"{type(small).__name__}.{METHOD} writes a config that doesn't fit the small model ({verdict}): "
        "from_pretrained will refuse it. Use prunus.save and prunus.load, or prune with uniform=True.",
        stacklevel=2,
    )
    return getattr(type(small), METHOD)(small, *args, **kwargs)
