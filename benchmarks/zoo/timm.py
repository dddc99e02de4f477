"""timm: one small model of each family, that is of each module of ``timm.models``.

``python -m benchmarks.zoo.timm_names`` traces all its registered names, at their own sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import timm
import torch

from benchmarks.zoo.case import Case, Example

SIZE = 96  # of the images, where the model allows it: three positions are left of it at stride 32

NAMES = """
    beit_base_patch16_224 cait_xxs24_224 coat_tiny convit_tiny convmixer_768_32 cpubone_nano crossvit_tiny_240
    cs3darknet_focus_s csatv2 cspnext_tiny davit_tiny deepseek_vit_412m deit_tiny_patch16_224 densenet121 dla46x_c
    dpn48b edgenext_xx_small efficientformer_l1 efficientformerv2_s0 efficientvim_m1 efficientvit_b0 efficientvit_m0
    ese_vovnet19b_slim_dw fasternet_t0 fastvit_t8 focalnet_tiny_srf gcvit_xxtiny gemma4_vit_167m ghostnet_050
    gmlp_ti16_224 halonet_h1 hardcorenas_b hgnetv2_b0 hiera_tiny_224 hrnet_w18_small iformer_t inception_next_atto
    inception_resnet_v2 inception_v3 inception_v4 lcnetv2_small legacy_seresnet18 legacy_xception levit_128s
    lowformer_b0 mobilenetv3_small_050 mobilenetv5_base mobilevit_xxs mvitv2_tiny naflexvit_base_patch16_parfac_gap
    nasnetalarge nest_tiny nextvit_small pit_ti_224 pnasnet5large poolformerv2_s12 pvt_v2_b0 qwen3_vit_88m
    rdnet_tiny regnetx_002 repghostnet_050 repvit_m1 res2next50 resnest14d resnetv2_18 rexnet_100 sam2_hiera_tiny
    samvit_base_patch16_224 selecsls42 sequencer2d_s shvit_s1 skresnet18 starnet_s050 swiftformer_xs
    swin_tiny_patch4_window7_224 swinv2_cr_tiny_224 swinv2_tiny_window8_256 test_byobnet test_coatnet test_convnext
    test_efficientnet test_mambaout test_nfnet test_resnet test_vit test_vit_relpos tiny_vit_5m_224
    tnt_s_patch16_224 tresnet_m twins_svt_small vgg11 visformer_tiny vit_tiny_patch16_dinov3_qkvb
    vit_tiny_r_s16_p8_224 vitamin_small_224 volo_d1_224 xception41p xcit_nano_12_p16_224
""".split()

SIZES = {"deepseek_vit_412m": 224, "efficientformer_l1": 224, "halonet_h1": 256}

_AT_SIZE = """
    cait_xxs24_224 coat_tiny convit_tiny deit_tiny_patch16_224 efficientformerv2_s0 gcvit_xxtiny gmlp_ti16_224
    hiera_tiny_224 levit_128s nest_tiny pit_ti_224 swin_tiny_patch4_window7_224 swinv2_cr_tiny_224
    swinv2_tiny_window8_256 test_coatnet test_vit_relpos tnt_s_patch16_224 visformer_tiny vit_tiny_r_s16_p8_224
    vitamin_small_224 volo_d1_224
""".split()
_SHALLOW_VIT: dict[str, Any] = {"embed_dim": 192, "depth": 2, "num_heads": 3, "num_classes": 100}

# What the models are built with: image sizes that they must know beforehand, fewer or narrower blocks of large ones.
OPTIONS: dict[str, dict[str, Any]] = {
    **{name: {"img_size": SIZE} for name in _AT_SIZE},
    "beit_base_patch16_224": {"img_size": SIZE, **_SHALLOW_VIT},
    "deepseek_vit_412m": _SHALLOW_VIT,
    "gemma4_vit_167m": _SHALLOW_VIT,
    "mobilenetv5_base": {"num_classes": 100},
    "naflexvit_base_patch16_parfac_gap": _SHALLOW_VIT,
    "qwen3_vit_88m": _SHALLOW_VIT,
    "samvit_base_patch16_224": {"depth": 3, "global_attn_indexes": (1,), "num_classes": 100},
}

# Why more than 0.6 of the parameters is left: (how much may be, the reason).
REASONS: dict[str, tuple[float, str]] = {
    "vit_tiny_patch16_dinov3_qkvb": (0.7, "attention is given no scale, so that the width of a head, of 3, must stay"),
}

# What is cut here takes part in a statistic outside any normalization layer, where zeros would count.
BY_PROOF = {
    "csatv2": "a mean and a maximum over the channels",
    "edgenext_xx_small": "attention between channels: a softmax over them",
    "efficientvim_m1": "a mean over the states, which go too",
    "naflexvit_base_patch16_parfac_gap": "register tokens go too: a softmax over them",
    "test_nfnet": "weights are standardized: a mean over their input channels",
    "vit_tiny_patch16_dinov3_qkvb": "register tokens go too: a softmax over them",
}

SAMPLE: set[str] = set()


def cases() -> Iterator[Case]:
    for name in NAMES:
        left, why = REASONS.get(name, (0.6, ""))
        by_proof = BY_PROOF.get(name, "")
        yield Case("timm", name, _classifier(name), left, why, by_proof=by_proof, sample=name in SAMPLE)


def _classifier(name: str) -> Callable[[], Example]:
    def build() -> Example:
        size = SIZES.get(name, SIZE)
        model = timm.create_model(name, **OPTIONS.get(name, {}))
        return Example(model, (torch.randn(2, 3, size, size),))

    return build
