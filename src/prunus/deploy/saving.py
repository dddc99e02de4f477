"""Save a small model as weights and a plan, and load it with nothing but the architecture's factory. No pickle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from prunus import documents
from prunus.deploy import tensors as storage
from prunus.deploy.filling import fill, left_on_meta
from prunus.deploy.folder import EXTRAS, PLAN, WEIGHTS, check_file, read_text, replacing, sha256
from prunus.deploy.record import Record
from prunus.errors import InputError, PlanError, SaveError
from prunus.plan import Plan
from prunus.running import check_eager
from prunus.surgery import named_tensors

_FILLERS = {"normal_", "uniform_", "fill_", "zero_"}
_META_CANT = (RuntimeError, TypeError, ValueError)  # what reading a value of a meta tensor raises


def save(
    small: nn.Module,
    folder: str | PathLike[str],
    *,
    plan: Plan | None = None,
    metrics: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Save a pruned model as a folder of safetensors and JSON.

    ``model.safetensors`` is the model's ``state_dict``, tied weights once. ``extras.safetensors``, if there, holds the
    tensors a state dict leaves out (non-persistent buffers, tensor attributes). ``plan.json`` holds the plan, hashes,
    modes and ``requires_grad`` flags. The folder appears whole or not at all.

    Args:
        small: the pruned model, on any device.
        folder: where to; parents are made.
        plan: by default ``small.prunus_plan``; composed, if the model was pruned more than once.
        metrics: anything JSON can hold, kept in plan.json.
        overwrite: replace a folder that an earlier save wrote.

    Returns:
        The folder.

    Raises:
        InputError: no plan, or metrics that JSON can't hold.
        SaveError: a tensor that can't be saved or doesn't have the shape the plan gives it, or a folder in the way.
    """
    check_eager(small)
    plan = plan or small.__dict__.get("prunus_plan")
    if not isinstance(plan, Plan):
        raise InputError(
            f"{type(small).__name__} carries no plan, so no architecture could be rebuilt from it: make it with "
            "prunus.prune(...) or plan.apply(model), or pass plan=."
        )
    state = small.state_dict()
    extras = {name: t for name, t in named_tensors(small).items() if name not in state and name in plan.shapes}
    _check_follows(plan, small)
    packed = storage.pack({**state, **extras})
    record_of = _describe(small, state)
    with replacing(Path(folder), overwrite) as new:
        files = {}
        for file, names in ((WEIGHTS, state), (EXTRAS, extras)):
            if names or file == WEIGHTS:
                storage.write({n: packed.tensors[n] for n in names if n in packed.tensors}, new / file)
                files[file] = ((new / file).stat().st_size, sha256(new / file))
        record = Record(plan, files, packed.aliases, packed.orders, metrics=metrics or {}, **record_of)
        text = record.to_json()
        try:
            documents.check_bounds(text)
        except ValueError as error:
            raise SaveError(f"load wouldn't read this plan back: {error}. Fewer metrics, or a coarser cut?") from error
        (new / PLAN).write_text(text, encoding="utf-8")
    return Path(folder)


def load(folder: str | PathLike[str], factory: Callable[[], nn.Module]) -> nn.Module:
    """Load what :func:`save` wrote: the same outputs to the bit, the same modes and flags, on the CPU.

    Args:
        folder: the saved folder.
        factory: called without arguments, builds the architecture before pruning. Its weights aren't used: it is
            called on the meta device, where nothing is computed, and on the CPU only if that isn't enough.

    Returns:
        The small model, with its ``prunus_plan``.

    Raises:
        SaveError: a file is missing, damaged, tampered with or of an unknown version, or doesn't fit what the factory
            builds; the file or the parameter is named.
        InputError: the factory raised, or didn't return a module.
    """
    folder = Path(folder)
    if isinstance(factory, nn.Module) or not callable(factory):
        raise InputError(
            f"factory must be a function that builds the model, such as lambda: Net(); got {type(factory).__name__}."
        )
    record = Record.from_json(read_text(folder / PLAN), str(folder / PLAN))
    saved, extras = _read_all(folder, record)
    small = _built_on_meta(factory, record.plan, folder, extras)
    if small is not None:
        fill(small, saved, record, folder)
    if small is None or left_on_meta(small):
        small = _pruned(_built(factory, "cpu"), record.plan, folder, extras)
        fill(small, saved, record, folder)
    for name, module in small.named_modules():
        module.training = record.training != (name in record.other_mode)
    return small


