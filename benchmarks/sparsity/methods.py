"""What is compared: criteria as functions that prune a Sparsifier, given batches and a loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from prunus import masks
from prunus.masks import Sparsifier

Prune = Callable[[Sparsifier, float, list[Any], Any], Sparsifier]


def named(importance: str, **how: Any) -> Prune:
    """A criterion of the registry."""

    def prune(sparse: Sparsifier, sparsity: float, data: list[Any], loss: Any) -> Sparsifier:
        return sparse.prune(sparsity, importance, data=data, loss=loss, **how)

    return prune


def sparsegpt(sparse: Sparsifier, sparsity: float, data: list[Any], loss: Any) -> Sparsifier:
    """With its repair of the weights that stay."""
    return masks.sparsegpt(sparse, sparsity, data=data, loss=loss)


ONE_SHOT: Mapping[str, Prune] = {
    "random": named("random"),
    "magnitude, local": named("l1"),
    "magnitude, global": named("l1", scope="global"),
    "sensitivity (s·std)": named("sensitivity"),
    "LAMP": named("lamp"),
    "gradient magnitude": named("gradient"),
    "SNIP": named("snip"),
    "GraSP": named("grasp"),
    "SynFlow, 100 rounds": named("synflow", rounds=100),
    "movement scores, one shot": named("movement"),
    "Wanda": named("wanda"),
    "OBS saliency": named("obs"),
    "SparseGPT": sparsegpt,
}
