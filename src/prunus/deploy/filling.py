"""Put saved tensors into a model rebuilt from its factory and plan, each checked by name first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from prunus.deploy.record import Record
from prunus.errors import SaveError
from prunus.plan import Plan
from prunus.running import tensors_in
from prunus.surgery import named_tensors


def fill(small: nn.Module, saved: Mapping[str, Tensor], record: Record, folder: Path) -> None:
    """Put ``saved`` in place of the tensors of ``small``; names of one saved tensor come to share one Parameter.

    Raises:
        SaveError: a tensor is missing, left over, or of another shape or kind; it is named.
    """
    wanted, named = small.state_dict(), named_tensors(small)
    for name, tensor in {**named, **wanted}.items():
        _check(name, tensor, saved, folder)
    for name in saved:
        if name not in wanted and name not in named:
            raise SaveError(f"{folder} holds {name!r}, which the model that the factory builds doesn't have.")
    _fill_state(small, wanted, saved, record, folder)
    for name in named.keys() - wanted.keys():
        path, _, key = name.rpartition(".")
        module = small.get_submodule(path)
        (module._buffers if key in module._buffers else module.__dict__)[key] = saved[name]


def left_on_meta(small: nn.Module) -> bool:
    """Whether a tensor that isn't saved, such as one in a list, still has no values."""
    held = (value for module in small.modules() for value in module.__dict__.values() if not isinstance(value, Plan))
    return any(tensor.is_meta for tensor in tensors_in(list(held)))  # a plan has no tensors, but many integers


def _fill_state(
    small: nn.Module, wanted: Mapping[str, Tensor], saved: Mapping[str, Tensor], record: Record, folder: Path
) -> None:
    """Through ``load_state_dict``, so that the model's own hooks and versions have their say."""
    state: OrderedDict[str, Tensor] = OrderedDict((name, saved[name]) for name in wanted)
    parameters: dict[int, nn.Parameter] = {}
    for name, _ in small.named_parameters(remove_duplicate=False):
        if name in state:
            tensor = state[name]
            parameter = nn.Parameter(tensor, requires_grad=tensor.is_floating_point() or tensor.is_complex())
            state[name] = parameters.setdefault(id(tensor), parameter)
    metadata = getattr(wanted, "_metadata", {})
    for module, entry in metadata.items():
        entry["version"] = record.module_versions.get(module, 1)
    state._metadata = metadata  # type: ignore[attr-defined]
    try:
        small.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise SaveError(f"{folder} doesn't load into what the factory builds: {error}") from error
    for name, held in small.named_parameters(remove_duplicate=False):
        held.requires_grad_(name not in record.frozen and (held.is_floating_point() or held.is_complex()))


def _check(name: str, wanted: object, saved: Mapping[str, Tensor], folder: Path) -> None:
    if not isinstance(wanted, Tensor):
        raise SaveError(
            f"the state dict of the factory's model holds {name!r}, a {type(wanted).__name__}, not a tensor."
        )
    if name not in saved:
        raise SaveError(f"{folder} holds no {name!r}, which the model that the factory builds needs: save it again.")
    found = saved[name]
    if found.shape != wanted.shape:
        raise SaveError(
            f"{folder}: {name!r} has shape {list(found.shape)}, but the plan leaves it {list(wanted.shape)}."
        )
    if not _same_kind(found.dtype, wanted.dtype):
        raise SaveError(f"{folder}: {name!r} is of {found.dtype}, but the factory's model has {wanted.dtype} there.")


def _same_kind(one: torch.dtype, other: torch.dtype) -> bool:
    """Precision may differ from the factory's (a model saved in half precision); the kind of number may not."""
    both_real = one.is_floating_point and other.is_floating_point
    return one == other or both_real or (one.is_complex and other.is_complex)
