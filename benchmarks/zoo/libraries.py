"""Other libraries that people build models with: small models of each that is installed (``make zoo-libraries``).

None of them is a dependency, and no rule of prunus was written for any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.zoo.case import Case, Example

ULTRALYTICS = "yolov5n yolov8n yolov8n-seg yolov8n-pose yolov9t yolov10n yolo11n yolo12n".split()
SEGMENTATION = "Unet UnetPlusPlus MAnet Linknet FPN PSPNet PAN DeepLabV3 DeepLabV3Plus UPerNet".split()

WHOLE = {"monai: ViT": "it returns the hidden states of all blocks, so that its width is an output"}
BY_PROOF = {
    "diffusers: VQModel": "a code that is zeroed may still be the nearest one",
    "diffusers: DiTTransformer2DModel": "its layer norms have no weights that would tell what was cut",
    "diffusers: SD3Transformer2DModel": "its layer norms have no weights that would tell what was cut",
    "peft: DoRA": "it divides by the norm of each row, which is zero for one that is zeroed",
}


def cases() -> Iterator[Case]:
    makers: dict[str, Callable[[], Iterator[tuple[str, Callable[[], Example]]]]] = {
        "segmentation_models_pytorch": _segmentation,
        "monai": _monai,
        "open_clip": _open_clip,
        "diffusers": _diffusers,
        "peft": _peft,
        "ultralytics": _ultralytics,
        "x_transformers": _x_transformers,
    }
    for package, models in makers.items():
        if find_spec(package):
            for name, build in models():
                full = f"{package}: {name}"
                why, proof = WHOLE.get(full, ""), BY_PROOF.get(full, "")
                yield Case("libraries", full, build, left=1.0 if why else 0.6, why=why, by_proof=proof)


def _image(channels: int = 3, size: int = 64, dims: int = 2) -> Tensor:
    return torch.randn(2, channels, *[size] * dims)


def _images(size: int) -> Callable[[], Any]:
    return lambda: (_image(size=size),)


def _built(package: str, path: str, inputs: Callable[[], Any], *args: Any, **options: Any) -> Callable[[], Example]:
    """The class or function ``path`` of a package, called with the options; its inputs, a tuple or a dict by name."""

    def build() -> Example:
        made: Any = import_module(package)
        for name in path.split("."):
            made = getattr(made, name)
        model: nn.Module = made(*args, **options)
        given = inputs()
        return Example(model, (), given) if isinstance(given, Mapping) else Example(model, given)

    return build


def _segmentation() -> Iterator[tuple[str, Callable[[], Example]]]:
    for name in SEGMENTATION:
        options: dict[str, Any] = {"encoder_weights": None, "classes": 3}
        if name == "PSPNet":  # by itself it leaves the last stages of its encoder unused
            options |= {"encoder_depth": 5, "upsampling": 32}
        size = 128 if name == "PAN" else 64
        yield name, _built("segmentation_models_pytorch", name, _images(size), "resnet18", **options)
    yield (
        "Segformer",
        _built(
            "segmentation_models_pytorch", "Segformer", lambda: (_image(),), "mit_b0", encoder_weights=None, classes=3
        ),
    )


def _monai() -> Iterator[tuple[str, Callable[[], Example]]]:
    nets = "monai.networks.nets"
    volume: dict[str, Any] = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2}
    plane = {**volume, "spatial_dims": 2}

    def one(size: int, dims: int) -> Callable[[], Any]:
        return lambda: (_image(1, size, dims),)

    yield "UNet, 3D", _built(nets, "UNet", one(16, 3), channels=(8, 16, 32), strides=(2, 2), num_res_units=2, **volume)
    yield "AttentionUnet", _built(nets, "AttentionUnet", one(32, 2), channels=(8, 16, 32), strides=(2, 2), **plane)
    yield "SegResNet", _built(nets, "SegResNet", one(32, 2), init_filters=8, **plane)
    yield "VNet", _built(nets, "VNet", one(32, 3), **volume)
    yield "SwinUNETR", _built(nets, "SwinUNETR", one(64, 2), feature_size=12, **plane)
    yield (
        "UNETR",
        _built(nets, "UNETR", one(32, 3), 1, 2, (32, 32, 32), feature_size=8, hidden_size=48, mlp_dim=96, num_heads=4),
    )
    yield "DynUNet", _built(nets, "DynUNet", one(32, 2), 2, 1, 2, [3, 3, 3], [1, 2, 2], [2, 2], filters=[8, 16, 32])
    yield "DenseNet121", _built(nets, "DenseNet121", one(64, 2), **plane)
    yield (
        "ViT",
        _built(
            nets, "ViT", one(32, 3), 1, (32, 32, 32), (16, 16, 16), 48, 96, 2, 4, classification=True, num_classes=3
        ),
    )


def _open_clip() -> Iterator[tuple[str, Callable[[], Example]]]:
    def both() -> Any:
        return torch.randn(2, 3, 32, 32), torch.randint(1, 90, (2, 12))

    sides: dict[str, Any] = {
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 12, "vocab_size": 100, "width": 48, "heads": 3, "layers": 2},
    }
    yield "CLIP", _built("open_clip.model", "CLIP", both, 40, **sides)


def _diffusers() -> Iterator[tuple[str, Callable[[], Example]]]:
    two: dict[str, Any] = {"block_out_channels": (32, 64), "norm_num_groups": 8}
    unet = {**two, "sample_size": 16, "layers_per_block": 1}

    def noisy(channels: int, *more: Tensor) -> Callable[[], Any]:
        return lambda: (torch.randn(2, channels, 16, 16), torch.tensor([3]), *more)

    plain = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    yield "UNet2DModel", _built("diffusers", "UNet2DModel", noisy(3), **unet, **plain)
    crossed = {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 24,
        "attention_head_dim": 8,
    }
    text = torch.linspace(-1, 1, 2 * 7 * 24).reshape(2, 7, 24)
    yield "UNet2DConditionModel", _built("diffusers", "UNet2DConditionModel", noisy(4, text), **unet, **crossed)
    coder = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    yield "AutoencoderKL", _built("diffusers", "AutoencoderKL", lambda: (_image(size=32),), **two, **coder)
    yield "VQModel", _built("diffusers", "VQModel", lambda: (_image(size=32),), **two, **coder)
    yield (
        "DiTTransformer2DModel",
        _built(
            "diffusers",
            "DiTTransformer2DModel",
            lambda: {
                "hidden_states": torch.randn(2, 4, 16, 16),
                "timestep": torch.tensor([1, 2]),
                "class_labels": torch.tensor([1, 2]),
            },
            num_attention_heads=4,
            attention_head_dim=8,
            num_layers=2,
            sample_size=16,
            norm_num_groups=8,
        ),
    )
    yield (
        "SD3Transformer2DModel",
        _built(
            "diffusers",
            "SD3Transformer2DModel",
            lambda: {
                "hidden_states": torch.randn(2, 4, 16, 16),
                "encoder_hidden_states": torch.randn(2, 7, 24),
                "pooled_projections": torch.randn(2, 20),
                "timestep": torch.tensor([1.0, 2.0]),
            },
            sample_size=16,
            in_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_projection_dim=32,
            joint_attention_dim=24,
            pooled_projection_dim=20,
            pos_embed_max_size=16,
        ),
    )


def _peft() -> Iterator[tuple[str, Callable[[], Example]]]:
    def adapted() -> nn.Module:
        from transformers import LlamaConfig, LlamaForCausalLM

        heads = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
        return LlamaForCausalLM(LlamaConfig(hidden_size=64, intermediate_size=96, vocab_size=100, **heads))

    def build(config: str, **options: Any) -> Callable[[], Example]:
        def made() -> Example:
            peft: Any = import_module("peft")
            model = peft.get_peft_model(adapted(), getattr(peft, config)(**options))
            return Example(model, (), {"input_ids": torch.randint(0, 100, (2, 8))})

        return made

    yield "LoRA", build("LoraConfig", r=4, target_modules=["q_proj", "v_proj", "down_proj"])
    yield "DoRA", build("LoraConfig", r=4, target_modules=["q_proj", "up_proj"], use_dora=True)
    yield "IA3", build("IA3Config", target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"])


def _ultralytics() -> Iterator[tuple[str, Callable[[], Example]]]:
    kinds = {"seg": "SegmentationModel", "pose": "PoseModel"}
    for name in ULTRALYTICS:
        kind = kinds.get(name.partition("-")[2], "DetectionModel")
        yield name, _built("ultralytics.nn.tasks", kind, lambda: (_image(),), f"{name}.yaml", verbose=False)


def _x_transformers() -> Iterator[tuple[str, Callable[[], Example]]]:
    def model(kind: str, **options: Any) -> Callable[[], Example]:
        def build() -> Example:
            x: Any = import_module("x_transformers")
            layers = getattr(x, kind)(dim=64, depth=2, heads=4, attn_dim_head=16, **options)
            wrapped = x.TransformerWrapper(num_tokens=100, max_seq_len=64, attn_layers=layers)
            return Example(wrapped, (torch.randint(0, 100, (2, 16)),))

        return build

    yield "Decoder, rotary, gated", model("Decoder", rotary_pos_emb=True, ff_glu=True)
    yield "Decoder, ALiBi, one kv head", model("Decoder", alibi_pos_bias=True, attn_one_kv_head=True)
    yield "Encoder, relative bias, RMS norm", model("Encoder", rel_pos_bias=True, use_rmsnorm=True)
    yield "Encoder, talking heads", model("Encoder", attn_pre_talking_heads=True)
