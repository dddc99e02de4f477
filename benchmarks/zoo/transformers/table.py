"""One row of the table: a model class, its inputs, and the values of its config that make it small."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.zoo.case import Case, Example

os.environ.setdefault("HF_HUB_OFFLINE", "1")

Inputs = Callable[[], dict[str, Any]]

VOCABULARY = 99
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "max_position_embeddings": 64,
}
GROUPED = {**TEXT, "num_key_value_heads": 2}
ROUTERS = ("*.gate.weight", "*.gate.wg.weight", "*.router.weight", "*.router.layer.weight")
VISION = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 80}


def arch(
    model: str,
    inputs: Inputs,
    *,
    name: str = "",
    left: float = 0.6,
    why: str = "",
    by_proof: str = "",
    sample: bool = False,
    **values: Any,
) -> Case:
    """The case of one architecture; ``values`` go to the config of its class."""

    def build() -> Example:
        import transformers

        made = getattr(transformers, model)
        config = made.config_class(**values)
        for each in (config, *(getattr(config, name) for name in config.sub_configs)):
            if each is not None and hasattr(each, "use_cache"):
                each.use_cache = False
        return Example(made(config), (), inputs())

    told = {"left": left, "why": why, "by_proof": by_proof, "sample": sample, "routers": ROUTERS}
    return Case("transformers", name or _name(model), build, **told)


def _name(model: str) -> str:
    return re.sub(r"(For[A-Z]\w*|LMHead\w*|Model|WithLMHead\w*)$", "", model)


def tokens(*shape: int) -> Tensor:
    """Token numbers that no config of the table takes for padding or for an end."""
    return torch.randint(10, VOCABULARY, shape)


def ids() -> dict[str, Any]:
    return {"input_ids": tokens(2, 7)}


def both() -> dict[str, Any]:
    return {"input_ids": tokens(2, 7), "decoder_input_ids": tokens(2, 5)}


def pixels(*shape: int) -> Inputs:
    """Two images of three channels, or ``shape``."""
    return lambda: {"pixel_values": torch.randn(shape if len(shape) > 2 else (2, 3, *(shape * (3 - len(shape)))))}


def waveform(length: int) -> Inputs:
    return lambda: {"input_values": torch.randn(2, length)}
