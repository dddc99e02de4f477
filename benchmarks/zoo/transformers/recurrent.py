"""State spaces, linear recurrences, and time series."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.zoo.case import Case
from benchmarks.zoo.transformers.table import GROUPED, VOCABULARY, arch, ids

_SMALL = {"vocab_size": VOCABULARY, "hidden_size": 48, "num_hidden_layers": 2}


def cases() -> Iterator[Case]:
    yield arch("MambaForCausalLM", ids, sample=True, **_SMALL, state_size=6)
    yield arch("Mamba2ForCausalLM", ids, **_SMALL, state_size=6, num_heads=8, head_dim=12, n_groups=2, chunk_size=4)
    yield arch("FalconMambaForCausalLM", ids, by_proof=_IN_A_FUNCTION, **_SMALL, state_size=6)
    yield arch("RwkvForCausalLM", ids, **_SMALL, attention_hidden_size=40, context_length=16)
    yield arch("JambaForCausalLM", ids, **GROUPED, **_JAMBA)
    yield arch("ZambaForCausalLM", ids, **GROUPED, **_ZAMBA)
    yield arch("Zamba2ForCausalLM", ids, **GROUPED, **_ZAMBA2)
    yield arch("BambaForCausalLM", ids, **GROUPED, **_BAMBA, attn_layer_indices=[1])
    yield arch("FalconH1ForCausalLM", ids, **GROUPED, **_BAMBA, mamba_d_ssm=96)
    yield arch("GraniteMoeHybridForCausalLM", ids, **GROUPED, **_BAMBA, **_HYBRID)
    yield arch("NemotronHForCausalLM", ids, **GROUPED, **_NEMOTRON)
    yield arch("RecurrentGemmaForCausalLM", ids, **_GRIFFIN)
    yield arch("xLSTMForCausalLM", ids, by_proof=_EACH_HEAD, **_SMALL, **_XLSTM)
    yield arch("PatchTSTForPrediction", _past(16), **_PATCHES)
    yield arch("PatchTSMixerForPrediction", _past(16), left=0.7, why=_RETURNED, **_MIXER)
    for name in ("TimeSeriesTransformer", "Autoformer", "Informer"):
        by_proof = _MEAN if name == "Autoformer" else ""
        yield arch(f"{name}ForPrediction", _series, by_proof=by_proof, **_SERIES, **_OWN.get(name, {}))
    yield arch("TimesFmModelForPrediction", lambda: {"past_values": [torch.randn(16)] * 2}, **_TIMES)
    yield arch("DecisionTransformerModel", _episode, **_DECISION)


_IN_A_FUNCTION = "its code takes a root mean square over the time step, in a function"
_MEAN = "its code takes the mean of correlations over heads and their widths"
_EACH_HEAD = "its code normalizes each head by itself"
_RETURNED = "the hidden state that it returns is its residual stream, as wide as the model"
_XLSTM = {"num_heads": 4, "chunk_size": 4, "chunkwise_kernel": "chunkwise--native_autograd"}
_DECISION = {"state_dim": 5, "act_dim": 3, "hidden_size": 48, "n_layer": 2, "n_head": 4, "max_ep_len": 24}
_DECISION |= {"n_positions": 32}


_JAMBA = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "expert_layer_period": 2,
    "expert_layer_offset": 1,
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
    "mamba_d_state": 6,
    "mamba_dt_rank": 5,
    "use_mamba_kernels": False,
}
_ZAMBA = {"mamba_d_state": 6, "mamba_dt_rank": 5, "n_mamba_heads": 2, "use_mamba_kernels": False}
_ZAMBA |= {"layers_block_type": ["hybrid", "hybrid"], "attention_head_dim": 24}
_ZAMBA2 = {
    "mamba_d_state": 6,
    "mamba_headdim": 12,
    "mamba_ngroups": 2,
    "n_mamba_heads": 8,
    "chunk_size": 4,
    "num_mem_blocks": 1,
    "adapter_rank": 8,
    "layers_block_type": ["mamba", "hybrid"],
    "use_mem_rope": True,
    "use_mamba_kernels": False,
}
_BAMBA = {
    "mamba_d_state": 6,
    "mamba_n_heads": 8,
    "mamba_d_head": 12,
    "mamba_n_groups": 2,
    "mamba_chunk_size": 4,
}
_HYBRID = {"layer_types": ["mamba", "attention"], "shared_intermediate_size": 56, "num_local_experts": 4}
_HYBRID |= {"num_experts_per_tok": 2}
_NEMOTRON = {
    "head_dim": 12,
    "hybrid_override_pattern": "M*",
    "ssm_state_size": 6,
    "mamba_num_heads": 8,
    "mamba_head_dim": 12,
    "n_groups": 2,
    "chunk_size": 4,
}
_GRIFFIN = {**GROUPED, "num_hidden_layers": 3, "lru_width": 40, "attention_window_size": 4, "head_dim": 12}
_GRIFFIN |= {"block_types": ["recurrent", "recurrent", "attention"]}
_PATCHES = {
    "num_input_channels": 3,
    "context_length": 16,
    "patch_length": 4,
    "patch_stride": 4,
    "num_hidden_layers": 2,
    "d_model": 48,
    "num_attention_heads": 4,
    "ffn_dim": 80,
    "prediction_length": 5,
}
_MIXER = {
    "num_input_channels": 3,
    "context_length": 16,
    "patch_length": 4,
    "patch_stride": 4,
    "d_model": 24,
    "num_layers": 2,
    "prediction_length": 5,
}
_SERIES = {
    "prediction_length": 4,
    "context_length": 12,
    "lags_sequence": [1, 2],
    "num_time_features": 2,
    "d_model": 48,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 80,
    "decoder_ffn_dim": 72,
}
_OWN: dict[str, dict[str, Any]] = {"Autoformer": {"moving_average": 3, "label_length": 4}}
_TIMES = {
    "patch_length": 4,
    "context_length": 16,
    "horizon_length": 6,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "head_dim": 12,
}


def _past(length: int) -> Any:
    return lambda: {"past_values": torch.randn(2, length, 3)}


def _series() -> dict[str, Any]:
    return {
        "past_values": torch.randn(2, 14),
        "past_time_features": torch.randn(2, 14, 2),
        "past_observed_mask": torch.ones(2, 14),
        "future_values": torch.randn(2, 4),
        "future_time_features": torch.randn(2, 4, 2),
    }


def _episode() -> dict[str, Any]:
    return {
        "states": torch.randn(2, 6, 5),
        "actions": torch.randn(2, 6, 3),
        "rewards": torch.randn(2, 6, 1),
        "returns_to_go": torch.randn(2, 6, 1),
        "timesteps": torch.arange(6).repeat(2, 1),
        "attention_mask": torch.ones(2, 6),
    }
