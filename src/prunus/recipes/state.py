"""What one stage leaves for the next: weights, plan, masks, pruning table; in a folder that is whole or not there."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prunus.deploy.folder import sha256
from prunus.disk import sync
from prunus.errors import SaveError
from prunus.masks import Sparsifier
from prunus.plan import Plan
from prunus.train.checkpoints import model_tensors, read_model

MODEL, MASKS, PLAN, OUTCOME = "model.safetensors", "masks.safetensors", "plan.json", "outcome.json"
_INPUTS = (MODEL, MASKS, PLAN)
"""The files that the next stage starts from; with the table, they are its inputs."""


@dataclass
class State:
    """A model between two stages. ``masks`` are those of :meth:`prunus.Sparsifier.state_dict`."""

    model: nn.Module
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    table: Mapping[str, float] = field(default_factory=dict)

    @property
    def plan(self) -> Plan | None:
        """All cuts so far as one."""
        found = self.model.__dict__.get("prunus_plan")
        return found if isinstance(found, Plan) else None

    def sparsifier(self) -> Sparsifier | None:
        """The masks at work, if there are any."""
        if not self.masks:
            return None
        sparse = Sparsifier(self.model, only=list(self.masks))
        sparse.load_state_dict(self.masks)
        return sparse


@dataclass(frozen=True)
class Outcome:
    """A finished stage on disk: its folder, what it found, and a digest of what the next one starts from."""

    folder: Path
    found: Mapping[str, Any]
    digest: str


def write_outcome(draft: Path, state: State, found: Mapping[str, Any]) -> None:
    """Add the state to a stage's folder, beside the files it wrote itself, and let the disk have it all."""
    _write_tensors(draft / MODEL, model_tensors(state.model))
    if state.masks:
        _write_tensors(draft / MASKS, state.masks)
    if state.plan is not None:
        (draft / PLAN).write_text(state.plan.to_json(), encoding="utf-8")
    files = {p.relative_to(draft).as_posix(): sha256(p) for p in sorted(draft.rglob("*")) if p.is_file()}
    outcome = {"found": found, "table": dict(state.table), "files": files}
    (draft / OUTCOME).write_text(json.dumps(outcome, indent=2) + "\n", encoding="utf-8")
    for path in (*draft.rglob("*"), draft):
        sync(path)


def read_outcome(folder: Path) -> Outcome:
    """A finished stage, each of its files checked.

    Raises:
        SaveError: a file is missing or was changed.
    """
    try:
        written = json.loads((folder / OUTCOME).read_text(encoding="utf-8"))
        files: Mapping[str, str] = written["files"]
        for name, digest in files.items():
            if sha256(folder / name) != digest:
                raise SaveError(
                    f"{folder / name} was changed after the stage wrote it: remove {folder} to run it again."
                )
        inputs = {name: files[name] for name in _INPUTS if name in files}
        return Outcome(folder, written["found"], digest_of([inputs, written["table"]]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, SaveError):
            raise
        raise SaveError(f"{folder} can't be read ({error}): remove it to run its stage again.") from error


def read_state(outcome: Outcome, base: Callable[[], nn.Module]) -> State:
    """The state that a stage left, in the architecture that ``base`` builds.

    Raises:
        SaveError: it is of another model.
    """
    model = base()
    if (outcome.folder / PLAN).is_file():
        model = Plan.from_json((outcome.folder / PLAN).read_text(encoding="utf-8")).apply(model)
    read_model(outcome.folder, model_tensors(model))
    masks = _read(outcome.folder / MASKS) if (outcome.folder / MASKS).is_file() else {}
    table = json.loads((outcome.folder / OUTCOME).read_text(encoding="utf-8"))["table"]
    return State(model.eval(), masks, table)


def put_in_place(draft: Path, target: Path) -> None:
    """One rename, after which the folder is there for good."""
    if target.exists():
        shutil.rmtree(target)
    draft.rename(target)
    sync(target.parent)


def digest_of(value: Any) -> str:
    """A hash of anything JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    save_file({name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}, path)


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise SaveError(f"{path} can't be read: {error}") from error
