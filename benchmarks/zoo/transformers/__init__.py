"""Hugging Face transformers: architectures with two layers and random weights, from their configs."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.zoo.case import Case
from benchmarks.zoo.transformers import (
    decoders,
    dense,
    encoders,
    experts,
    multimodal,
    recurrent,
    seq2seq,
    speech,
    vision,
)

_KINDS = (encoders, decoders, experts, seq2seq, vision, dense, speech, multimodal, recurrent)


def cases() -> Iterator[Case]:
    for kind in _KINDS:
        yield from kind.cases()
