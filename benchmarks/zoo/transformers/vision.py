"""Image classifiers, and what else looks at one image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.zoo.case import Case
from benchmarks.zoo.transformers.table import VISION, arch, pixels

_PATCHES = {**VISION, "image_size": 32, "patch_size": 8}
_STAGES = {"embed_dim": 24, "depths": [1, 1], "num_heads": [2, 4], "image_size": 32, "patch_size": 4}
_CONV = {"hidden_sizes": [16, 24], "depths": [1, 2], "num_stages": 2}


def cases() -> Iterator[Case]:
    yield arch("ViTForImageClassification", pixels(32), sample=True, **_PATCHES)
    yield arch("ViTMSNForImageClassification", pixels(32), **_PATCHES)
    yield arch("IJepaForImageClassification", pixels(32), **_PATCHES)
    yield arch("DeiTForImageClassification", pixels(32), **_PATCHES)
    yield arch("BeitForImageClassification", pixels(32), **_PATCHES, use_relative_position_bias=True)
    yield arch("Data2VecVisionForImageClassification", pixels(32), **_PATCHES, use_shared_relative_position_bias=True)
    yield arch("Dinov2ForImageClassification", pixels(32), **_DINO)
    yield arch(
        "Dinov2WithRegistersForImageClassification", pixels(32), by_proof=_REGISTERS, **_DINO, num_register_tokens=2
    )
    yield arch("DINOv3ViTModel", pixels(32), left=0.8, why=_RESIDUAL, **_PATCHES, num_register_tokens=2)
    yield arch("DINOv3ConvNextModel", pixels(32), **_CONVNEXT)
    yield arch("SwinForImageClassification", pixels(32), sample=True, **_STAGES, window_size=4)
    yield arch("Swinv2ForImageClassification", pixels(32), **_STAGES, window_size=4)
    yield arch("DonutSwinForImageClassification", pixels(32), **_STAGES, window_size=4)
    yield arch("ConvNextForImageClassification", pixels(32), **_CONVNEXT)
    yield arch("ConvNextV2ForImageClassification", pixels(32), by_proof=_RESPONSE, **_CONVNEXT)
    yield arch("CvtForImageClassification", pixels(32), **_CVT)
    yield arch("PvtForImageClassification", pixels(32), **_PVT)
    yield arch("PvtV2ForImageClassification", pixels(32), **_PVT2)
    yield arch("SegformerForImageClassification", pixels(64), **_SEGFORMER)
    yield arch("MobileViTForImageClassification", pixels(64), **_MOBILEVIT)
    yield arch("MobileViTV2ForImageClassification", pixels(64), image_size=64, width_multiplier=0.25)
    yield arch("MobileNetV1ForImageClassification", pixels(32), depth_multiplier=0.25, image_size=32)
    yield arch("MobileNetV2ForImageClassification", pixels(32), depth_multiplier=0.35, image_size=32)
    yield arch("PoolFormerForImageClassification", pixels(64), **_POOLFORMER)
    yield arch("LevitForImageClassification", pixels(64), **_LEVIT)
    yield arch("ResNetForImageClassification", pixels(32), **_RESNET)
    yield arch("RegNetForImageClassification", pixels(32), **{**_RESNET, "layer_type": "y"}, groups_width=8)
    yield arch(
        "BitForImageClassification",
        pixels(32),
        by_proof="weights are standardized: a mean over their input channels",
        **{**_RESNET, "layer_type": "preactivation"},
        num_groups=4,
    )
    yield arch("HGNetV2ForImageClassification", pixels(64), **_HGNET)
    yield arch("EfficientNetForImageClassification", pixels(32), **_EFFICIENT)
    yield arch("HieraForImageClassification", pixels(32), **_HIERA)
    yield arch("FocalNetForImageClassification", pixels(32), **_FOCAL)
    yield arch("SwiftFormerForImageClassification", pixels(64), **_SWIFT)
    yield arch("TextNetForImageClassification", pixels(32), **_TEXTNET)
    yield arch("ViTMAEForPreTraining", _masked, **_MAE)
    yield arch("VitDetModel", pixels(32), left=0.8, why=_RESIDUAL, **_DET)
    yield arch("DPTForDepthEstimation", pixels(32), **{**_PATCHES, **_DPT})
    yield arch("GLPNForDepthEstimation", pixels(64), **_SEGFORMER_DEPTH)
    yield arch("DepthAnythingForDepthEstimation", pixels(28), **_ANYTHING)
    yield arch("Swin2SRForImageSuperResolution", pixels(16), **_SWIN2SR)
    yield arch(
        "ImageGPTForImageClassification", _colours, vocab_size=33, n_embd=48, n_layer=2, n_head=4, n_positions=64
    )
    yield arch("VideoMAEForVideoClassification", _video(4, 32), **_PATCHES, num_frames=4)
    yield arch("TimesformerForVideoClassification", _video(3, 32), **_PATCHES, num_frames=3)
    yield arch(
        "VivitForVideoClassification", _video(4, 32), **VISION, image_size=32, num_frames=4, tubelet_size=[2, 8, 8]
    )


_RESIDUAL = "the hidden state that it returns is its residual stream, as wide as the model"
_DINO = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32, "patch_size": 8}
_CONVNEXT = {"hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 2, 1], "image_size": 32}
_REGISTERS = "register tokens go too: a softmax over them"
_RESPONSE = "responses are divided by their mean over the channels"
_CVT = {"embed_dim": [16, 24, 48], "num_heads": [1, 2, 4], "depth": [1, 2, 3], "cls_token": [False, False, True]}
_PVT = {"image_size": 32, "hidden_sizes": [16, 24, 40, 48], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 5, 4]}
_PVT2 = {"image_size": 32, "hidden_sizes": [16, 24, 40, 48], "depths": [1, 1, 1, 1]}
_PVT2 |= {"num_attention_heads": [1, 2, 5, 4], "mlp_ratios": [2, 2, 2, 2]}
_SEGFORMER = {"hidden_sizes": [16, 24, 40, 48], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 5, 4]}
_SEGFORMER |= {"decoder_hidden_size": 32}
_SEGFORMER_DEPTH = {"hidden_sizes": [16, 24, 40, 48], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 5, 4]}
_SEGFORMER_DEPTH |= {"decoder_hidden_size": 32}
_MOBILEVIT = {"image_size": 64, "hidden_sizes": [24, 32, 40], "neck_hidden_sizes": [8, 16, 24, 32, 40, 48, 64]}
_MOBILEVIT |= {"num_attention_heads": 4}
_POOLFORMER = {"hidden_sizes": [16, 24, 40, 48], "depths": [1, 1, 1, 1]}
_LEVIT = {"image_size": 64, "hidden_sizes": [32, 48, 64], "num_attention_heads": [2, 3, 4], "depths": [1, 1, 1]}
_LEVIT |= {"key_dim": [8, 8, 8]}
_RESNET = {"embedding_size": 16, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1], "layer_type": "basic"}
_EFFICIENT = {"image_size": 32, "width_coefficient": 0.5, "depth_coefficient": 0.5, "hidden_dim": 640}
_HGNET = {
    "stem_channels": [3, 8, 16],
    "stage_in_channels": [16, 24, 32, 40],
    "stage_mid_channels": [8, 12, 16, 20],
    "stage_out_channels": [24, 32, 40, 48],
    "stage_num_blocks": [1, 1, 1, 1],
    "stage_numb_of_layers": [2, 2, 2, 2],
    "hidden_sizes": [24, 32, 40, 48],
    "depths": [1, 1, 1, 1],
}
_HIERA = {
    "image_size": [32, 32],
    "embed_dim": 16,
    "patch_stride": [4, 4],
    "patch_size": [7, 7],
    "patch_padding": [3, 3],
    "depths": [1, 1],
    "num_heads": [2, 4],
    "query_stride": [2, 2],
    "masked_unit_size": [4, 4],
    "masked_unit_attention": [True, False],
    "num_query_pool": 1,
}
_FOCAL = {"image_size": 32, "embed_dim": 16, "depths": [1, 1], "focal_levels": [2, 2], "focal_windows": [3, 3]}
_FOCAL |= {"hidden_sizes": [16, 32]}
_SWIFT = {"embed_dims": [16, 24, 40, 48], "depths": [1, 1, 2, 1], "image_size": 64}
_TEXTNET = {"stem_out_channels": 16, "hidden_sizes": [16, 24, 32, 40, 48], "image_size": [32, 32]}
_MAE = {**_PATCHES, "decoder_hidden_size": 32, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 4}
_MAE |= {"decoder_intermediate_size": 56}
_DET = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32, "patch_size": 8}
_DET |= {"window_size": 2, "window_block_indices": [0], "use_relative_position_embeddings": True}
_DPT = {
    "num_hidden_layers": 4,
    "backbone_out_indices": [0, 1, 2, 3],
    "neck_hidden_sizes": [16, 24, 32, 40],
    "fusion_hidden_size": 24,
}
_ANYTHING: dict[str, Any] = {
    "backbone_config": {
        "model_type": "dinov2",
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 28,
        "patch_size": 14,
        "out_features": ["stage1", "stage2"],
        "reshape_hidden_states": False,
    },
    "reassemble_hidden_size": 48,
    "patch_size": 14,
    "reassemble_factors": [4, 2],
    "neck_hidden_sizes": [16, 24],
    "fusion_hidden_size": 20,
    "head_hidden_size": 12,
    "head_in_index": -1,
}
_SWIN2SR = {"image_size": 16, "patch_size": 1, "embed_dim": 24, "depths": [1, 1], "num_heads": [2, 4]}
_SWIN2SR |= {"window_size": 4, "upscale": 2}


def _masked() -> dict[str, Any]:
    return {"pixel_values": torch.randn(2, 3, 32, 32), "noise": torch.rand(2, 16)}


def _colours() -> dict[str, Any]:
    return {"input_ids": torch.randint(32, (2, 9))}


def _video(frames: int, size: int) -> Any:
    return lambda: {"pixel_values": torch.randn(2, frames, 3, size, size)}
