"""Detection and segmentation, on small backbones of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.zoo.case import Case
from benchmarks.zoo.transformers.table import VISION, arch, pixels

_RESNET = {
    "model_type": "resnet",
    "embedding_size": 16,
    "hidden_sizes": [16, 24, 32, 48],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
}
_BACKBONE: dict[str, Any] = {
    "backbone_config": {**_RESNET, "out_features": ["stage4"]},
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
}
_PYRAMID = {**_BACKBONE, "backbone_config": {**_RESNET, "out_features": ["stage2", "stage3", "stage4"]}}
_DETR = {
    "num_queries": 6,
    "d_model": 48,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 80,
    "decoder_ffn_dim": 72,
}
_SWIN = {
    "model_type": "swin",
    "embed_dim": 24,
    "depths": [1, 1, 1, 1],
    "num_heads": [2, 2, 4, 4],
    "image_size": 64,
    "window_size": 4,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}


def cases() -> Iterator[Case]:
    yield arch("DetrForObjectDetection", pixels(64), sample=True, **_BACKBONE, **_DETR)
    yield arch("TableTransformerForObjectDetection", pixels(64), **_BACKBONE, **_DETR)
    yield arch("ConditionalDetrForObjectDetection", pixels(64), **_BACKBONE, **_DETR)
    yield arch("DabDetrForObjectDetection", pixels(64), **_BACKBONE, **_DAB)
    yield arch(
        "DeformableDetrForObjectDetection",
        pixels(64),
        by_proof=_SAMPLED,
        **_PYRAMID,
        **{**_DETR, "d_model": 64},
        num_feature_levels=3,
    )
    yield arch(
        "YolosForObjectDetection", pixels(32), **VISION, image_size=[32, 32], patch_size=8, num_detection_tokens=5
    )
    yield arch("RTDetrForObjectDetection", pixels(64), **_RTDETR)
    yield arch("RTDetrV2ForObjectDetection", pixels(64), **_RTDETR)
    yield arch("DFineForObjectDetection", pixels(64), by_proof=_SAMPLED, **_DFINE)
    yield arch("GroundingDinoForObjectDetection", _phrase, by_proof=_SAMPLED, **_GROUNDING)
    yield arch("OwlViTForObjectDetection", _queries, **_OWL)
    yield arch("MaskFormerForInstanceSegmentation", pixels(64), **_MASKFORMER)
    yield arch("Mask2FormerForUniversalSegmentation", pixels(64), by_proof=_SAMPLED, **_MASK2FORMER)
    yield arch("OneFormerForUniversalSegmentation", _task, by_proof=_SAMPLED, **_ONEFORMER)
    yield arch("UperNetForSemanticSegmentation", pixels(64), **_UPERNET)
    yield arch("SegformerForSemanticSegmentation", pixels(64), name="Segformer-segmentation", **_SEGFORMER)
    yield arch("MobileViTForSemanticSegmentation", pixels(64), name="MobileViT-segmentation", **_MOBILEVIT)
    yield arch("BeitForSemanticSegmentation", pixels(32), name="Beit-segmentation", **_BEIT)
    yield arch("DPTForSemanticSegmentation", pixels(32), name="DPT-segmentation", **_DPT)
    yield arch("SamModel", _points, **_SAM)
    yield arch("SegGptForImageSegmentation", _prompt, **_SEGGPT)
    yield arch("SuperPointForKeypointDetection", pixels(32), **_POINTS)


_SAMPLED = "points to sample go too: a softmax over them"
_DAB: dict[str, Any] = {k: v for k, v in _DETR.items() if k != "d_model"} | {"hidden_size": 48}
_RTDETR: dict[str, Any] = {
    "backbone_config": {
        "model_type": "rt_detr_resnet",
        "embedding_size": 16,
        "hidden_sizes": [16, 24, 32, 48],
        "depths": [1, 1, 1, 1],
        "layer_type": "basic",
        "out_features": ["stage2", "stage3", "stage4"],
    },
    "encoder_in_channels": [24, 32, 48],
    "encoder_hidden_dim": 40,
    "encoder_ffn_dim": 72,
    "encoder_attention_heads": 4,
    "d_model": 48,
    "num_queries": 6,
    "decoder_in_channels": [40, 40, 40],
    "decoder_ffn_dim": 80,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "num_denoising": 0,
}
_DFINE: dict[str, Any] = {
    **_RTDETR,
    "backbone_config": {
        "model_type": "hgnet_v2",
        "stem_channels": [3, 8, 16],
        "stage_in_channels": [16, 24, 32, 40],
        "stage_mid_channels": [8, 12, 16, 20],
        "stage_out_channels": [24, 32, 40, 48],
        "stage_num_blocks": [1, 1, 1, 1],
        "stage_downsample": [False, True, True, True],
        "stage_light_block": [False, False, True, True],
        "stage_kernel_size": [3, 3, 3, 3],
        "stage_numb_of_layers": [2, 2, 2, 2],
        "hidden_sizes": [24, 32, 40, 48],
        "depths": [1, 1, 1, 1],
        "out_features": ["stage2", "stage3", "stage4"],
    },
    "encoder_in_channels": [32, 40, 48],
}
_TEXT = {
    "vocab_size": 99,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "max_position_embeddings": 64,
}
_GROUNDING: dict[str, Any] = {
    "backbone_config": {**_SWIN, "out_features": ["stage2", "stage3", "stage4"]},
    "text_config": {"model_type": "bert", **_TEXT},
    **_DETR,
    "d_model": 64,
    "num_queries": 6,
    "max_text_len": 16,
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
}
_OWL: dict[str, Any] = {
    "text_config": {**_TEXT, "max_position_embeddings": 16},
    "vision_config": {**VISION, "image_size": 32, "patch_size": 8},
    "projection_dim": 48,
}
_DECODER = {"num_queries": 6, "d_model": 48, "encoder_ffn_dim": 80, "decoder_ffn_dim": 72, "decoder_layers": 2}
_DECODER |= {"decoder_attention_heads": 4, "encoder_layers": 2, "encoder_attention_heads": 4}
_MASKFORMER: dict[str, Any] = {
    "backbone_config": _SWIN,
    "decoder_config": {"model_type": "detr", **_DECODER},
    "fpn_feature_size": 64,
    "mask_feature_size": 64,
}
_MASK2FORMER: dict[str, Any] = {
    "backbone_config": _SWIN,
    "feature_size": 64,
    "mask_feature_size": 64,
    "hidden_dim": 64,
    "encoder_feedforward_dim": 72,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "num_attention_heads": 4,
    "dim_feedforward": 80,
    "num_queries": 6,
}
_ONEFORMER: dict[str, Any] = {
    "backbone_config": _SWIN,
    "num_queries": 6,
    "hidden_dim": 64,
    "mask_dim": 64,
    "conv_dim": 64,
    "num_attention_heads": 4,
    "dim_feedforward": 80,
    "encoder_feedforward_dim": 72,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "text_encoder_width": 64,
    "text_encoder_context_length": 7,
    "text_encoder_num_layers": 1,
    "text_encoder_vocab_size": 99,
    "task_seq_len": 7,
    "is_training": False,
    "query_dec_layers": 1,
    "use_task_norm": True,
}
_UPERNET: dict[str, Any] = {
    "backbone_config": {
        "model_type": "convnext",
        "hidden_sizes": [16, 24, 32, 40],
        "depths": [1, 1, 1, 1],
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    },
    "hidden_size": 32,
    "auxiliary_in_channels": 32,
    "auxiliary_channels": 20,
    "use_auxiliary_head": True,
}
_SEGFORMER = {"hidden_sizes": [16, 24, 40, 48], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 5, 4]}
_SEGFORMER |= {"decoder_hidden_size": 32}
_MOBILEVIT = {"image_size": 64, "hidden_sizes": [24, 32, 40], "neck_hidden_sizes": [8, 16, 24, 32, 40, 48, 64]}
_MOBILEVIT |= {"num_attention_heads": 4, "aspp_out_channels": 24}
_BEIT = {**VISION, "num_hidden_layers": 4, "image_size": 32, "patch_size": 8, "out_indices": [1, 2, 3, 4]}
_BEIT |= {"use_relative_position_bias": True}
_DPT = {**VISION, "num_hidden_layers": 4, "image_size": 32, "patch_size": 8, "backbone_out_indices": [0, 1, 2, 3]}
_DPT |= {"neck_hidden_sizes": [16, 24, 32, 40], "fusion_hidden_size": 24}
_SAM: dict[str, Any] = {
    "vision_config": {
        "hidden_size": 48,
        "output_channels": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
        "window_size": 2,
        "global_attn_indexes": [1],
        "mlp_dim": 80,
        "num_pos_feats": 12,
    },
    "prompt_encoder_config": {"hidden_size": 24, "image_size": 32, "patch_size": 8, "mask_input_channels": 8},
    "mask_decoder_config": {
        "hidden_size": 24,
        "num_attention_heads": 2,
        "mlp_dim": 40,
        "num_hidden_layers": 2,
        "iou_head_hidden_dim": 20,
    },
}
_SEGGPT = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": [32, 16],
    "patch_size": 8,
    "pretrain_image_size": 16,
    "decoder_hidden_size": 12,
    "mlp_dim": 80,
    "merge_index": 0,
    "intermediate_hidden_state_indices": [0, 1],
}
_POINTS = {"encoder_hidden_sizes": [8, 8, 16, 16], "decoder_hidden_size": 24, "keypoint_decoder_dim": 65}
_POINTS |= {"descriptor_decoder_dim": 32}


def _phrase() -> dict[str, Any]:
    return {**pixels(64)(), "input_ids": torch.tensor([[101, 10, 11, 1012, 12, 102]] * 2) % 99}


def _queries() -> dict[str, Any]:
    return {"pixel_values": torch.randn(1, 3, 32, 32), "input_ids": torch.randint(10, 98, (2, 7))}


def _task() -> dict[str, Any]:
    return {**pixels(64)(), "task_inputs": torch.randint(10, 98, (2, 7))}


def _points() -> dict[str, Any]:
    return {**pixels(32)(), "input_points": torch.rand(2, 1, 3, 2) * 32}


def _prompt() -> dict[str, Any]:
    images = {name: torch.randn(2, 3, 16, 16) for name in ("pixel_values", "prompt_pixel_values", "prompt_masks")}
    return {**images, "embedding_type": "instance"}
