"""The parts of a distillation loss: each says what it looks at and how much it counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from prunus.errors import InputError, suggest
from prunus.train.distill import features
from prunus.train.distill.logits import METHODS
from prunus.train.distill.taps import Kept, Seen

Compare = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Logits:
    """Learn from the teacher's outputs.

    Attributes:
        method: "hinton", "dkd", "dist", or a function of the student's logits, the teacher's, and the targets.
        weight: how much it counts.
        options: of the method: ``{"temperature": 2.0}``.
    """

    method: str | Callable[..., Tensor] = "hinton"
    weight: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not callable(self.method) and self.method not in METHODS:
            known = ", ".join(METHODS)
            raise InputError(f"there is no method {self.method!r}.{suggest(self.method, METHODS)} Known: {known}.")

    def __call__(self, student: Seen, teacher: Seen, targets: Any, kept: Mapping[str, Kept]) -> Tensor:
        """The term, without its weight."""
        method = self.method if callable(self.method) else METHODS[self.method]
        return method(student.output, teacher.output, targets, **self.options)


@dataclass(frozen=True)
class Features:
    """Learn from the teacher's activations at a module: FitNets, hidden states of transformers, and the like.

    A pruned student's channels *are* channels of the teacher: which ones, its Plan says, and no adapter is needed.

    Attributes:
        path: the student's module.
        teacher_path: the teacher's, where it has another name.
        compare: "fitnet", "attention", "similarity", "relational", or a function of two activations.
        weight: how much it counts.
        adapter: a module that makes the teacher's shape of the student's, for students that aren't cut from this
            teacher. It must be trained: give its parameters to the optimizer too.
    """

    path: str
    teacher_path: str | None = None
    compare: str | Compare = "fitnet"
    weight: float = 1.0
    adapter: nn.Module | None = None

    def __post_init__(self) -> None:
        if not callable(self.compare) and self.compare not in _COMPARE:
            known = ", ".join(_COMPARE)
            raise InputError(f"there is no way {self.compare!r} to compare. Known: {known}.")

    @property
    def source(self) -> str:
        """The teacher's module."""
        return self.teacher_path or self.path

    @property
    def narrows(self) -> bool:
        """Whether the two must have the same channels."""
        return self.adapter is None and self.compare not in ("attention", "similarity", "relational")

    def __call__(self, student: Seen, teacher: Seen, targets: Any, kept: Mapping[str, Kept]) -> Tensor:
        """The term, without its weight.

        Raises:
            InputError: the shapes differ, and nobody has said how one becomes the other.
        """
        mine, theirs = student.taps[self.path], teacher.taps[self.source]
        if self.adapter is not None:
            mine = self.adapter(mine)
        elif self.narrows:
            for dim, indices in kept.get(self.source, {}).items():
                theirs = theirs.index_select(dim, indices.to(theirs.device))
        compare = self.compare if callable(self.compare) else _COMPARE[self.compare]
        if self.narrows and mine.shape != theirs.shape:
            raise InputError(
                f"{self.path!r} gives {list(mine.shape)} in the student, {self.source!r} {list(theirs.shape)} in the "
                "teacher. Give Distill(student=small, example=inputs), for a student cut from this teacher, or an "
                "adapter=."
            )
        return compare(mine, theirs.to(mine.dtype))


_COMPARE: Mapping[str, Compare] = {
    "fitnet": features.fitnet,
    "attention": features.attention,
    "similarity": features.similarity,
    "relational": features.relational,
}

Term = Logits | Features
