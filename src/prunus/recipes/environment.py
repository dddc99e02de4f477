"""What a run was made with: versions, git state, machine, seeds."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import subprocess
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

_COMPUTING = ("torch", "torchvision", "timm", "transformers", "accelerate", "numpy")
_PACKAGES = ("prunus", *_COMPUTING, "safetensors", "onnxruntime")


def environment(seed: int, threads: int) -> dict[str, Any]:
    """Everything that a later reader may need to make the run again."""
    return {
        "seed": seed,
        "threads": threads,
        "versions": _versions(_PACKAGES),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "git": _git(Path.cwd()),
        "prunus": source_digest(),
    }


@lru_cache(maxsize=1)
def source_digest() -> str:
    """A hash of prunus' own code: what it computes may change with it."""
    digest = hashlib.sha256()
    root = Path(__file__).parent.parent
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def computing_versions() -> dict[str, str]:
    """Versions of the libraries that models are made of and computed with."""
    return _versions(_COMPUTING)


def _versions(names: Iterable[str]) -> dict[str, str]:
    return {name: version for name in names if (version := _version(name))}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(folder: Path) -> dict[str, Any] | None:
    """The commit of the folder that the run was started in, and whether files differ from it; None without git."""

    def ask(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, timeout=20, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    commit = ask("rev-parse", "HEAD")
    return None if commit is None else {"commit": commit, "changed": bool(ask("status", "--porcelain"))}
