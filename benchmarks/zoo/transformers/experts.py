"""Mixtures of experts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.zoo.case import Case
from benchmarks.zoo.transformers.table import GROUPED, TEXT, arch, both, ids

_LOCAL = {**GROUPED, "num_local_experts": 6, "num_experts_per_tok": 2}
_MANY = {**GROUPED, "num_experts": 6, "num_experts_per_tok": 2}
_INNER = {"moe_intermediate_size": 40}
_SHARED = {"shared_expert_intermediate_size": 56}
_LATENT = {
    **TEXT,
    "num_key_value_heads": 4,
    "moe_intermediate_size": 40,
    "n_routed_experts": 6,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "q_lora_rank": 20,
    "kv_lora_rank": 24,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 6,
    "v_head_dim": 10,
}


def cases() -> Iterator[Case]:
    yield arch("MixtralForCausalLM", ids, **_LOCAL)
    yield arch("Qwen2MoeForCausalLM", ids, **_MANY, **_INNER, **_SHARED)
    yield arch("Qwen3MoeForCausalLM", ids, **_MANY, **_INNER, head_dim=12)
    yield arch("OlmoeForCausalLM", ids, **_MANY)
    yield arch("FlexOlmoForCausalLM", ids, **_MANY, pad_token_id=0)
    yield arch("DeepseekV2ForCausalLM", ids, **_LATENT, n_shared_experts=1, first_k_dense_replace=1)
    yield arch("DeepseekV3ForCausalLM", ids, **_LATENT, n_shared_experts=1, first_k_dense_replace=1)
    yield arch("GraniteMoeForCausalLM", ids, **_LOCAL)
    yield arch("GraniteMoeSharedForCausalLM", ids, **_LOCAL, shared_intermediate_size=56)
    yield arch("PhimoeForCausalLM", ids, **_LOCAL)
    yield arch("MiniMaxForCausalLM", ids, **_LOCAL, head_dim=12)
    yield arch("JetMoeForCausalLM", ids, **_JET)
    yield arch("SwitchTransformersForConditionalGeneration", both, **_SWITCH)
    yield arch("NllbMoeForConditionalGeneration", both, **_NLLB)
    yield arch("DbrxForCausalLM", ids, **_DBRX)
    yield arch("GptOssForCausalLM", ids, **_LOCAL, head_dim=12, sliding_window=4)
    yield arch("Glm4MoeForCausalLM", ids, **_MANY_ROUTED)
    yield arch("Dots1ForCausalLM", ids, **_MANY_ROUTED)
    yield arch("Ernie4_5_MoeForCausalLM", ids, **_ERNIE)
    yield arch("HunYuanMoEV1ForCausalLM", ids, **_MANY, head_dim=12, moe_topk=2)
    yield arch("Qwen3NextForCausalLM", ids, **_NEXT)
    yield arch("Lfm2MoeForCausalLM", ids, **_MANY, **_INNER, layer_types=["full_attention", "conv"])


_JET: dict[str, Any] = {
    "vocab_size": 99,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "kv_channels": 12,
    "intermediate_size": 80,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
}
_SWITCH = {"vocab_size": 99, "d_model": 48, "d_kv": 12, "d_ff": 80, "num_layers": 2, "num_heads": 4, "num_experts": 4}
_SWITCH |= {"num_decoder_layers": 2, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1}
_NLLB = {
    "vocab_size": 99,
    "d_model": 48,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 80,
    "decoder_ffn_dim": 72,
    "num_experts": 4,
    "encoder_sparse_step": 2,
    "decoder_sparse_step": 2,
    "expert_capacity": 64,
    "max_position_embeddings": 64,
}
_DBRX = {
    "vocab_size": 99,
    "d_model": 48,
    "n_heads": 4,
    "n_layers": 2,
    "max_seq_len": 64,
    "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
    "ffn_config": {"ffn_hidden_size": 80, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 48},
}
_MANY_ROUTED = {
    **GROUPED,
    **_INNER,
    "n_routed_experts": 6,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "head_dim": 12,
}
_ERNIE = {**GROUPED, **_INNER, "moe_num_experts": 6, "moe_k": 2, "moe_num_shared_experts": 1, "head_dim": 12}
_ERNIE |= {"moe_layer_start_index": 1, "moe_layer_end_index": 1}
_NEXT = {
    **_MANY,
    **_INNER,
    **_SHARED,
    "head_dim": 12,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 10,
    "layer_types": ["linear_attention", "full_attention"],
}
