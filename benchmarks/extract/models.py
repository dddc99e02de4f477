"""Models with structured masks: random weights, random biases and batch norms, part of each layer's units zero."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils import prune
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.regnet import BlockParams, RegNet
from torchvision.models.vision_transformer import VisionTransformer

from benchmarks.zoo.case import randomize

Made = tuple[nn.Module, dict[str, Any]]
AMOUNTS = (0.3, 0.5, 0.8)
SIDE = {"alexnet": 224, "inception_v3": 299, "googlenet": 224, "maxvit_t": 224}
"""Heights and widths of inputs; vision transformers take 224 alone, all others run on 64."""


def _vit_of(patch: int, layers: int, heads: int, width: int) -> nn.Module:
    return VisionTransformer(224, patch, layers, heads, width, 4 * width)


def _convnext() -> nn.Module:
    return ConvNeXt(
        [CNBlockConfig(w, v, n) for w, v, n in ((192, 384, 3), (384, 768, 3), (768, 1536, 9), (1536, None, 3))]
    )


def _regnet() -> nn.Module:
    return RegNet(BlockParams([1, 1, 2, 1], [528, 1056, 2904, 7392], [264] * 4, [1.0] * 4, [2] * 4, se_ratio=0.25))


SHALLOW: Mapping[str, tuple[str, Callable[[], nn.Module]]] = {
    "convnext_large": ("9 of 27 blocks in its third stage", _convnext),
    "vit_l_16": ("6 of 24 blocks", lambda: _vit_of(16, 6, 16, 1024)),
    "vit_l_32": ("6 of 24 blocks", lambda: _vit_of(32, 6, 16, 1024)),
    "vit_h_14": ("4 of 32 blocks", lambda: _vit_of(14, 4, 16, 1280)),
    "regnet_y_128gf": ("5 of 27 blocks", _regnet),
}
"""Models too large for a process of 5 GB, with fewer blocks of the same widths."""


def names() -> list[str]:
    """Every classification model of torchvision, then the four others."""
    return [*torchvision.models.list_models(module=torchvision.models), *OTHERS]


def make(name: str, amount: float) -> Made:
    """A masked model in eval mode, its masks made permanent, and keyword inputs for it."""
    torch.manual_seed(0)
    if name in OTHERS:
        build, mask = OTHERS[name]
        model, inputs = build()
    else:
        model, inputs = classifier(name)
        mask = mask_filters
    randomize(model.eval())
    torch.manual_seed(1)
    mask(model, amount)
    awaken(model, inputs)
    return model, inputs


def classifier(name: str, side: int = 0) -> Made:
    """A model of torchvision with an image."""
    model: nn.Module
    if name in SHALLOW:
        model = SHALLOW[name][1]()
    else:
        more = {"init_weights": False} if name in ("inception_v3", "googlenet") else {}
        model = torchvision.models.get_model(name, weights=None, **more)
    side = side or SIDE.get(name, 224 if name.startswith("vit") else 64)
    return model, {"x": torch.randn(1, 3, side, side)}


def awaken(model: nn.Module, inputs: Mapping[str, Any]) -> None:
    """Batch norms near the statistics of what they see: else a deep random network gives the same for every input.

    They see 16 images. The deepest layers have four positions in one: a variance of four values is at times so small
    that dividing by it magnifies whatever was rounded before, which no trained network does.
    """

    def look(module: Any, given: tuple[Tensor, ...]) -> None:
        x = given[0].transpose(0, 1).flatten(1)
        module.running_mean.copy_(x.mean(1) * torch.empty(len(x)).uniform_(0.5, 1.5))
        spread = x.var(1)
        spread = torch.where(spread > 1e-9, spread, 1)  # dead filters vary by nothing
        module.running_var.copy_(spread * torch.empty(len(x)).uniform_(0.5, 1.5))

    norms = [m for m in model.modules() if isinstance(m, _NormBase) and m.running_mean is not None]
    if not norms:
        return
    inputs = {name: torch.randn(16, *image.shape[1:]) for name, image in inputs.items()}
    handles = [module.register_forward_pre_hook(look) for module in norms]
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()


def mask_filters(model: nn.Module, amount: float) -> None:
    """The filters (rows) of least L1 of every convolution and linear layer but the last, with torch's own tool."""
    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    for layer in layers[:-1]:
        zero_rows(layer, amount)


