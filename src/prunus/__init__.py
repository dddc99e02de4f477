"""prunus makes trained PyTorch models really smaller and faster.

    small = prunus.prune(model, args, ratio=0.5)

See the README for the whole way from a trained model to a measured, deployed file.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from prunus.errors import InputError, NothingToPrune, PlanError, PrunusError, SaveError, TraceError
from prunus.plan import Plan

if TYPE_CHECKING:
    from prunus.deploy.export import export
    from prunus.deploy.saving import load, save
    from prunus.profile import profile
    from prunus.sensitivity import sensitivity

__version__ = "0.1.0"

_LAZY = {
    "export": "prunus.deploy.export",
    "load": "prunus.deploy.saving",
    "profile": "prunus.profile",
    "save": "prunus.deploy.saving",
    "sensitivity": "prunus.sensitivity",
}

__all__ = [
    "InputError",
    "NothingToPrune",
    "Plan",
    "PlanError",
    "PrunusError",
    "SaveError",
    "TraceError",
    "export",
    "load",
    "profile",
    "save",
    "sensitivity",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'prunus' has no attribute {name!r}")
