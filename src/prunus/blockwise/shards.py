"""The weights of a ``from_pretrained`` folder, one tensor at a time: one safetensors file, or many and an index."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from prunus.deploy.folder import check_file, read_text
from prunus.errors import SaveError, suggest

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


class Shards:
    """Where each tensor of a folder is. Only names are read at first; no file stays open or mapped.

    Raises:
        SaveError: there are no safetensors, the index is damaged, or a file that it names isn't there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if (folder / INDEX).is_file():
            self.files = _indexed(folder)
        elif (folder / SINGLE).is_file():
            self.files = dict.fromkeys(_names(folder / SINGLE), SINGLE)
        else:
            raise SaveError(
                f"{folder} holds neither {SINGLE} nor {INDEX}: save the model with save_pretrained(folder), which "
                "writes safetensors."
            )

    def get(self, name: str) -> Tensor:
        """One tensor, in memory of its own.

        Raises:
            SaveError: it isn't there, or its file is damaged.
        """
        if name not in self.files:
            raise SaveError(f"{self.folder} holds no tensor {name!r}.{suggest(name, self.files)}")
        path = self.folder / self.files[name]
        try:
            with safe_open(path, framework="pt") as file:
                # The tensor is a view of the mapped file: a copy lets the mapping, and its pages, go.
                found: Tensor = file.get_tensor(name).clone()
        except (SafetensorError, OSError) as error:
            raise SaveError(f"{path} can't be read ({error}): it is damaged or truncated; copy it again.") from error
        return found


def _indexed(folder: Path) -> Mapping[str, str]:
    path = folder / INDEX
    try:
        found: Any = json.loads(read_text(path))["weight_map"]
        files = {str(name): str(file) for name, file in found.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SaveError(f"{path} isn't an index of safetensors files ({type(error).__name__}).") from error
    for file in set(files.values()):
        if Path(file).name != file:
            raise SaveError(f"{path} names {file!r}, which lies outside the folder.")
        check_file(folder / file)
    return files


def _names(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as error:
        raise SaveError(f"{path} can't be read ({error}): it is damaged or truncated; copy it again.") from error
