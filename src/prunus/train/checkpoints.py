"""Checkpoints that are whole or not there: folders of safetensors and JSON, put in place by one rename.

run/step-00000120/
    model.safetensors       the model's parameters and buffers, by their names
    training.safetensors    optimizer, schedule, masks, averages, random numbers: every tensor of the state
    training.json           the rest of it, and what the run is
    plan.json               the model's Plan, if it was pruned
    random-1.safetensors, random-1.json    random numbers of another process, where there are several
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prunus.disk import sync
from prunus.errors import InputError, SaveError
from prunus.plan import Plan
from prunus.train.packing import pack, unpack
from prunus.train.sharding import copy_whole

SCHEMA = 1
_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class Checkpoints:
    """Where and how often a run is saved, and that it goes on from there.

    ``fit(..., checkpoints=Checkpoints("run"))`` saves after each epoch and each ``every`` steps of the optimizer. The
    same call in a new process goes on from the newest one, and ends with the weights, to the bit on a CPU, that a run
    without an interruption has. A run that is finished is loaded, not trained again.

    Attributes:
        folder: one run's own; made if need be.
        every: steps of the optimizer between two; None saves after epochs alone.
        keep: how many of the newest stay.
        resume: False is an error if the folder holds a checkpoint already.
    """

    folder: str | os.PathLike[str]
    every: int | None = None
    keep: int = 2
    resume: bool = True

    def __post_init__(self) -> None:
        if self.keep < 1 or (self.every is not None and self.every < 1):
            raise InputError(f"every and keep must be at least 1, got every={self.every}, keep={self.keep}.")

    def newest(self) -> Path | None:
        """The newest checkpoint, if there is one.

        Raises:
            SaveError: there is one, and ``resume`` is False.
        """
        found = _whole(Path(self.folder))
        if found and not self.resume:
            raise SaveError(f"{self.folder} holds {found[-1].name} already: resume=True goes on from it.")
        return found[-1] if found else None

    def save(
        self,
        step: int,
        model: Mapping[str, Tensor],
        state: Mapping[str, Any],
        plan: Plan | None,
        own: Mapping[str, Any],
        process: int = 0,
        wait: Callable[[], None] = lambda: None,
    ) -> Path:
        """Write one, and remove those that are old. Every process calls it; ``own`` is what it has for itself.

        Raises:
            SaveError: the state holds an object that can't be saved without pickle.
        """
        folder = Path(self.folder)
        target, draft = folder / f"step-{step:08d}", folder / f".draft-{step:08d}"
        if process == 0:
            folder.mkdir(parents=True, exist_ok=True)
            for left in (*folder.glob(".draft-*"), *folder.glob(".old-*")):  # a killed process wrote or removed them
                shutil.rmtree(left)
            draft.mkdir()
            _write_tensors(draft / "model.safetensors", model)
            _write(draft, "training", {"schema": SCHEMA, **state})
            if plan is not None:
                _write_text(draft / "plan.json", plan.to_json())
        wait()
        _write(draft, f"random-{process}", own)
        wait()
        if process == 0:
            sync(draft)
            if target.exists():
                _hidden(target)
            draft.rename(target)
            sync(folder)
            for old in _whole(folder)[: -self.keep]:
                shutil.rmtree(_hidden(old))
        wait()
        return target


def read_state(checkpoint: Path, process: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    """What ``save`` was given: the state, and this process's own.

    Raises:
        SaveError: a file is missing or damaged, of an unknown schema, or of a run with fewer processes.
    """
    state = _read(checkpoint, "training")
    if state.get("schema") != SCHEMA:
        raise SaveError(f"{checkpoint} has schema {state.get('schema')!r}; this version of prunus reads {SCHEMA}.")
    return state, _read(checkpoint, f"random-{process}")


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, those too that a state dict leaves out; tied ones once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def read_model(checkpoint: Path, into: Mapping[str, Tensor]) -> None:
    """Copy the saved values into the model's tensors.

    Raises:
        SaveError: the model has other tensors, in name, shape or dtype.
    """
    saved = _read_tensors(checkpoint / "model.safetensors")
    for name in [*into, *saved]:
        if name not in saved or name not in into:
            side = "model" if name in into else "checkpoint"
            raise SaveError(f"{checkpoint} doesn't fit this model: only the {side} has {name!r}.{_hint(checkpoint)}")
        if saved[name].shape != into[name].shape or saved[name].dtype != into[name].dtype:
            raise SaveError(
                f"{checkpoint} doesn't fit this model: {name!r} is {list(saved[name].shape)} {saved[name].dtype} "
                f"there, {list(into[name].shape)} {into[name].dtype} here.{_hint(checkpoint)}"
            )
    for name, tensor in into.items():
        copy_whole(tensor, saved[name])


def _hint(checkpoint: Path) -> str:
    if not (checkpoint / "plan.json").exists():
        return ""
    return f" It was pruned: Plan.from_json(text of {checkpoint / 'plan.json'}).apply(original) makes the small model."


def _whole(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the oldest first. What isn't finished has another name."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if _NAME.fullmatch(p.name)), key=lambda p: int(p.name[5:]))


def _hidden(path: Path) -> Path:
    """The folder under a name that nobody takes for whole: removing takes more than a moment."""
    return path.rename(path.with_name(f".old-{path.name}"))


def _write(folder: Path, name: str, state: Mapping[str, Any]) -> None:
    tensors: dict[str, Tensor] = {}
    packed = pack(state, tensors, name)
    _write_tensors(folder / f"{name}.safetensors", tensors)
    _write_text(folder / f"{name}.json", json.dumps(packed))


def _read(folder: Path, name: str) -> dict[str, Any]:
    path = folder / f"{name}.json"
    try:
        packed = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SaveError(f"{path} can't be read: {error}. Was the run of as many processes?") from error
    state = unpack(packed, _read_tensors(folder / f"{name}.safetensors"))
    if not isinstance(state, dict):
        raise SaveError(f"{path} is malformed.")
    return state


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    save_file({name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}, path)
    sync(path)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise SaveError(f"{path} can't be read: {error}") from error


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    sync(path)
