"""Transformers from tiny random configs: halved without a hint, proven, and still of the kind they were."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import prunus
from benchmarks.zoo.case import randomize

os.environ["HF_HUB_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers")

IDS = {"input_ids": torch.tensor([[5, 17, 31, 8, 90], [44, 3, 12, 77, 6]])}
BOTH = {**IDS, "decoder_input_ids": IDS["input_ids"]}
PIXELS = {"pixel_values": torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))}


def maker(model: str, config: str, **values: Any) -> Callable[[], nn.Module]:
    return lambda: getattr(transformers, model)(getattr(transformers, config)(**values))


BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
LLAMA = {**BERT, "vocab_size": 99, "num_key_value_heads": 2, "use_cache": False}

# name: (model, inputs, the part of the parameters that may be left)
FAMILIES = {
    "bert": (maker("BertModel", "BertConfig", vocab_size=99, **BERT), IDS, 0.8),
    "gpt2": (
        maker("GPT2LMHeadModel", "GPT2Config", vocab_size=99, n_embd=32, n_layer=2, n_head=4, use_cache=False),
        IDS,
        0.5,
    ),
    "llama, grouped queries": (maker("LlamaForCausalLM", "LlamaConfig", **LLAMA), IDS, 0.5),
    "qwen2": (maker("Qwen2ForCausalLM", "Qwen2Config", **LLAMA), IDS, 0.5),
    "t5": (
        maker(
            "T5ForConditionalGeneration",
            "T5Config",
            vocab_size=99,
            d_model=32,
            d_kv=8,
            d_ff=48,
            num_layers=2,
            num_heads=4,
            use_cache=False,
        ),
        BOTH,
        0.5,
    ),
    "vit": (maker("ViTModel", "ViTConfig", image_size=32, patch_size=8, **BERT), PIXELS, 0.7),
    "mamba": (
        maker("MambaForCausalLM", "MambaConfig", vocab_size=99, hidden_size=32, num_hidden_layers=2, use_cache=False),
        IDS,
        0.5,
    ),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_halved_and_proven(name: str) -> None:
    make, inputs, left = FAMILIES[name]
    torch.manual_seed(0)
    model = make().eval()
    randomize(model)
    graph = prunus.trace(model, (), inputs)
    assert not graph.unsupported
    plan = prunus.plan(graph, importance="random")
    small = plan.apply(model)
    assert prunus.prove(model, small, plan, (), inputs).ok
    before, after = (sum(p.numel() for p in m.parameters()) for m in (model, small))
    assert after <= left * before
    assert type(small(**inputs)) is type(model(**inputs))
