"""What people write by hand: small models by theme, each around one habit that is hard to follow."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.zoo.case import Case
from benchmarks.zoo.handmade import (
    attention,
    attention_variants,
    channels,
    einops_models,
    experts,
    frozen,
    inputs,
    operators,
    recurrent,
    states,
    transformer,
    weights,
)

THEMES = (
    *(recurrent, transformer, attention, attention_variants, weights, states, channels, operators, einops_models),
    *(inputs, frozen, experts),
)


def cases() -> Iterator[Case]:
    for theme in THEMES:
        yield from theme.cases()
