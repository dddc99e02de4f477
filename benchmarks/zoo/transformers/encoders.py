"""Encoders of text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.zoo.case import Case
from benchmarks.zoo.transformers.table import TEXT, arch, ids, tokens


def cases() -> Iterator[Case]:
    yield arch("BertForSequenceClassification", ids, sample=True, **TEXT)
    for model in (
        "RobertaForSequenceClassification",
        "RobertaPreLayerNormForSequenceClassification",
        "XLMRobertaForSequenceClassification",
        "XLMRobertaXLForSequenceClassification",
        "CamembertForSequenceClassification",
        "Data2VecTextForSequenceClassification",
        "ElectraForSequenceClassification",
        "ErnieForSequenceClassification",
        "MegatronBertForSequenceClassification",
        "LayoutLMForSequenceClassification",
        "LiltForSequenceClassification",
        "MarkupLMForSequenceClassification",
        "MPNetForSequenceClassification",
        "NystromformerForSequenceClassification",
        "YosoForSequenceClassification",
        "RoFormerForSequenceClassification",
        "RemBertForSequenceClassification",
        "SplinterForQuestionAnswering",
        "RoCBertForSequenceClassification",
        "EsmForSequenceClassification",
        "TapasForSequenceClassification",
        "NomicBertForSequenceClassification",
        "EuroBertForSequenceClassification",
    ):
        yield arch(model, _EIGHT.get(model, ids), **{**TEXT, **_MORE.get(model, {})})
    yield arch("AlbertForSequenceClassification", ids, **TEXT, embedding_size=24)
    yield arch("DebertaForSequenceClassification", ids, **TEXT, **_DISENTANGLED)
    yield arch("DebertaV2ForSequenceClassification", ids, sample=True, **TEXT, **_DISENTANGLED, position_buckets=8)
    yield arch("FunnelForSequenceClassification", ids, **_FUNNEL)
    yield arch("FNetForSequenceClassification", ids, **_without("num_attention_heads"), type_vocab_size=2)
    yield arch("LongformerForSequenceClassification", _long, **TEXT, attention_window=4)
    yield arch("BigBirdForSequenceClassification", ids, **TEXT, attention_type="original_full")
    yield arch("MobileBertForSequenceClassification", ids, **TEXT, **_BOTTLENECK)
    yield arch("SqueezeBertForSequenceClassification", ids, **TEXT, embedding_size=48)
    yield arch("ConvBertForSequenceClassification", ids, **TEXT, embedding_size=24, head_ratio=2, conv_kernel_size=3)
    yield arch("ModernBertForSequenceClassification", ids, **TEXT, **_MODERN)
    yield arch("DistilBertForSequenceClassification", ids, vocab_size=99, dim=48, n_layers=2, n_heads=4, hidden_dim=80)
    yield arch("XLNetForSequenceClassification", ids, vocab_size=99, d_model=48, n_layer=2, n_head=4, d_inner=80)
    yield arch("XLMForSequenceClassification", ids, vocab_size=99, emb_dim=48, n_layers=2, n_heads=4)
    yield arch("FlaubertForSequenceClassification", ids, vocab_size=99, emb_dim=48, n_layers=2, n_heads=4)
    yield arch("IBertForSequenceClassification", ids, **TEXT)
    yield arch("CanineForSequenceClassification", lambda: {"input_ids": tokens(2, 16)}, **_CANINE)
    yield arch("XmodForSequenceClassification", ids, **TEXT, languages=["en_XX"], default_language="en_XX")
    yield arch("BrosForTokenClassification", _boxes, **{**TEXT, "hidden_size": 64})
    yield arch("ReformerForSequenceClassification", lambda: {"input_ids": tokens(2, 8)}, **_REFORMER)
    yield arch("PerceiverForSequenceClassification", ids, by_proof=_LATENTS, **_PERCEIVER)


_EIGHT = {"NystromformerForSequenceClassification": lambda: {"input_ids": tokens(2, 8)}}
_MORE: dict[str, dict[str, Any]] = {
    "ElectraForSequenceClassification": {"embedding_size": 24},
    "RoFormerForSequenceClassification": {"embedding_size": 24},
    "RemBertForSequenceClassification": {"input_embedding_size": 24, "output_embedding_size": 40},
    "NystromformerForSequenceClassification": {"num_landmarks": 4, "segment_means_seq_len": 8, "conv_kernel_size": 3},
    "YosoForSequenceClassification": {"use_expectation": True},
    "RoCBertForSequenceClassification": {
        "pronunciation_vocab_size": 20,
        "shape_vocab_size": 20,
        "pronunciation_embed_dim": 12,
        "shape_embed_dim": 20,
    },
    "MarkupLMForSequenceClassification": {
        "xpath_unit_hidden_size": 8,
        "max_xpath_tag_unit_embeddings": 20,
        "max_xpath_subs_unit_embeddings": 20,
        "tag_pad_id": 19,
        "subs_pad_id": 19,
        "max_depth": 6,
    },
    "EsmForSequenceClassification": {"pad_token_id": 1, "mask_token_id": 3},
    "TapasForSequenceClassification": {"type_vocab_sizes": [3, 16, 16, 2, 2, 10, 10]},
    "EuroBertForSequenceClassification": {"num_key_value_heads": 2, "pad_token_id": 0},
}
_DISENTANGLED = {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "max_relative_positions": 16,
    "position_biased_input": False,
}
_FUNNEL = {"vocab_size": 99, "block_sizes": [1, 1], "num_decoder_layers": 1, "d_model": 48, "n_head": 4, "d_head": 12}
_FUNNEL |= {"d_inner": 80}
_BOTTLENECK = {"embedding_size": 40, "intra_bottleneck_size": 24, "num_feedforward_networks": 2}
_MODERN = {"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}
_MODERN |= {"global_attn_every_n_layers": 2, "local_attention": 4, "attn_implementation": "sdpa"}
_CANINE = {
    **{k: v for k, v in TEXT.items() if k != "vocab_size"},
    "num_hash_buckets": 40,
    "downsampling_rate": 4,
    "local_transformer_stride": 8,
}
_REFORMER = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "attention_head_size": 12,
    "feed_forward_size": 40,
    "attn_layers": ["local", "lsh"],
    "axial_pos_shape": [4, 4],
    "axial_pos_embds_dim": [12, 20],
    "max_position_embeddings": 16,
    "local_attn_chunk_length": 4,
    "lsh_attn_chunk_length": 4,
    "num_buckets": 2,
    "is_decoder": False,
}
_LATENTS = "latent positions go too: a softmax over them"
_PERCEIVER = {"vocab_size": 99, "num_latents": 6, "d_latents": 32, "d_model": 48, "num_blocks": 1}
_PERCEIVER |= {"num_self_attends_per_block": 2, "num_self_attention_heads": 4, "num_cross_attention_heads": 4}
_PERCEIVER |= {"max_position_embeddings": 16}


def _without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in TEXT.items() if name not in names}


def _long() -> dict[str, Any]:
    return {"input_ids": tokens(2, 8), "global_attention_mask": torch.tensor([[1, *[0] * 7]] * 2)}


def _boxes() -> dict[str, Any]:
    return {**ids(), "bbox": torch.rand(2, 7, 8)}
