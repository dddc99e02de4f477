"""What a model's zeros amount to: how many units of each kind are wholly zero, parameter by parameter."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from prunus.errors import InputError
from prunus.masks.sparsifier import from_zeros
from prunus.masks.units import SUM, Pattern, Tiles, parse

GRANULARITIES = ("weight", "vector:4", "block:4x4", "kernel", "column", "channel", "filter")


@dataclass(frozen=True)
class Zeros:
    """One parameter: how many units of each granularity are zero, of how many; and whether it is 2:4 already."""

    name: str
    shape: tuple[int, ...]
    units: dict[str, tuple[int, int]]
    two_of_four: bool

    def share(self, granularity: str) -> float:
        """The share of its units that is zero."""
        zero, total = self.units[granularity]
        return zero / total

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        units = {kind: {"zero": zero, "of": total} for kind, (zero, total) in self.units.items()}
        return {"name": self.name, "shape": list(self.shape), "2:4": self.two_of_four, "units": units}


def zeros(model: nn.Module) -> tuple[Zeros, ...]:
    """Count the zeros of a model's weights.

    Raises:
        InputError: no weight is zero, or torch.nn.utils.prune's masks are still on.
    """
    masks = from_zeros(model).masks
    if all(bool(mask.all()) for mask in masks.values()):
        raise InputError(
            f"no weight of {type(model).__name__} is zero, so it has no masks to tell of. Weights come with --weights; "
            "zeros with prunus.Sparsifier(model).prune(...)."
        )
    return tuple(_count(name, mask) for name, mask in masks.items())


def zero_units(mask: Tensor, granularity: str, name: str = "") -> tuple[int, int]:
    """How many units have no weight left, and how many there are."""
    units = parse(granularity)
    if isinstance(units, Pattern):
        lines = units.lines(mask, name)
        return int((lines.sum(1) <= units.n).sum()), len(lines)
    left = units.grid(mask, name).reduce(mask.float(), SUM)
    return int((left == 0).sum()), len(left)


def _count(name: str, mask: Tensor) -> Zeros:
    fits = (kind for kind in GRANULARITIES if _dims(parse(kind)) <= mask.dim())
    units = {kind: zero_units(mask, kind, name) for kind in fits}
    good, lines = zero_units(mask, "2:4", name) if mask.dim() > 1 and mask.shape[1] % 4 == 0 else (0, 1)
    return Zeros(name, tuple(mask.shape), units, good == lines)


def _dims(units: Tiles | Pattern) -> int:
    return len(units.sizes) if isinstance(units, Tiles) else units.dim + 1