def zero_rows(layer: nn.Module, amount: float) -> None:
    prune.ln_structured(layer, "weight", amount, n=1, dim=0)
    prune.remove(layer, "weight")


def _vit() -> Made:
    import timm

    return timm.create_model("vit_tiny_patch16_224", num_classes=100), {"x": torch.randn(1, 3, 224, 224)}


def _mask_vit(model: nn.Module, amount: float) -> None:
    """Neurons, and whole heads: their values are zero, so that what they give is constant."""
    for block in model.get_submodule("blocks").children():
        zero_rows(block.get_submodule("mlp.fc1"), amount)
        attention: Any = block.get_submodule("attn")
        _zero_heads(attention.qkv.weight[2 * attention.qkv.out_features // 3 :], attention.num_heads, amount)


def _zero_heads(rows: Tensor, heads: int, amount: float) -> None:
    """``rows`` are ``heads`` runs of one length; at least one head stays."""
    gone = torch.randperm(heads)[: min(round(amount * heads), heads - 1)]
    with torch.no_grad():
        rows.view(heads, -1)[gone] = 0


def _bert() -> Made:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=1000, hidden_size=192, num_hidden_layers=4, num_attention_heads=6, intermediate_size=768
    )
    return BertModel(config), {"input_ids": torch.randint(0, 1000, (1, 12))}


def _mask_bert(model: nn.Module, amount: float) -> None:
    for layer in model.get_submodule("encoder.layer").children():
        zero_rows(layer.get_submodule("intermediate.dense"), amount)
        _zero_heads(layer.get_parameter("attention.self.value.weight"), 6, amount)


def _llama() -> Made:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=1000,
        hidden_size=192,
        num_hidden_layers=4,
        num_attention_heads=12,
        num_key_value_heads=6,
        intermediate_size=512,
        attention_bias=True,
    )
    return LlamaForCausalLM(config), {"input_ids": torch.randint(0, 1000, (1, 12)), "use_cache": False}


def _mask_llama(model: nn.Module, amount: float) -> None:
    for layer in model.get_submodule("model.layers").children():
        zero_rows(layer.get_submodule("mlp.gate_proj"), amount)
        _zero_heads(layer.get_parameter("self_attn.v_proj.weight"), 6, amount)


class Recurrent(nn.Module):
    """Words to two LSTM layers to classes."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.inner = nn.Embedding(500, 48), nn.Linear(48, 64)
        self.lstm = nn.LSTM(64, 96, num_layers=2, batch_first=True)
        self.hidden, self.head = nn.Linear(96, 64), nn.Linear(64, 10)

    def forward(self, words: Tensor) -> Tensor:
        y, _ = self.lstm(torch.tanh(self.inner(self.words(words))))
        return self.head(torch.relu(self.hidden(y)))


def _mask_lstm(model: nn.Module, amount: float) -> None:
    """Rows of the linear layers; of the LSTM's units that go half are never read, half never move from zero."""
    zero_rows(model.get_submodule("inner"), amount)
    zero_rows(model.get_submodule("hidden"), amount)
    readers = {0: ("lstm.weight_hh_l0", "lstm.weight_ih_l1"), 1: ("lstm.weight_hh_l1", "hidden.weight")}
    for level, reading in readers.items():
        gone = torch.randperm(96)[: int(amount * 96)]
        unread, still = gone.chunk(2)
        with torch.no_grad():
            for name in reading:
                model.get_parameter(name)[:, unread] = 0
            for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                model.get_parameter(f"lstm.{kind}_l{level}").view(4, 96, -1)[:, still] = 0


OTHERS: Mapping[str, tuple[Callable[[], Made], Callable[[nn.Module, float], None]]] = {
    "ViT-Ti/16 (timm)": (_vit, _mask_vit),
    "BERT (4 layers)": (_bert, _mask_bert),
    "Llama (4 layers, GQA)": (_llama, _mask_llama),
    "LSTM (2 layers)": (lambda: (Recurrent(), {"words": torch.randint(0, 500, (2, 7))}), _mask_lstm),
}


def parameters(name: str) -> int:
    """How many the model has: those of torchvision as published, or with the fewer blocks that they have here."""
    if name in SHALLOW:
        with torch.device("meta"):
            return sum(p.numel() for p in SHALLOW[name][1]().parameters())
    return 0 if name in OTHERS else int(torchvision.models.get_model_weights(name)["DEFAULT"].meta["num_params"])
