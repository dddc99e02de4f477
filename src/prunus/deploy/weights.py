"""State dicts that others saved: tensors alone, whatever else the file holds."""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from prunus.deploy.folder import check_file
from prunus.errors import SaveError


def read_state_dict(path: str | PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file, or of one that ``torch.save(model.state_dict(), path)`` wrote.

    Nothing from the file is run: ``torch.load`` reads it with ``weights_only=True``, and what isn't a name with a
    tensor is refused. A link is followed only if it leads to a regular file.

    Raises:
        SaveError: the file isn't there, is damaged, or holds anything but named tensors.
    """
    if not os.path.exists(path):
        raise SaveError(f"there is no file {path}.")
    path = Path(os.path.realpath(path))
    check_file(path)
    try:
        state = _read(path)
    except Exception as error:
        words = " ".join(str(error).split())[:200]
        raise SaveError(
            f"{path} can't be read as a state dict ({type(error).__name__}: {words}): save model.state_dict(), not the "
            "model."
        ) from error
    if not isinstance(state, dict):
        raise SaveError(f"{path} holds a {type(state).__name__}, not a state dict: save model.state_dict().")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise SaveError(
                f"{path} holds {str(name)[:60]!r}, a {type(value).__name__}, not a named tensor: save "
                "model.state_dict() alone."
            )
    return state


def _read(path: Path) -> object:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)
