"""Speech and sound."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.zoo.case import Case
from benchmarks.zoo.transformers.table import VISION, arch, tokens, waveform

_WAVE: dict[str, Any] = {
    **VISION,
    "vocab_size": 32,
    "conv_dim": (24, 32),
    "conv_kernel": (4, 3),
    "conv_stride": (4, 2),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
}


def cases() -> Iterator[Case]:
    yield arch("Wav2Vec2ForCTC", waveform(100), sample=True, **_WAVE)
    for name in ("Hubert", "UniSpeech", "UniSpeechSat", "WavLM", "Data2VecAudio"):
        yield arch(f"{name}ForCTC", waveform(100), **_WAVE)
    yield arch("Wav2Vec2ConformerForCTC", waveform(100), **_WAVE, conv_depthwise_kernel_size=3)
    yield arch("Wav2Vec2BertForCTC", lambda: {"input_features": torch.randn(2, 9, 20)}, **_BERT)
    yield arch("SEWForCTC", waveform(200), **_WAVE, squeeze_factor=2)
    yield arch("SEWDForCTC", waveform(200), **_WAVE, squeeze_factor=2, position_buckets=8, max_position_embeddings=32)
    yield arch("WhisperForConditionalGeneration", _mel(8, 16), **_WHISPER)
    yield arch("Speech2TextForConditionalGeneration", lambda: _frames(24, 20), **_SPEECH2TEXT)
    yield arch("MoonshineForConditionalGeneration", _moonshine, **_MOONSHINE)
    yield arch("ASTForAudioClassification", lambda: {"input_values": torch.randn(2, 24, 16)}, **_AST)
    yield arch("SpeechT5ForSpeechToText", _spoken, **_SPEECHT5)
    yield arch("ClapAudioModelWithProjection", lambda: {"input_features": torch.randn(2, 1, 64, 16)}, **_CLAP)
    yield arch("EncodecModel", waveform_channels, by_proof=_NORMED, **_ENCODEC)
    yield arch("DacModel", waveform_channels, **_DAC)
    yield arch("VitsModel", lambda: {"input_ids": tokens(1, 7)}, left=0.8, why=_UNREACHED, **_VITS)
    yield arch("FastSpeech2ConformerModel", lambda: {"input_ids": tokens(1, 7)}, **_FAST)
    yield arch("ParakeetForCTC", lambda: {"input_features": torch.randn(2, 32, 16)}, **_PARAKEET)


_UNREACHED = "its posterior encoder is for training, which transformers doesn't implement: nothing reaches it"
_NORMED = "weight norm divides a row by its length, which is zero where the row is zeroed"
_BERT = {**VISION, "vocab_size": 32, "feature_projection_input_dim": 20, "conv_depthwise_kernel_size": 3}
_BERT |= {"left_max_position_embeddings": 6, "right_max_position_embeddings": 3}
_DECODE = {
    "vocab_size": 99,
    "d_model": 48,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 80,
    "decoder_ffn_dim": 72,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "decoder_start_token_id": 2,
}
_WHISPER = {**_DECODE, "num_mel_bins": 8, "max_source_positions": 8, "max_target_positions": 16}
_SPEECH2TEXT = {
    **_DECODE,
    "input_feat_per_channel": 20,
    "input_channels": 1,
    "conv_channels": 24,
    "num_conv_layers": 2,
    "conv_kernel_sizes": [3, 3],
    "max_source_positions": 64,
    "max_target_positions": 32,
}
_MOONSHINE = {
    "vocab_size": 99,
    "hidden_size": 48,
    "intermediate_size": 80,
    "encoder_num_hidden_layers": 2,
    "decoder_num_hidden_layers": 2,
    "encoder_num_attention_heads": 4,
    "decoder_num_attention_heads": 4,
    "pad_token_id": 1,
    "decoder_start_token_id": 2,
}
_AST = {**VISION, "patch_size": 8, "max_length": 24, "num_mel_bins": 16, "frequency_stride": 4, "time_stride": 4}
_SPEECHT5 = {
    **{k: v for k, v in _WAVE.items() if k not in ("num_attention_heads", "num_hidden_layers", "intermediate_size")},
    "vocab_size": 99,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 80,
    "decoder_ffn_dim": 72,
    "max_text_positions": 32,
}
_CLAP = {
    "num_mel_bins": 16,
    "spec_size": 64,
    "patch_size": 4,
    "patch_stride": [4, 4],
    "window_size": 4,
    "patch_embeds_hidden_size": 24,
    "depths": [1, 1],
    "num_attention_heads": [2, 4],
    "hidden_size": 48,
    "projection_dim": 40,
    "enable_fusion": False,
    "num_classes": 7,
}
_ENCODEC = {"num_filters": 8, "hidden_size": 24, "upsampling_ratios": [4, 2], "codebook_size": 16, "codebook_dim": 24}
_ENCODEC |= {"target_bandwidths": [1.5], "sampling_rate": 1600, "num_lstm_layers": 1}
_DAC = {"encoder_hidden_size": 8, "downsampling_ratios": [2, 4], "decoder_hidden_size": 32, "n_codebooks": 2}
_DAC |= {"codebook_size": 16, "codebook_dim": 4, "hop_length": 8, "upsampling_ratios": [4, 2]}
_VITS = {
    "vocab_size": 99,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "ffn_dim": 40,
    "flow_size": 24,
    "spectrogram_bins": 9,
    "posterior_encoder_num_wavenet_layers": 2,
    "prior_encoder_num_wavenet_layers": 2,
    "upsample_initial_channel": 16,
    "upsample_rates": [4, 2],
    "upsample_kernel_sizes": [8, 4],
    "resblock_kernel_sizes": [3, 5],
    "resblock_dilation_sizes": [[1, 3], [1, 3]],
    "prior_encoder_num_flows": 2,
    "duration_predictor_num_flows": 2,
    "wavenet_dilation_rate": 1,
}
_FAST = {
    "hidden_size": 24,
    "vocab_size": 99,
    "num_mel_bins": 10,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_num_attention_heads": 2,
    "decoder_num_attention_heads": 2,
    "encoder_linear_units": 40,
    "decoder_linear_units": 40,
    "speech_decoder_postnet_layers": 2,
    "speech_decoder_postnet_units": 16,
    "duration_predictor_channels": 16,
    "energy_predictor_channels": 16,
    "pitch_predictor_channels": 16,
}
_PARAKEET: dict[str, Any] = {
    "vocab_size": 33,
    "pad_token_id": 32,
    "encoder_config": {
        **VISION,
        "num_mel_bins": 16,
        "conv_kernel_size": 3,
        "subsampling_factor": 4,
        "subsampling_conv_channels": 12,
    },
}


def _mel(bins: int, frames: int) -> Any:
    return lambda: {"input_features": torch.randn(2, bins, frames), "decoder_input_ids": tokens(2, 5)}


def _frames(frames: int, bins: int) -> dict[str, Any]:
    return {"input_features": torch.randn(2, frames, bins), "decoder_input_ids": tokens(2, 5)}


def _moonshine() -> dict[str, Any]:
    return {"input_values": torch.randn(2, 2000), "decoder_input_ids": tokens(2, 5)}


def _spoken() -> dict[str, Any]:
    return {"input_values": torch.randn(2, 100), "decoder_input_ids": tokens(2, 5)}


def waveform_channels() -> dict[str, Any]:
    return {"input_values": torch.randn(2, 1, 64)}
