"""Tensors to and from safetensors files: shared memory stored once, memory order kept, nothing unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prunus.errors import SaveError

DTYPES = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8),
    *(torch.complex64, torch.bool),
}
"""What safetensors stores."""


class Packed(NamedTuple):
    """Tensors ready to be written: contiguous and unshared, with what it takes to make them as they were."""

    tensors: dict[str, Tensor]
    aliases: dict[str, str]
    orders: dict[str, tuple[int, ...]]


def pack(named: Mapping[str, object]) -> Packed:
    """Store each memory once; a name that shows the very same values as an earlier one becomes its alias.

    Raises:
        SaveError: a value that isn't a plain, strided tensor with data; it is named.
    """
    packed = Packed({}, {}, {})
    names: dict[object, str] = {}
    storages: set[int] = set()
    for name, value in named.items():
        tensor = _plain(name, value)
        storage = tensor.untyped_storage()
        place = (
            storage.data_ptr(),
            tensor.storage_offset(),
            tensor.shape,
            tensor.stride(),
            tensor.dtype,
            tensor.device,
        )
        if tensor.numel() and place in names:
            packed.aliases[name] = names[place]
            continue
        names[place] = name
        order = memory_order(tensor)
        if order != tuple(range(tensor.dim())):
            packed.orders[name] = order
        whole = tensor.numel() * tensor.element_size() == storage.nbytes()
        alone = whole and tensor.is_contiguous() and storage.data_ptr() not in storages
        packed.tensors[name] = tensor if alone else tensor.clone(memory_format=torch.contiguous_format)
        storages.add(storage.data_ptr())
    return packed


def _plain(name: str, value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise SaveError(
            f"the state dict holds {name!r}, a {type(value).__name__}: only tensors are saved, without pickle. "
            "Store it as a buffer, or let the factory make it."
        )
    if value.is_meta:
        raise SaveError(f"{name!r} is on the meta device, so it has no values to save: load or train the model first.")
    if type(value) not in (Tensor, nn.Parameter) or value.layout != torch.strided or value.is_quantized:
        raise SaveError(
            f"{name!r} is a {type(value).__name__} of layout {value.layout}: make it a plain, dense tensor first."
        )
    if value.dtype not in DTYPES:
        raise SaveError(f"{name!r} is of {value.dtype}, which safetensors can't store: convert it first.")
    return value.detach().resolve_conj().resolve_neg()


def memory_order(tensor: Tensor) -> tuple[int, ...]:
    """Dimensions from the widest stride to the narrowest: 0, 1, 2, ... if row-major; 0, 2, 3, 1 if channels last."""
    strides, shape = tensor.stride(), tensor.shape
    return tuple(sorted(range(tensor.dim()), key=lambda d: (-strides[d], shape[d] == 1)))


def in_order(tensor: Tensor, order: tuple[int, ...] | None) -> Tensor:
    """A copy of ``tensor`` in memory of its own, dense and with its dimensions in the given memory order."""
    if order is None:
        return tensor.clone(memory_format=torch.contiguous_format)
    inverse = [order.index(dim) for dim in range(len(order))]
    return tensor.permute(order).clone(memory_format=torch.contiguous_format).permute(inverse)


def write(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file."""
    save_file(dict(tensors), path, metadata={"format": "pt"})


def read(path: Path, orders: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Read a safetensors file into memory of its own, so that the file may change or go afterwards.

    Raises:
        SaveError: the file isn't safetensors, or a dimension order doesn't fit its tensor.
    """
    try:
        mapped = load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise SaveError(
            f"{path} isn't a valid safetensors file ({error}): it is damaged; save the model again."
        ) from error
    for name, order in orders.items():
        if name in mapped and len(order) != mapped[name].dim():
            raise SaveError(
                f"{path}: the dimension order of {name!r} doesn't fit its shape {list(mapped[name].shape)}."
            )
    return {name: in_order(mapped.pop(name), orders.get(name)) for name in list(mapped)}
