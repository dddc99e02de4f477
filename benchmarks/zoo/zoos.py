"""All zoos by name."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from benchmarks.zoo import handmade, libraries, timm, torchvision, transformers
from benchmarks.zoo.case import Case

ZOOS = {
    "torchvision": torchvision,
    "timm": timm,
    "transformers": transformers,
    "handmade": handmade,
    "libraries": libraries,
}


def find(names: Collection[str] = (), zoo: str | None = None) -> Iterator[Case]:
    """The cases of one zoo or of all, those of the given names or all."""
    for each in [zoo] if zoo else ZOOS:
        for case in ZOOS[each].cases():
            if not names or case.name in names:
                yield case
