"""A hash of what a name in a recipe stands for, so that its stages run again when it changes."""

from __future__ import annotations

import hashlib
import inspect
from functools import partial
from pathlib import Path

from prunus.naming import callable_named


def fingerprint(spec: str) -> str:
    """A hash of the file that defines what is named, or of the files of a folder."""
    where, _, name = spec.rpartition(":")
    if where == "hf":
        files = sorted(p for p in Path(name).iterdir() if p.is_file())
        return _digest(files)
    found = callable_named(spec)
    while isinstance(found, partial):
        found = found.func
    file = inspect.getsourcefile(found)
    return _digest([Path(file)]) if file else ""


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()
