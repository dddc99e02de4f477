"""Cases of the zoo: transformers."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.zoo.case import Case


def cases() -> Iterator[Case]:
    yield from ()
