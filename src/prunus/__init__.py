"""prunus makes trained PyTorch models really smaller and faster.

    small = prunus.prune(model, args, ratio=0.5)

See the README for the whole way from a trained model to a measured, deployed file.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from prunus.budget import Feasibility, feasibility
from prunus.compensation import Compensation, Rotation, compensate, recalibrate, rotate
from prunus.depth import drop_blocks
from prunus.errors import InputError, NothingToPrune, PlanError, PrunusError, SaveError, TraceError
from prunus.extraction import Extraction, extract
from prunus.heads import free_heads
from prunus.importance import Importance
from prunus.plan import Plan
from prunus.planning import plan
from prunus.profile import Profile, profile
from prunus.prove import Proof, prove
from prunus.prune import prune
from prunus.residual import Block, find_blocks
from prunus.running import Examples
from prunus.sensitivity import PruningTable, Sensitivity, sensitivity
from prunus.trace import Graph, trace

if TYPE_CHECKING:
    from prunus.deploy.acceleration import accelerate_sparse
    from prunus.deploy.bench import Bench, bench
    from prunus.deploy.formats import export, load_program, save_program
    from prunus.deploy.latency import Runtime
    from prunus.deploy.quantize import quantize, quantize_torch
    from prunus.deploy.roofline import Roofline, roofline
    from prunus.deploy.runtimes import Saved
    from prunus.deploy.saving import load, save
    from prunus.deploy.sparse import load_sparse, save_sparse
    from prunus.iterating import Iteration, iterate
    from prunus.masks.sparsifier import Sparsifier
    from prunus.searching import Search, search

__version__ = "0.1.0"

_LAZY = {
    "Bench": "prunus.deploy.bench",
    "Roofline": "prunus.deploy.roofline",
    "Iteration": "prunus.iterating",
    "Runtime": "prunus.deploy.latency",
    "Search": "prunus.searching",
    "iterate": "prunus.iterating",
    "search": "prunus.searching",
    "Saved": "prunus.deploy.runtimes",
    "Sparsifier": "prunus.masks.sparsifier",
    "accelerate_sparse": "prunus.deploy.acceleration",
    "bench": "prunus.deploy.bench",
    "export": "prunus.deploy.formats",
    "load": "prunus.deploy.saving",
    "load_program": "prunus.deploy.formats",
    "load_sparse": "prunus.deploy.sparse",
    "quantize": "prunus.deploy.quantize",
    "quantize_torch": "prunus.deploy.quantize",
    "roofline": "prunus.deploy.roofline",
    "save": "prunus.deploy.saving",
    "save_program": "prunus.deploy.formats",
    "save_sparse": "prunus.deploy.sparse",
}

__all__ = [
    "Bench",
    "Block",
    "Compensation",
    "Examples",
    "Extraction",
    "Feasibility",
    "Graph",
    "Importance",
    "InputError",
    "Iteration",
    "NothingToPrune",
    "Plan",
    "PlanError",
    "Profile",
    "Proof",
    "PruningTable",
    "PrunusError",
    "Roofline",
    "Rotation",
    "Runtime",
    "SaveError",
    "Saved",
    "Search",
    "Sensitivity",
    "Sparsifier",
    "TraceError",
    "accelerate_sparse",
    "bench",
    "compensate",
    "drop_blocks",
    "export",
    "extract",
    "feasibility",
    "find_blocks",
    "free_heads",
    "iterate",
    "load",
    "load_program",
    "load_sparse",
    "plan",
    "profile",
    "prove",
    "prune",
    "quantize",
    "quantize_torch",
    "recalibrate",
    "roofline",
    "rotate",
    "save",
    "save_program",
    "save_sparse",
    "search",
    "sensitivity",
    "trace",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'prunus' has no attribute {name!r}")
