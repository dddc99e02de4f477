"""Encoder-decoders of text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.zoo.case import Case
from benchmarks.zoo.transformers.table import GROUPED, VOCABULARY, arch, both, tokens

_T5 = {"vocab_size": VOCABULARY, "d_model": 48, "d_kv": 8, "d_ff": 80, "num_layers": 2, "num_heads": 4}
_BART = {
    "vocab_size": VOCABULARY,
    "d_model": 48,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 80,
    "decoder_ffn_dim": 72,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
    "decoder_start_token_id": 2,
}
_LONG = {"max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 64}


def cases() -> Iterator[Case]:
    yield arch("T5ForConditionalGeneration", both, sample=True, **_T5)
    yield arch("MT5ForConditionalGeneration", both, **_T5, feed_forward_proj="gated-gelu")
    yield arch("UMT5ForConditionalGeneration", both, **_T5)
    yield arch("LongT5ForConditionalGeneration", both, **_T5, local_radius=3)
    yield arch("T5GemmaForConditionalGeneration", both, encoder=_GEMMA, decoder=_GEMMA, vocab_size=VOCABULARY)
    yield arch("BartForConditionalGeneration", both, sample=True, **_BART)
    for name in ("MBart", "Pegasus", "Blenderbot", "BlenderbotSmall", "M2M100", "PLBart", "Marian"):
        model = f"{name}MTModel" if name == "Marian" else f"{name}ForConditionalGeneration"
        yield arch(model, both, **_BART)
    yield arch("BigBirdPegasusForConditionalGeneration", both, **_BART, attention_type="original_full")
    yield arch("PegasusXForConditionalGeneration", _blocks, **_BART, num_global_tokens=3, block_size=4)
    yield arch("LEDForConditionalGeneration", _globally, left=0.9, why=_RETURNED, **_BART, **_LONG, attention_window=4)
    yield arch("MvpForConditionalGeneration", both, **_BART)
    yield arch("FSMTForConditionalGeneration", both, **_FSMT)
    yield arch("ProphetNetForConditionalGeneration", both, left=0.9, why=_RETURNED, **_PROPHET)
    yield arch("UdopForConditionalGeneration", _boxes, **_T5, **_PAGE)


_RETURNED = "the encoder's hidden state is an output; attention is reshaped to its width by number"
_PAGE = {"max_2d_position_embeddings": 64, "image_size": 32, "patch_size": 8}


_GEMMA = {**GROUPED, "head_dim": 16, "sliding_window": 4}
_FSMT: dict[str, Any] = {k: v for k, v in _BART.items() if k not in ("vocab_size", "decoder_start_token_id")}
_FSMT |= {"langs": ["en", "de"], "src_vocab_size": VOCABULARY, "tgt_vocab_size": VOCABULARY}
_PROPHET = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
    "num_encoder_attention_heads": 4,
    "num_decoder_attention_heads": 4,
    "encoder_ffn_dim": 80,
    "decoder_ffn_dim": 72,
    "max_position_embeddings": 64,
    "ngram": 2,
    "pad_token_id": 0,
}


def _boxes() -> dict[str, Any]:
    return {**both(), "bbox": torch.rand(2, 7, 4)}


def _globally() -> dict[str, Any]:
    """The first token attends to all, and all to it."""
    first = torch.zeros(2, 7, dtype=torch.long)
    first[:, 0] = 1
    return {**both(), "global_attention_mask": first}


def _blocks() -> dict[str, Any]:
    return {"input_ids": tokens(2, 8), "decoder_input_ids": tokens(2, 5)}
