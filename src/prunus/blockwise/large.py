"""A model whose weights stay on disk: its architecture without values, and the blocks that get theirs one at a time."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prunus.blockwise.memory import trim
from prunus.blockwise.shards import Shards
from prunus.errors import InputError, SaveError
from prunus.importance.context import Context
from prunus.plan import Plan
from prunus.running import on_cpu
from prunus.surgery import Kept, slice_tensor
from prunus.trace import Member


class LargeModel:
    """A ``from_pretrained`` folder, opened without reading a weight.

    ``model`` has its parameters on the meta device, so that it can be traced and planned on:
    ``prunus.plan(large.model, ids, importance=large.l2, uniform=True)``.

    Args:
        folder: config.json and safetensors, sharded or not.

    Raises:
        SaveError: the folder isn't complete, or holds other weights than its config's architecture needs.
        InputError: transformers or accelerate isn't installed.
    """

    def __init__(self, folder: str | PathLike[str]) -> None:
        self.folder = Path(folder)
        self.shards = Shards(self.folder)
        self.model = _skeleton(self.folder)
        self.keys = _keys(self.model, self.shards)
        self.kept: Kept = {}

    def tensor(self, name: str) -> Tensor:
        """A parameter's or buffer's values, read from disk."""
        found = self.shards.get(self.keys[name])
        return slice_tensor(found, self.kept[name]) if name in self.kept else found

    def l2(self, context: Context) -> dict[Member, Tensor]:
        """The importance "l2" for :func:`prunus.plan`, from the weights on disk, of which it holds one at a time."""
        found = {}
        for name in context.weights:
            weight = self.tensor(name)
            exact = torch.promote_types(weight.dtype, torch.float32)
            for dim in range(weight.dim()):
                others = [d for d in range(weight.dim()) if d != dim]
                norms = torch.linalg.vector_norm(weight, dim=others, dtype=exact) if others else weight.to(exact)
                found[Member(name, dim)] = norms.square()
            del weight
            trim()
        return found

    def small(self, plan: Plan) -> LargeModel:
        """What a plan makes of it: the same weights on disk, sliced when they are read.

        Raises:
            PlanError: the plan isn't for this model.
        """
        result = copy.copy(self)
        result.model, result.kept = plan.apply(self.model), plan.kept
        return result

    def stored(self, module: nn.Module) -> list[str]:
        """The names of a submodule's tensors that are on disk."""
        inside = {id(t) for t in (*module.parameters(), *module.buffers())}
        return [name for name, tensor in _tensors(self.model) if id(tensor) in inside and name in self.keys]


def _skeleton(folder: Path) -> nn.Module:
    """The architecture of a folder's config, in eval mode, with parameters on the meta device and real buffers."""
    try:
        import transformers
        from accelerate import init_empty_weights
    except ImportError as error:
        raise InputError("models larger than memory need transformers and accelerate: pip install them.") from error
    if not (folder / "config.json").is_file():
        raise SaveError(f"{folder} holds no config.json: is it a folder that save_pretrained wrote?")
    config = transformers.AutoConfig.from_pretrained(folder)
    name = (config.architectures or [""])[0]
    kind = getattr(transformers, name, None)
    if kind is None:
        raise SaveError(f"{folder / 'config.json'} names the architecture {name!r}, which transformers doesn't have.")
    with on_cpu(), warnings.catch_warnings(), init_empty_weights(include_buffers=False):
        warnings.simplefilter("ignore")
        model: nn.Module = kind(config)
    getattr(model, "tie_weights", lambda: None)()  # each parameter was replaced by its own on the meta device
    return model.eval().requires_grad_(False)


def _keys(model: nn.Module, shards: Shards) -> dict[str, str]:
    """The name of each tensor of the model -> its name on disk, where that may lack the base model's prefix, or add it.

    Raises:
        SaveError: a parameter isn't there.
    """
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    found: dict[str, str] = {}
    for name, _ in _tensors(model):
        for key in (name, name.removeprefix(prefix), f"{prefix}{name}"):
            if key in shards.files:
                found[name] = key
                break
    have = {id(tensor) for name, tensor in _tensors(model) if name in found}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) not in have:
            raise SaveError(
                f"{shards.folder} holds no weights for {name!r} of {type(model).__name__}: were they saved by another "
                "class, or converted when loaded? Load the model with from_pretrained, save it with save_pretrained, "
                "and try again."
            )
    return found


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


@contextmanager
def filled(
    model: nn.Module, values: Mapping[str, Tensor], dtype: torch.dtype | None, device: torch.device
) -> Iterator[None]:
    """Within, the named tensors of ``model`` have these values; afterwards they are on the meta device again."""
    before: list[tuple[dict[str, Any], str, Any]] = []
    made: dict[int, Any] = {}
    try:
        for name, value in values.items():
            path, _, leaf = name.rpartition(".")
            module = model.get_submodule(path)
            store: dict[str, Any] = module._parameters if leaf in module._parameters else module._buffers
            old = store[leaf]
            if id(old) not in made:
                moved = value.to(device, dtype if value.is_floating_point() else None)
                made[id(old)] = nn.Parameter(moved, requires_grad=False) if isinstance(old, nn.Parameter) else moved
            before.append((store, leaf, old))
        for store, leaf, old in before:
            store[leaf] = made[id(old)]
        yield
    finally:
        for store, leaf, old in before:
            store[leaf] = old


def value_of(model: nn.Module, name: str) -> Tensor:
    """A parameter or buffer, detached."""
    path, _, leaf = name.rpartition(".")
    found: Tensor = getattr(model.get_submodule(path), leaf)
    return found.detach()