def _check_follows(plan: Plan, small: nn.Module) -> None:
    """The model must still have the shapes the plan gives, or load couldn't rebuild it: fail now, not then."""
    found = named_tensors(small)
    for name in filter(plan.survives, plan.shapes):
        shape = list(found[name].shape) if name in found else None
        if shape != list(plan.shape_after(name)):
            has = f"has shape {shape}" if shape is not None else "is gone"
            raise SaveError(
                f"{name!r} {has}, but the plan leaves it {list(plan.shape_after(name))}: the model was changed after "
                "it was pruned. Make such changes before pruning, in the factory too, and prune again."
            )
    state = {*dict(small.named_parameters(remove_duplicate=False)), *small.state_dict()}
    for name in found:
        if name in state and name not in plan.shapes:
            raise SaveError(
                f"the model has {name!r}, which its plan doesn't know: it was added after pruning. Make such changes "
                "before pruning, in the factory too, and prune again."
            )


def _describe(small: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    from prunus import __version__

    versions = {name: entry.get("version") for name, entry in getattr(state, "_metadata", {}).items()}
    return {
        "training": small.training,
        "other_mode": frozenset(n for n, module in small.named_modules() if module.training != small.training),
        "frozen": frozenset(n for n, p in small.named_parameters(remove_duplicate=False) if not p.requires_grad),
        "module_versions": {n: version for n, version in versions.items() if isinstance(version, int) and version != 1},
        "written_by": {"prunus": __version__, "torch": str(torch.__version__)},
    }


def _read_all(folder: Path, record: Record) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Every saved tensor under each of its names, and those that no state dict holds; hashes checked."""
    unknown = set(record.files) - {WEIGHTS, EXTRAS}
    if WEIGHTS not in record.files or unknown:
        raise SaveError(f"{folder / PLAN} must list {WEIGHTS} and at most {EXTRAS}, got {sorted(record.files)}.")
    saved: dict[str, Tensor] = {}
    extras: dict[str, Tensor] = {}
    for file, (size, digest) in record.files.items():
        path = folder / file
        found = check_file(path)
        if found != size:
            raise SaveError(f"{path} has {found:,} bytes where {size:,} were saved: it is truncated; copy it again.")
        if sha256(path) != digest:
            raise SaveError(
                f"{path} isn't the file that was saved (its SHA-256 differs from the one in {PLAN}): it was changed or "
                "damaged; copy or save it again."
            )
        read = storage.read(path, record.orders)
        saved.update(read)
        if file == EXTRAS:
            extras.update(read)
    for name, source in record.aliases.items():
        if source not in saved:
            raise SaveError(f"{folder / PLAN} ties {name!r} to {source!r}, which isn't saved: save the model again.")
        saved[name] = saved[source]
    return saved, extras


class _Unfilled(TorchFunctionMode):
    """Leaves out the initialization of tensors that have no values to set: on the meta device it takes longest."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in _FILLERS and args and isinstance(args[0], Tensor) and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


def _built(factory: Callable[[], nn.Module], device: str) -> nn.Module:
    """What the factory builds on a device; the random state stays as it was."""
    with ExitStack() as context:
        context.enter_context(torch.random.fork_rng(devices=[]))
        context.enter_context(torch.device(device))
        if device == "meta":
            context.enter_context(_Unfilled())
        try:
            model = factory()
        except Exception as error:
            raise InputError(f"the factory raised {type(error).__name__}: {error}.") from error
    if not isinstance(model, nn.Module):
        raise InputError(
            f"the factory must return the torch.nn.Module before pruning; it returned {type(model).__name__}."
        )
    return model


def _built_on_meta(
    factory: Callable[[], nn.Module], plan: Plan, folder: Path, extras: Mapping[str, Tensor]
) -> nn.Module | None:
    """The small model without values, or None where the factory needs values (it calls ``.item()``, say)."""
    try:
        model = _built(factory, "meta")
    except InputError as error:
        if isinstance(error.__cause__, _META_CANT):
            return None
        raise
    return _pruned(model, plan, folder, extras)


def _pruned(model: nn.Module, plan: Plan, folder: Path, extras: Mapping[str, Tensor]) -> nn.Module:
    _give_what_forward_made(model, plan, extras)
    try:
        return plan.apply(model)
    except PlanError as error:
        raise SaveError(f"{folder} doesn't fit the {type(model).__name__} that the factory builds: {error}") from error


def _give_what_forward_made(model: nn.Module, plan: Plan, extras: Mapping[str, Tensor]) -> None:
    """Plain tensors that the pruned model's ``forward`` had made (anchors, positions) and a new one hasn't yet."""
    modules = dict(model.named_modules())
    for name in extras.keys() & (plan.shapes.keys() - named_tensors(model).keys()):
        path, _, own = name.rpartition(".")
        module = modules.get(path)
        if module is not None and (not hasattr(module, own) or _stands_for_a_tensor(module, own)):
            module.__dict__[own] = torch.empty(plan.shapes[name], dtype=extras[name].dtype, device="meta")


def _stands_for_a_tensor(module: nn.Module, name: str) -> bool:
    """Whether ``forward`` puts a tensor there: what is there is None or, in its class, a tensor; not a method, say."""
    registered = name in module._parameters or name in module._buffers
    standing = getattr(module, name)
    return not registered and (standing is None or isinstance(standing, Tensor))
