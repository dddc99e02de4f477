"""Masks held beside a model, where ``state_dict``, ``deepcopy``, ``load`` and the optimizer don't trip over them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunus.errors import InputError, NothingToPrune, suggest
from prunus.masks import selection
from prunus.masks.bits import pack_bits, unpack_bits, zero_outside
from prunus.masks.criteria import SCOPES, Criterion, Loss, Task, criterion, cross_entropy
from prunus.masks.names import as_names, chosen_parameters
from prunus.masks.units import Pattern, Tiles, parse
from prunus.running import check_eager


@dataclass(frozen=True)
class _How:
    """What stays the same from round to round of one ``prune``."""

    importance: str | Criterion
    granularity: str
    scope: str | None
    below: float | None
    data: Iterable[Any] | None
    loss: Loss


class Sparsifier:
    """The masks of a model's weights, and the ways to make them.

    ``sparse.masks`` maps a parameter's name to a bool tensor of its shape, True where the weight is still there. The
    model's own weights are zero elsewhere; nothing else of the model changes: it is saved, copied, loaded and exported
    as before. An optimizer with momentum moves zeros again; call ``after_step()`` after each of its steps, or
    ``attach(optimizer)`` once, or give the object to ``train.fit(hooks=[sparse])``::

        sparse = prunus.Sparsifier(model).prune(0.8, "l1", scope="global")
        ...                                        # train with after_step()
        copy.deepcopy(model); model.state_dict()   # as of any model

    Args:
        model: an eager model, changed in place by ``prune`` and its like.
        only: parameters or modules, or patterns such as ``"layer4.*"``. Of a module or by a pattern, parameters
            called ``weight`` (or ``..._weight...``) with two dimensions or more are meant; others are named in full.
            By default all such parameters, embeddings and norms left out.
        skip: the same, to leave out.

    Raises:
        InputError: a name matches nothing, no weights, or a model masked by torch.nn.utils.prune: give that to
            ``from_torch_prune``.
    """

    def __init__(self, model: nn.Module, only: Iterable[str] = (), skip: Iterable[str] = ()) -> None:
        check_eager(model)
        self.model = model
        names = chosen_parameters(model, as_names(only), as_names(skip))
        self.masks: selection.Masks = {
            name: torch.ones_like(parameter, dtype=torch.bool) for name, parameter in names.items()
        }

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """The parameters that have masks."""
        return {name: self.model.get_parameter(name) for name in self.masks}

    @property
    def sparsity(self) -> float:
        """The share of the weights that is masked."""
        total = sum(mask.numel() for mask in self.masks.values())
        return 1 - sum(int(mask.sum()) for mask in self.masks.values()) / total

    def prune(
        self,
        sparsity: float | Mapping[str, float] | None = None,
        importance: str | Criterion = "l1",
        *,
        granularity: str = "weight",
        scope: str | None = None,
        below: float | None = None,
        rounds: int = 1,
        data: Iterable[Any] | None = None,
        loss: Loss = cross_entropy,
        strict: bool = True,
    ) -> Sparsifier:
        """Mask the units that score lowest until ``sparsity`` of the weights are gone; what is gone stays gone.

        Args:
            sparsity: the share that is masked afterwards, [0, 1), counting what was before; or one for each parameter.
                Left out for N:M, which says it itself, and for ``below``.
            importance: a name from ``masks.CRITERIA``, or a function of one's own: see ``prunus.masks.criteria``.
            granularity: what is masked as one: see ``prunus.masks.units``.
            scope: "local" (each parameter alike), "global" (all units compete) or "row" (each row of the matrix alike);
                by default what the criterion's paper does.
            below: instead of a share, mask every unit that scores less than this.
            rounds: reach the sparsity in so many steps, scoring again after each (what is left shrinks by one factor).
            data: batches for the criteria that need them; a list, or anything that can be gone through again.
            loss: ``loss(model, batch) -> scalar``. Criteria that only watch the layers' inputs ignore its value.
            strict: that nothing is left to mask is an error; False for schedules, where it is usual.

        Returns:
            This object.

        Raises:
            InputError: an argument is out of range or unknown, or the criterion can't be used here.
            NothingToPrune: no weight would be masked.
        """
        self.follow()
        before, how = self.masks, _How(importance, granularity, scope, below, data, loss)
        for share in self._shares(sparsity, granularity, below, rounds):
            self.masks = self._next(share, how)
            self.enforce()
        if strict and all(torch.equal(before[name], self.masks[name]) for name in before):
            asked = f"below={below}" if below is not None else granularity if sparsity is None else f"{sparsity}"
            raise NothingToPrune(f"{asked} masks nothing more: {self.sparsity:.2%} of the weights are masked already.")
        empty = [n for n, mask in self.masks.items() if not mask.count_nonzero() and before[n].count_nonzero()]
        if empty:
            warnings.warn(f"{', '.join(empty)} lost every weight; scope='local' spreads the zeros.", stacklevel=2)
        return self

    def set(self, masks: Mapping[str, Tensor]) -> Sparsifier:
        """Replace some masks by given ones (anything that is 0 or False is masked), and zero the weights.

        Raises:
            InputError: an unknown name, or another shape.
        """
        for name, mask in masks.items():
            if name not in self.masks:
                raise InputError(f"{name!r} has no mask here.{suggest(name, self.masks)}")
            if mask.shape != self.masks[name].shape:
                raise InputError(
                    f"the mask of {name!r} must be {list(self.masks[name].shape)}, not {list(mask.shape)}."
                )
        own = self.weights
        self.masks = {**self.masks, **{name: (mask != 0).to(own[name].device) for name, mask in masks.items()}}
        self.enforce()
        return self

    @torch.no_grad()
    def enforce(self) -> None:
        """Zero what is masked."""
        self.follow()
        for name, weight in self.weights.items():
            zero_outside(weight, self.masks[name])

    def follow(self) -> None:
        """Move the masks to where their weights are."""
        weights = self.weights
        self.masks = {name: mask.to(weights[name].device) for name, mask in self.masks.items()}

    def before_step(self) -> None:
        """Nothing to do before the optimizer's step."""

    def after_step(self) -> None:
        """Zero again what momentum or weight decay moved: call it after ``optimizer.step()``."""
        self.enforce()

    def epoch_end(self) -> None:
        """Nothing to do between epochs."""

    def attach(self, optimizer: torch.optim.Optimizer) -> torch.utils.hooks.RemovableHandle:
        """Call ``after_step`` after each step of this optimizer, until the handle's ``remove()``."""
        return optimizer.register_step_post_hook(lambda *_: self.after_step())

    def state_dict(self) -> dict[str, Tensor]:
        """The masks in eight to a byte: parameter name -> uint8, 1/32 of the size of float32 weights."""
        return {name: pack_bits(mask) for name, mask in self.masks.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take masks that ``state_dict`` gave, and zero the weights.

        Raises:
            InputError: other names or sizes than this model's.
        """
        if state.keys() != self.masks.keys():
            odd = min(state.keys() ^ self.masks.keys())
            raise InputError(f"the masks are of another model or choice of weights: {odd!r} is on one side only.")
        self.set({name: unpack_bits(packed, self.masks[name].shape, name) for name, packed in state.items()})

    def __repr__(self) -> str:
        total = sum(mask.numel() for mask in self.masks.values())
        return f"Sparsifier({type(self.model).__name__}: {self.sparsity:.2%} of {total:,} weights masked)"

    def _shares(
        self, sparsity: float | Mapping[str, float] | None, granularity: str, below: float | None, rounds: int
    ) -> list[Any]:
        """The sparsity to reach in each round."""
        units = parse(granularity)
        if isinstance(units, Pattern):
            if below is not None or rounds != 1 or sparsity not in (None, units.sparsity):
                raise InputError(
                    f"{granularity} masks {units.sparsity:.0%} at once: it takes no sparsity and no rounds."
                )
            return [None]
        if (sparsity is None) == (below is None):
            raise InputError("give a sparsity, such as 0.5, or below=, a threshold for the scores; one of them.")
        if below is not None:
            return [None]
        if rounds < 1:
            raise InputError(f"rounds must be at least 1, got {rounds}.")
        if isinstance(sparsity, Mapping):
            if sparsity.keys() != self.masks.keys():
                raise InputError(f"give a sparsity for each of {', '.join(self.masks)}, or one number for all.")
            return [{n: _partly(s, self.sparsity_of(n), k / rounds) for n, s in sparsity.items()} for k in _to(rounds)]
        return [_partly(sparsity or 0.0, self.sparsity, k / rounds) for k in _to(rounds)]

    def sparsity_of(self, name: str) -> float:
        """The share of one parameter's weights that is masked."""
        mask = self.masks[name]
        return 1 - int(mask.sum()) / mask.numel()

    def _next(self, share: Any, how: _How) -> selection.Masks:
        units, (_, reduction) = parse(how.granularity), criterion(how.importance)
        scope = _scope(how.scope, how.importance, how.granularity, share)
        scores = self._score(how, units)
        if isinstance(units, Pattern):
            return selection.choose_pattern(scores, self.masks, units)
        if how.below is not None:
            return selection.below(scores, self.masks, how.below, units, reduction)
        return selection.choose(scores, self.masks, share, units=units, reduction=reduction, scope=scope)

    def _score(self, how: _How, units: Tiles | Pattern) -> dict[str, Tensor]:
        """The criterion's scores, checked for names and shapes."""
        function, _ = criterion(how.importance)
        found = function(Task(self.model, self.weights, self.masks, units, how.data, how.loss))
        for name, mask in self.masks.items():
            if name not in found:
                raise InputError(f"the criterion gives no scores for {name!r}.{suggest(name, found)}")
            if callable(how.importance) and found[name].shape != mask.shape:
                raise InputError(
                    f"the criterion must return a tensor of the parameter's shape {list(mask.shape)}; "
                    f"for {name!r} it returned {list(found[name].shape)}."
                )
        return {name: found[name].detach() for name in self.masks}


def from_zeros(model: nn.Module, only: Iterable[str] = (), skip: Iterable[str] = ()) -> Sparsifier:
    """The masks that a model's zeros show: after loading a sparse state dict into a fresh model, say."""
    sparse = Sparsifier(model, only, skip)
    return sparse.set({name: weight.detach() != 0 for name, weight in sparse.weights.items()})


def _scope(scope: str | None, importance: str | Criterion, granularity: str, share: Any) -> str:
    if scope is None:
        usual = SCOPES.get(importance, "local") if isinstance(importance, str) else "local"
        return "local" if isinstance(share, Mapping) or (usual == "row" and granularity != "weight") else usual
    known = ("local", "global", "row")
    if scope not in known:
        raise InputError(f"there is no scope {scope!r}.{suggest(scope, known)} Known: {', '.join(known)}.")
    if scope == "row" and granularity != "weight":
        raise InputError(f"scope='row' compares single weights; {granularity!r} units need 'local' or 'global'.")
    if scope == "global" and isinstance(share, Mapping):
        raise InputError("scope='global' finds each parameter's sparsity by itself: give it one number.")
    return scope


def _partly(target: float, start: float, done: float) -> float:
    """From ``start`` to ``target``, so that what is left shrinks by the same factor in each equal step."""
    if not 0 <= target < 1:
        raise InputError(f"a sparsity must be at least 0 and less than 1, got {target}.")
    return target if done == 1 or start >= target else 1 - (1 - start) ** (1 - done) * (1 - target) ** done


def _to(rounds: int) -> range:
    return range(1, rounds + 1)
