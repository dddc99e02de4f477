"""The criteria by name, and the way from one of them to scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from prunus.axes import Atom
from prunus.errors import InputError, suggest
from prunus.importance.activations import apoz, flap, mean_activation, wanda
from prunus.importance.bn_scale import bn_scale
from prunus.importance.context import Context, Loss, cross_entropy
from prunus.importance.distance import cosine, fpgm
from prunus.importance.fisher import fisher
from prunus.importance.gradient import gradient
from prunus.importance.hessian import obd
from prunus.importance.magnitude import absolute, squared
from prunus.importance.maps import chip, hrank
from prunus.importance.random import random
from prunus.importance.reconstruction import auto, obs, thinet
from prunus.importance.scores import Criterion, Importance, gather
from prunus.importance.shapley import shapley
from prunus.importance.taylor import taylor, taylor2
from prunus.running import no_fast_path, undisturbed
from prunus.trace import Graph

CRITERIA: Mapping[str, Importance] = {
    "random": Importance(random),
    "l1": Importance(absolute, normalize="mean"),
    "l2": Importance(squared, normalize="mean"),
    "linf": Importance(absolute, "max", "max", "mean"),
    "bn_scale": Importance(bn_scale),
    "fpgm": Importance(fpgm, normalize="mean"),
    "cosine": Importance(cosine),
    "taylor": Importance(taylor),
    "taylor2": Importance(taylor2),
    "obd": Importance(obd),
    "fisher": Importance(fisher),
    "gradient": Importance(gradient),
    "shapley": Importance(shapley),
    "apoz": Importance(apoz, "mean", "mean"),
    "mean_activation": Importance(mean_activation, "mean", "mean", "mean"),
    "flap": Importance(flap, normalize="gaussian"),
    "wanda": Importance(wanda, normalize="mean"),
    "hrank": Importance(hrank, normalize="mean"),
    "chip": Importance(chip, normalize="mean"),
    "thinet": Importance(thinet, normalize="max"),
    "obs": Importance(obs),
    "auto": Importance(auto, additive=True),
}
"""Each with the aggregation and the normalization that its paper uses, or the field does."""

WITHOUT_DATA = ("random", "l1", "l2", "linf", "bn_scale", "fpgm", "cosine")
"""Those that judge by the weights alone."""


def resolve(importance: str | Criterion | Importance) -> Importance:
    """The importance of that name; a function stands for itself, and is summed.

    Raises:
        InputError: there is no criterion of that name.
    """
    if isinstance(importance, Importance):
        if isinstance(importance.criterion, str):
            return replace(importance, criterion=resolve(importance.criterion).criterion)
        return importance
    if callable(importance):
        return Importance(importance, normalize="mean")
    if importance not in CRITERIA:
        hint = suggest(str(importance), CRITERIA)
        raise InputError(f"there is no importance {importance!r}.{hint} Known: {', '.join(CRITERIA)}.")
    return CRITERIA[importance]


def score(
    graph: Graph,
    importance: str | Criterion | Importance = "l2",
    data: Iterable[Any] | None = None,
    loss: Loss = cross_entropy,
) -> dict[Atom, NDArray[np.float64]]:
    """A score per index of every free atom that the criterion says something about; the lowest go first.

    An atom whose count follows others has its own indices to choose: where the criterion is silent, small weights go.
    The model runs in eval mode; its modes, its gradients and all random states stay as they were.

    Args:
        data: batches, for criteria that look at activations or at the loss.
        loss: ``loss(model, batch) -> scalar``; by default cross-entropy of ``(inputs, class indices)``.

    Raises:
        InputError: an unknown criterion, data missing or unfit, or scores that aren't finite numbers.
    """
    chosen = resolve(importance)
    with torch.no_grad() if importance in WITHOUT_DATA else undisturbed(graph.model), no_fast_path():
        context = Context(graph, data, loss)
        found = gather(context, chosen)
        for group in graph.free:
            if group.atom in graph.sizes.followers and group.atom not in found:
                found[group.atom] = context.rows(group).square().sum(1).numpy()
        return found


def name_of(importance: str | Criterion | Importance) -> str:
    """The importance in a word, for the plan."""
    if isinstance(importance, Importance):
        inner = name_of(importance.criterion)
        return f"{inner} ({importance.within}, {importance.aggregate}, {importance.normalize})"
    return importance if isinstance(importance, str) else getattr(importance, "__name__", "custom")
