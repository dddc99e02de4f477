"""What a hook must remember to go on after a restart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from prunus.masks.sparsifier import Sparsifier


class Remembering:
    """Gives a hook ``state_dict`` and ``load_state_dict``: its masks, and the attributes that ``REMEMBERS`` names.

    Weights are not in it; whoever loads them does so afterwards.
    """

    REMEMBERS: ClassVar[tuple[str, ...]] = ()
    sparse: Sparsifier

    def state_dict(self) -> dict[str, Any]:
        """Masks, counts and what else is needed to go on."""
        return {"masks": self.sparse.state_dict(), **{name: getattr(self, name) for name in self.REMEMBERS}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what ``state_dict`` gave.

        Raises:
            InputError: the masks are of another model or choice of weights.
        """
        self.sparse.load_state_dict(state["masks"])
        for name in self.REMEMBERS:
            setattr(self, name, state[name])
