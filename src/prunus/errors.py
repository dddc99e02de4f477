"""The errors prunus raises: each says what is wrong, where, and what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PrunusError(Exception):
    """Base of every error that prunus raises on purpose."""


class InputError(PrunusError, ValueError):
    """An argument is wrong: a ratio, a name, an example input, a model that can't be analysed."""


class TraceError(PrunusError, RuntimeError):
    """The model could not be run on the example inputs; the user's own exception is the cause."""


class PlanError(PrunusError, ValueError):
    """A plan can't be made, or doesn't fit the model it is applied to."""


class NothingToPrune(PlanError):
    """The request would remove nothing; the message names why."""


class SaveError(PrunusError, ValueError):
    """A saved folder is missing, truncated, tampered with, or doesn't fit the model."""


def suggest(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'a' or 'b'?"`` with the closest known names, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
