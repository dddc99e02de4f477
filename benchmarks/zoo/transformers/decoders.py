"""Decoders of text: causal language models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.zoo.case import Case
from benchmarks.zoo.transformers.table import GROUPED, TEXT, VOCABULARY, arch, ids

_GPT2 = {"vocab_size": VOCABULARY, "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 64}

# Like Llama: grouped queries, rotary positions, a gated MLP; each with what it does differently.
_LIKE_LLAMA: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Mistral": {"sliding_window": 4},
    "Ministral": {"head_dim": 12},
    "Qwen2": {},
    "Qwen3": {"head_dim": 12},
    "Gemma": {"head_dim": 16},
    "Gemma2": {"head_dim": 16, "sliding_window": 4},
    "Gemma3": {"head_dim": 16, "sliding_window": 4},
    "VaultGemma": {"head_dim": 16, "sliding_window": 4},
    "Phi": {"partial_rotary_factor": 0.5},
    "Phi3": {"pad_token_id": 0},
    "StableLm": {"partial_rotary_factor": 0.5},
    "Olmo": {},
    "Olmo2": {},
    "Olmo3": {"sliding_window": 4},
    "Cohere": {},
    "Cohere2": {"sliding_window": 4},
    "Granite": {},
    "SmolLM3": {"no_rope_layers": [1, 0], "pad_token_id": 0},
    "Starcoder2": {},
    "Glm": {"head_dim": 12, "pad_token_id": 0},
    "Glm4": {"head_dim": 12, "pad_token_id": 0},
    "Exaone4": {"sliding_window": 4},
    "Helium": {"head_dim": 12},
    "Nemotron": {"head_dim": 12},
    "Arcee": {},
    "Apertus": {},
    "Ernie4_5": {"head_dim": 12},
    "SeedOss": {"head_dim": 12},
    "HunYuanDenseV1": {"head_dim": 12},
    "DiffLlama": {},
    "BitNet": {},
    "Cwm": {"head_dim": 12, "sliding_window": 4},
    "NanoChat": {},
    "Lfm2": {"layer_types": ["full_attention", "conv"], "full_attn_idxs": [0], "block_auto_adjust_ff_dim": False},
}
_SAMPLES = ("Llama", "Gemma3", "Phi3")
_CLASSES = {"Lfm2": "Lfm2ForCausalLM"}


def cases() -> Iterator[Case]:
    for name, values in _LIKE_LLAMA.items():
        yield arch(f"{name}ForCausalLM", ids, sample=name in _SAMPLES, **GROUPED, **values)
    yield arch("PersimmonForCausalLM", ids, **TEXT)
    yield arch("GPT2LMHeadModel", ids, sample=True, **_GPT2)
    yield arch("GPTBigCodeForCausalLM", ids, **_GPT2)
    yield arch("GPTJForCausalLM", ids, **_GPT2, rotary_dim=4)
    yield arch("CodeGenForCausalLM", ids, **_GPT2, rotary_dim=4)
    yield arch("OpenAIGPTLMHeadModel", ids, **_GPT2)
    yield arch("CTRLLMHeadModel", ids, vocab_size=99, n_embd=48, n_layer=2, n_head=4, n_positions=64, dff=80)
    yield arch("GPTNeoForCausalLM", ids, **_NEO)
    yield arch("GPTNeoXForCausalLM", ids, **TEXT)
    yield arch("GPTNeoXJapaneseForCausalLM", ids, **_JAPANESE)
    yield arch("OPTForCausalLM", ids, **_OPT, word_embed_proj_dim=40)
    yield arch("BioGptForCausalLM", ids, **TEXT)
    yield arch("XGLMForCausalLM", ids, vocab_size=99, d_model=48, num_layers=2, attention_heads=4, ffn_dim=80)
    yield arch("BloomForCausalLM", ids, vocab_size=99, hidden_size=48, n_layer=2, n_head=4)
    yield arch("FalconForCausalLM", ids, **_FALCON)
    yield arch("MptForCausalLM", ids, vocab_size=99, d_model=48, n_layers=2, n_heads=4)
    yield arch("BertGenerationDecoder", ids, **TEXT, is_decoder=True)
    yield arch("MiniCPM3ForCausalLM", ids, **TEXT, **_LATENT)
    yield arch("ModernBertDecoderForCausalLM", ids, **TEXT, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    yield arch("DogeForCausalLM", ids, **GROUPED)


_LATENT = {"q_lora_rank": 20, "kv_lora_rank": 24, "qk_nope_head_dim": 8, "qk_rope_head_dim": 6, "v_head_dim": 10}
_NEO = {
    "vocab_size": 99,
    "hidden_size": 48,
    "num_layers": 2,
    "num_heads": 4,
    "intermediate_size": 80,
    "max_position_embeddings": 64,
    "attention_types": [[["global", "local"], 1]],
    "window_size": 4,
}
_JAPANESE = {**TEXT, "intermediate_multiple_size": 2}
del _JAPANESE["intermediate_size"]
_OPT = {**TEXT, "ffn_dim": 80}
del _OPT["intermediate_size"]
_FALCON = {"vocab_size": 99, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_kv_heads": 2}
_FALCON |= {"new_decoder_architecture": True, "ffn_hidden_size": 80}
