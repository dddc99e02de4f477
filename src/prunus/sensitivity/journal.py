"""What was measured, on disk line by line: a process that is killed at any time loses at most the point at hand."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunus.errors import InputError
from prunus.surgery import named_tensors

Key = tuple[str, int]
"""A group and how many of its indices stay; ``("", 0)`` is the uncut model."""


class Journal:
    """Measurements by key, in memory and, with a path, in files that several processes add to, each to its own.

    Args:
        path: the file of process 0; that of process ``r`` has ``.r`` at its end. None keeps everything in memory.
        identity: what the measurements are of; a file of another identity is refused.
        process: the number of this process.

    Raises:
        InputError: the file holds measurements of another model, or none at all.
    """

    def __init__(self, path: str | os.PathLike[str] | None, identity: str, process: int = 0) -> None:
        self.known: dict[Key, Mapping[str, float]] = {}
        self._file: Path | None = None
        if path is None:
            return
        first = Path(path)
        first.parent.mkdir(parents=True, exist_ok=True)
        for file in (first, *sorted(first.parent.glob(f"{first.name}.[0-9]*"))):
            if file.exists():
                self._read(file, identity)
        self._file = first if process == 0 else first.with_name(f"{first.name}.{process}")
        self._repair(self._file)
        if not self._file.exists():
            self._append({"identity": identity})

    def add(self, key: Key, metrics: Mapping[str, float]) -> None:
        """Note a measurement; when this returns, it is on the disk."""
        self.known[key] = metrics
        if self._file is not None:
            self._append({"group": key[0], "kept": key[1], "metrics": dict(metrics)})

    def _append(self, record: Mapping[str, Any]) -> None:
        assert self._file is not None
        with open(self._file, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self, file: Path, identity: str) -> None:
        records = [json.loads(line) for line in _whole_lines(file)]
        if records and records[0].get("identity") != identity:
            raise InputError(
                f"{file} holds measurements of another model, of other weights, or by another criterion: give another "
                "cache, or delete it."
            )
        for record in records[1:]:
            self.known[record["group"], record["kept"]] = record["metrics"]

    def _repair(self, file: Path) -> None:
        """Take off a last line that was cut short."""
        if file.exists():
            whole = "".join(line + "\n" for line in _whole_lines(file))
            if not whole:
                file.unlink()
            elif len(whole.encode()) < file.stat().st_size:
                os.truncate(file, len(whole.encode()))


def _whole_lines(file: Path) -> list[str]:
    text = file.read_bytes().decode("utf-8", errors="replace")
    return text.split("\n")[:-1]


def identity_of(model: nn.Module, criterion: str) -> str:
    """A digest of the model's names, shapes and values, and of the criterion's name."""
    digest = hashlib.sha256(criterion.encode())
    for name, tensor in named_tensors(model).items():
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        if not tensor.is_meta:
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
