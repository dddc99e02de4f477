"""Images with text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.zoo.case import Case
from benchmarks.zoo.transformers.table import GROUPED, TEXT, VISION, arch, ids, pixels, tokens

_IMAGE = {**VISION, "image_size": 32, "patch_size": 8}
_NARROW = {"hidden_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 72}
_NARROW |= {"image_size": 32, "patch_size": 8}
_END = {"bos_token_id": 0, "eos_token_id": 98, "pad_token_id": 1}
_PAIR: dict[str, Any] = {"text_config": {**TEXT, **_END}, "vision_config": _NARROW, "projection_dim": 24}
_LLAMA = {"model_type": "llama", **GROUPED}


def _joint() -> dict[str, Any]:
    text = tokens(2, 7)
    text[:, -1] = 98
    return {"input_ids": text, **pixels(32)()}


def cases() -> Iterator[Case]:
    yield arch("CLIPModel", _joint, sample=True, **_PAIR)
    yield arch("CLIPForImageClassification", pixels(32), name="CLIP-classification", **_PAIR)
    yield arch("MetaClip2Model", _joint, **_PAIR)
    yield arch("SiglipModel", _joint, text_config={**TEXT, **_END, "projection_size": 40}, vision_config=_NARROW)
    yield arch("ChineseCLIPModel", _joint, **_PAIR)
    yield arch("AltCLIPModel", _joint, **{**_PAIR, "text_config": {**TEXT, **_END, "project_dim": 40}})
    yield arch("CLIPSegForImageSegmentation", _joint, **_PAIR, reduce_dim=20, decoder_num_attention_heads=4, **_SEG)
    yield arch("GroupViTModel", _joint, left=0.8, why=_RETURNED, by_proof=_CHOSEN, **_GROUPVIT)
    yield arch("XCLIPModel", _clip, **_XCLIP)
    yield arch("FlavaModel", _flava, left=0.7, why=_RETURNED, **_FLAVA)
    yield arch("AlignModel", lambda: {**ids(), **pixels(64)()}, **_ALIGN)
    yield arch("BlipForConditionalGeneration", _joint, **_BLIP)
    yield arch("Blip2ForConditionalGeneration", _marked(4), **_BLIP2)
    yield arch("InstructBlipForConditionalGeneration", _instructed, **_INSTRUCT)
    yield arch("LlavaForConditionalGeneration", _marked(16), **_LLAVA)
    yield arch("VipLlavaForConditionalGeneration", _marked(16), **_VIPLLAVA)
    yield arch("PaliGemmaForConditionalGeneration", _marked(16), **_PALIGEMMA)
    yield arch("Gemma3ForConditionalGeneration", _marked(4), name="Gemma3-images", **_GEMMA3)
    yield arch("IdeficsForVisionText2Text", _idefics, **_IDEFICS)
    yield arch("Idefics3ForConditionalGeneration", _tiles, **_IDEFICS3)
    yield arch("Qwen2VLForConditionalGeneration", _grid(24), **_QWEN2VL)
    yield arch("Qwen2_5_VLForConditionalGeneration", _grid(24), **_QWEN25VL)
    yield arch("InternVLForConditionalGeneration", _marked(4), **_INTERNVL)
    yield arch("GitForCausalLM", _joint, **TEXT, vision_config=_NARROW)
    yield arch("Kosmos2ForConditionalGeneration", _kosmos, **_KOSMOS)
    yield arch("ViltForQuestionAnswering", _joint, **TEXT, image_size=32, patch_size=8)
    yield arch("VisualBertForQuestionAnswering", _regions, **TEXT, visual_embedding_dim=20)
    yield arch("LxmertForQuestionAnswering", _lxmert, **_LXMERT)
    yield arch("BridgeTowerForImageAndTextRetrieval", _joint, **_BRIDGE)
    yield arch("LayoutLMv3ForSequenceClassification", _page, **TEXT, **_LAYOUT)
    yield arch("MgpstrForSceneTextRecognition", pixels(2, 3, 32, 32), **_MGP)
    yield arch("FuyuForCausalLM", _fuyu, left=0.65, why=_COUNTED, **_FUYU)


_CHOSEN = "each position goes to the group that is most like it, and groups can be cut"
_RETURNED = "the hidden states that it returns are its residual streams, as wide as the towers"
_COUNTED = "its code counts image values by the width, as a number, and checks that they are all there"
_SEG = {"extract_layers": [0, 1], "decoder_intermediate_size": 32}
_GROUPVIT: dict[str, Any] = {
    "text_config": {**TEXT, **_END},
    "vision_config": {
        **_NARROW,
        "depths": [1, 1, 1],
        "num_group_tokens": [6, 4, 0],
        "num_output_groups": [6, 4, 4],
        "num_hidden_layers": 3,
    },
    "projection_dim": 24,
    "projection_intermediate_dim": 32,
}
_XCLIP: dict[str, Any] = {
    "text_config": {**TEXT, **_END},
    "vision_config": {
        **_NARROW,
        "num_frames": 4,
        "mit_hidden_size": 24,
        "mit_intermediate_size": 56,
        "mit_num_attention_heads": 4,
        "mit_num_hidden_layers": 1,
    },
    "projection_dim": 24,
    "prompt_num_attention_heads": 4,
    "prompt_layers": 1,
}
_FLAVA: dict[str, Any] = {
    "text_config": TEXT,
    "image_config": _NARROW,
    "multimodal_config": VISION,
    "image_codebook_config": {"hidden_size": 8, "num_blocks_per_group": 1, "vocab_size": 20},
    "hidden_size": 48,
    "projection_dim": 24,
}
_ALIGN: dict[str, Any] = {
    "text_config": TEXT,
    "vision_config": {"image_size": 64, "width_coefficient": 0.5, "depth_coefficient": 0.5, "hidden_dim": 640},
    "projection_dim": 160,
}
_BLIP: dict[str, Any] = {"text_config": {**TEXT, **_END, "encoder_hidden_size": 40}, "vision_config": _NARROW}
_OPT = {"model_type": "opt", **{k: v for k, v in TEXT.items() if k != "intermediate_size"}, "ffn_dim": 80}
_OPT |= {"word_embed_proj_dim": 48, **_END}
_QFORMER = {**TEXT, "encoder_hidden_size": 40, "cross_attention_frequency": 1}
_BLIP2: dict[str, Any] = {
    "text_config": _OPT,
    "vision_config": _NARROW,
    "qformer_config": _QFORMER,
    "num_query_tokens": 4,
    "image_token_index": 7,
}
_INSTRUCT: dict[str, Any] = {**_BLIP2, "image_token_index": 7}
_CLIP_VISION = {"model_type": "clip_vision_model", **_NARROW}
_LLAVA: dict[str, Any] = {"text_config": _LLAMA, "vision_config": _CLIP_VISION, "image_token_index": 7}
_LLAVA |= {"vision_feature_layer": -1, "image_seq_length": 16}
_VIPLLAVA: dict[str, Any] = {"text_config": _LLAMA, "vision_config": _CLIP_VISION, "image_token_index": 7}
_VIPLLAVA |= {"vision_feature_layers": [-1, -2], "image_seq_length": 16}
_SIGLIP = {"model_type": "siglip_vision_model", **_NARROW, "projection_dim": 48, "vision_use_head": False}
_PALIGEMMA: dict[str, Any] = {
    "text_config": {"model_type": "gemma", **GROUPED, "head_dim": 16},
    "vision_config": _SIGLIP,
    "image_token_index": 7,
    "projection_dim": 48,
}
_GEMMA3: dict[str, Any] = {
    "text_config": {"model_type": "gemma3_text", **GROUPED, "head_dim": 16, "sliding_window": 4},
    "vision_config": _SIGLIP,
    "image_token_index": 7,
    "image_token_id": 7,
    "mm_tokens_per_image": 4,
}
_IDEFICS: dict[str, Any] = {
    **TEXT,
    "additional_vocab_size": 2,
    "vision_config": {"embed_dim": 40, "image_size": 32, "patch_size": 8, "num_hidden_layers": 2}
    | {"num_attention_heads": 4, "intermediate_size": 72},
    "perceiver_config": {"use_resampler": False},
    "cross_layer_interval": 1,
    "pad_token_id": 1,
}
_IDEFICS3: dict[str, Any] = {
    "text_config": {**_LLAMA, "pad_token_id": 1},
    "vision_config": _NARROW,
    "image_token_id": 7,
    "scale_factor": 2,
}
_ROPE = {"rope_type": "default", "mrope_section": [2, 2, 2], "rope_theta": 10000.0}
_QWEN2VL: dict[str, Any] = {
    "text_config": {**GROUPED, "rope_parameters": _ROPE},
    "vision_config": {
        "depth": 2,
        "embed_dim": 32,
        "hidden_size": 48,
        "num_heads": 4,
        "mlp_ratio": 2,
        "patch_size": 4,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
    "image_token_id": 7,
    "video_token_id": 6,
    "vision_start_token_id": 5,
    "vision_end_token_id": 4,
}
_QWEN25VL: dict[str, Any] = {
    **_QWEN2VL,
    "vision_config": {
        "depth": 2,
        "hidden_size": 32,
        "out_hidden_size": 48,
        "num_heads": 4,
        "intermediate_size": 56,
        "patch_size": 4,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 16,
        "fullatt_block_indexes": [1],
    },
}
_INTERNVL: dict[str, Any] = {
    "text_config": {"model_type": "qwen2", **GROUPED},
    "vision_config": {**_NARROW, "image_size": [32, 32], "patch_size": [8, 8]},
    "image_token_id": 7,
    "image_seq_length": 4,
}
_KOSMOS: dict[str, Any] = {
    "text_config": {
        "vocab_size": 99,
        "embed_dim": 48,
        "layers": 2,
        "ffn_dim": 80,
        "attention_heads": 4,
        "max_position_embeddings": 64,
    },
    "vision_config": _NARROW,
    "latent_query_num": 4,
}
_LXMERT = {
    **{k: v for k, v in TEXT.items() if k != "num_hidden_layers"},
    "l_layers": 1,
    "x_layers": 1,
    "r_layers": 1,
    "visual_feat_dim": 20,
    "visual_pos_dim": 4,
    "num_qa_labels": 11,
}
_BRIDGE: dict[str, Any] = {
    "text_config": {**TEXT, **_END, "hidden_size": 48},
    "vision_config": {"hidden_size": 64, "num_hidden_layers": 2, "image_size": 32, "patch_size": 8},
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "contrastive_hidden_size": 24,
    "share_link_tower_layers": False,
}
_LAYOUT = {"coordinate_size": 8, "shape_size": 8, "input_size": 32, "patch_size": 8, "max_2d_position_embeddings": 64}
_LAYOUT |= {"rel_pos_bins": 8, "rel_2d_pos_bins": 8}
_MGP = {"image_size": [32, 32], "patch_size": 8, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
_MGP |= {"max_token_length": 5, "num_character_labels": 11, "num_bpe_labels": 13, "num_wordpiece_labels": 17}
_FUYU: dict[str, Any] = {
    **TEXT,
    "image_size": 32,
    "patch_size": 8,
    "image_token_id": 7,
    "text_config": {"model_type": "persimmon", **TEXT},
}


def _clip() -> dict[str, Any]:
    text = tokens(2, 7)
    text[:, -1] = 98
    return {"input_ids": text, "pixel_values": torch.randn(2, 4, 3, 32, 32)}


def _flava() -> dict[str, Any]:
    return {**_joint(), "bool_masked_pos": torch.zeros(2, 16, dtype=torch.long)}


def _marked(count: int) -> Any:
    """As many image tokens in the text as the picture has patches."""

    def make() -> dict[str, Any]:
        text = torch.cat([torch.full((2, count), 7), tokens(2, 5)], 1)
        return {"input_ids": text, **pixels(32)()}

    return make


def _instructed() -> dict[str, Any]:
    return {**_marked(4)(), "qformer_input_ids": tokens(2, 6)}


def _idefics() -> dict[str, Any]:
    return {
        **ids(),
        "pixel_values": torch.randn(2, 1, 3, 32, 32),
        "image_attention_mask": torch.ones(2, 7, 1, dtype=torch.long),
    }


def _tiles() -> dict[str, Any]:
    text = torch.cat([torch.full((2, 4), 7), tokens(2, 5)], 1)
    return {"input_ids": text, "pixel_values": torch.randn(2, 1, 3, 32, 32)}


def _grid(patches: int) -> Any:
    def make() -> dict[str, Any]:
        text = torch.cat([torch.tensor([[5]]), torch.full((1, patches // 4), 7), tokens(1, 5)], 1)
        return {
            "input_ids": text,
            "pixel_values": torch.randn(patches, 3 * 2 * 4 * 4),
            "image_grid_thw": torch.tensor([[1, 4, patches // 4]]),
            "mm_token_type_ids": (text == 7).long(),
        }

    return make


def _kosmos() -> dict[str, Any]:
    mask = torch.zeros(2, 9, dtype=torch.long)
    mask[:, 1:5] = 1
    return {"input_ids": tokens(2, 9), **pixels(32)(), "image_embeds_position_mask": mask}


def _regions() -> dict[str, Any]:
    return {
        **ids(),
        "attention_mask": torch.ones(2, 7, dtype=torch.long),
        "visual_embeds": torch.randn(2, 3, 20),
        "visual_attention_mask": torch.ones(2, 3, dtype=torch.long),
    }


def _lxmert() -> dict[str, Any]:
    return {**ids(), "visual_feats": torch.randn(2, 3, 20), "visual_pos": torch.rand(2, 3, 4)}


def _page() -> dict[str, Any]:
    return {**ids(), "bbox": torch.randint(1, 30, (2, 7, 4)), **pixels(32)()}


def _fuyu() -> dict[str, Any]:
    text = tokens(2, 9)
    text[:, 1:4] = 7
    return {"input_ids": text, "image_patches": torch.randn(2, 3, 192)}
