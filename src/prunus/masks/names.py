"""Which of a model's parameters get masks."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from torch import nn

from prunus.errors import InputError, suggest


def as_names(names: Iterable[str]) -> tuple[str, ...]:
    """A tuple of names; one name may stand alone."""
    return (names,) if isinstance(names, str) else tuple(names)


def chosen_parameters(model: nn.Module, only: tuple[str, ...], skip: tuple[str, ...]) -> dict[str, nn.Parameter]:
    """The parameters that get masks, by name: see :class:`~prunus.masks.sparsifier.Sparsifier` for the rules.

    Raises:
        InputError: a name matches nothing, nothing is left, or torch.nn.utils.prune has masked the model.
    """
    parameters = dict(model.named_parameters())
    masked = [name for name, _ in model.named_buffers() if name.removesuffix("_mask") + "_orig" in parameters]
    if masked:
        raise InputError(
            f"{masked[0].removesuffix('_mask')!r} is masked by torch.nn.utils.prune: take the masks over with "
            "prunus.masks.from_torch_prune(model)."
        )
    chosen = {name: p for name, p in parameters.items() if _wanted(model, name, p, only)}
    for pattern in (*only, *skip):
        if not any(matches(name, (pattern,)) for name in parameters):
            known = [*parameters, *(path for path, _ in model.named_modules())]
            raise InputError(f"{pattern!r} matches no parameter.{suggest(pattern, known)}")
    empty = [name for name, parameter in chosen.items() if parameter.is_meta]
    if empty:
        raise InputError(f"{empty[0]!r} is on the meta device and has no values to mask: load the weights first.")
    chosen = {name: parameter for name, parameter in chosen.items() if not matches(name, skip)}
    if not chosen:
        raise InputError(f"{type(model).__name__} has no weights to mask; name them: Sparsifier(model, only=[...]).")
    return chosen


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a parameter has one of the names, lies in a module of that name, or fits a shell pattern."""
    return any(name == p or name.startswith(f"{p}.") or fnmatchcase(name, p) for p in patterns)


def _wanted(model: nn.Module, name: str, parameter: nn.Parameter, only: tuple[str, ...]) -> bool:
    """A parameter named in full; else a weight matrix or kernel, of a module that is named if any is."""
    if name in only:
        return True
    owner, _, own = name.rpartition(".")
    matrix = "weight" in own and parameter.dim() >= 2 and parameter.is_floating_point()
    other = isinstance(model.get_submodule(owner), (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm))
    return matrix and (matches(name, only) if only else not other)
