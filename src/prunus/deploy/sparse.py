"""Sparse weights as a small file: where the values are, a bit each, and the values; bit for bit what they were.

A safetensors file. A tensor that gets smaller by it is stored as bytes: first its mask, one bit an element, then the
first bytes of all values that aren't zero, then their second bytes, and so on: bytes of one kind lie together, since
exponents are alike and mantissas are not. Each of these parts is deflated where that makes it shorter, so a part that
has its full length isn't. Other tensors are stored as they are.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import zlib
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from prunus.deploy import tensors as storage
from prunus.deploy.folder import check_file
from prunus.errors import SaveError
from prunus.masks.bits import pack_bits, unpack_bits
from prunus.masks.interop import plain_state_dict

_KEY = "prunus_sparse"
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in storage.DTYPES}


class _Entry(NamedTuple):
    """How one tensor is stored: its shape, its type, how many elements aren't zero, and the length of each part."""

    shape: list[int]
    dtype: str
    filled: int
    lengths: list[int]


def save_sparse(model: nn.Module | Mapping[str, Tensor], path: str | PathLike[str], *, overwrite: bool = False) -> Path:
    """Save a state dict with many zeros as a small file, without loss and without pickle.

    Args:
        model: the model (its ``state_dict`` is saved), or a state dict. Masks of torch.nn.utils.prune are applied.
        path: the file; it appears whole or not at all.
        overwrite: replace a file that is there.

    Returns:
        The path.

    Raises:
        SaveError: the file is there already, or a tensor can't be saved.
    """
    path = Path(path)
    if path.exists() and (path.is_dir() or not overwrite):
        raise SaveError(f"{path} is there already: pass overwrite=True to replace a file, or give another name.")
    state = model.state_dict() if isinstance(model, nn.Module) else model
    packed = storage.pack(plain_state_dict(state))
    parts: dict[str, Tensor] = {}
    entries: dict[str, _Entry] = {}
    for name, tensor in packed.tensors.items():
        entry, parts[name] = _encode(tensor)
        if parts[name].numel() < tensor.numel() * tensor.element_size():
            entries[name] = entry
        else:
            parts[name] = tensor
    about = {"version": 1, "sparse": entries, "aliases": packed.aliases, "orders": packed.orders}
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        save_file(parts, new, metadata={"format": "pt", _KEY: json.dumps(about, separators=(",", ":"))})
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)
    return path


def load_sparse(path: str | PathLike[str], *, max_bytes: int | None = None) -> dict[str, Tensor]:
    """The state dict that :func:`save_sparse` saved, on the CPU: ``model.load_state_dict(prunus.load_sparse(path))``.

    Args:
        path: the file.
        max_bytes: the most that the sparse tensors may take; by default 64 MiB and a thousand times the file's size,
            so that no file inflates without end.

    Raises:
        SaveError: the file is missing, damaged, or not of this kind, or its tensors would take more.
    """
    path = Path(path)
    limit = max_bytes or 2**26 + 1000 * check_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get(_KEY, "null"))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise SaveError(f"{path} can't be read as a file of save_sparse ({error}).") from error
    if not isinstance(about, dict) or about.get("version") != 1:
        raise SaveError(f"{path} wasn't written by save_sparse of this version; plain safetensors load elsewhere.")
    try:
        entries = {name: _Entry(*entry) for name, entry in about["sparse"].items()}
        _check_total(path, entries, limit)
        state.update({name: _decode(name, entry, state[name]) for name, entry in entries.items()})
        for name, order in about["orders"].items():
            state[name] = storage.in_order(state[name], tuple(order))
        state.update({name: state[source] for name, source in about["aliases"].items()})
    except (KeyError, TypeError, ValueError, RuntimeError, StopIteration, zlib.error) as error:
        if isinstance(error, SaveError):
            raise
        raise SaveError(f"{path} is damaged ({type(error).__name__}: {error}): copy or save it again.") from error
    return state


def _encode(tensor: Tensor) -> tuple[_Entry, Tensor]:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    elements = flat.view(torch.uint8).view(-1, tensor.element_size())
    there = (elements != 0).any(1)  # by bits, so that -0.0 is a value
    values = elements[there]
    parts = []
    for part in (pack_bits(there), *values.T):
        raw = part.contiguous().numpy().tobytes()
        parts.append(min(zlib.compress(raw, 9), raw, key=len))
    dtype = str(tensor.dtype).removeprefix("torch.")
    entry = _Entry(list(tensor.shape), dtype, len(values), [len(part) for part in parts])
    return entry, _bytes(b"".join(parts))


def _check_total(path: Path, entries: Mapping[str, _Entry], limit: int) -> None:
    total = sum(
        math.prod(e.shape) * torch.empty((), dtype=_DTYPES[e.dtype], device="cpu").element_size()
        for e in entries.values()
    )
    if total > limit:
        raise SaveError(
            f"{path} would take {total:,} bytes, more than the {limit:,} that a file of its size may: if you trust it, "
            "pass max_bytes=."
        )


def _decode(name: str, entry: _Entry, stored: Tensor) -> Tensor:
    dtype = _DTYPES[entry.dtype]
    size, total = torch.empty((), dtype=dtype, device="cpu").element_size(), math.prod(entry.shape)
    pieces = iter(stored.split(entry.lengths))
    there = unpack_bits(_part(name, next(pieces), -(-total // 8)), torch.Size([total]), name)
    if int(there.sum()) != entry.filled:
        raise SaveError(f"{name!r} has {int(there.sum())} values by its mask and {entry.filled} by its entry: damaged.")
    elements = torch.zeros(total, size, dtype=torch.uint8, device="cpu")
    elements[there] = torch.stack([_part(name, next(pieces), entry.filled) for _ in range(size)], dim=1)
    return elements.view(-1).view(dtype).view(entry.shape)


def _part(name: str, stored: Tensor, length: int) -> Tensor:
    """One part, inflated if it is shorter than it should be, and never to more than that."""
    if len(stored) != length:
        stored = _bytes(zlib.decompressobj().decompress(stored.numpy().tobytes(), length + 1))
    if len(stored) != length:
        raise SaveError(f"a part of {name!r} has {len(stored)} bytes where {length} are due: the file is damaged.")
    return stored


def _bytes(data: bytes) -> Tensor:
    if not data:
        return torch.zeros(0, dtype=torch.uint8, device="cpu")
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)
