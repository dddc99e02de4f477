"""The result: a ``from_pretrained`` folder, written shard by shard beside its place and renamed when it is whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from prunus.blockwise.shards import INDEX
from prunus.deploy.folder import replacing

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".gguf")


class Writer:
    """Takes tensors, a shard at a time; no more than one is ever held."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shards: list[list[str]] = []
        self.bytes = self.largest = 0

    def add(self, tensors: Mapping[str, Tensor]) -> None:
        """Write one shard."""
        if tensors:
            self.shards.append(list(tensors))
            size = sum(t.numel() * t.element_size() for t in tensors.values())
            self.bytes, self.largest = self.bytes + size, max(self.largest, size)
            path = self.folder / _part(len(self.shards))
            save_file({n: t.cpu().contiguous() for n, t in tensors.items()}, path, metadata={"format": "pt"})

    def close(self) -> None:
        """Give the shards their final names and write the index."""
        total, weight_map = len(self.shards), {}
        for number, names in enumerate(self.shards, start=1):
            file = f"model-{number:05d}-of-{total:05d}.safetensors"
            (self.folder / _part(number)).rename(self.folder / file)
            weight_map.update(dict.fromkeys(names, file))
        index = {"metadata": {"total_size": self.bytes}, "weight_map": dict(sorted(weight_map.items()))}
        (self.folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _part(number: int) -> str:
    return f"part-{number:05d}.safetensors"


@contextmanager
def writing(source: Path, out: str | PathLike[str]) -> Iterator[Writer]:
    """A writer of ``out``, which appears whole or not at all, with all small files of ``source`` (tokenizer, config).

    Raises:
        SaveError: something is there already.
    """
    with replacing(Path(out), overwrite=False) as new:
        for path in source.iterdir():
            if path.is_file() and path.suffix not in _WEIGHTS and not path.name.endswith(".index.json"):
                shutil.copyfile(path, new / path.name)
        writer = Writer(new)
        yield writer
        writer.close()
