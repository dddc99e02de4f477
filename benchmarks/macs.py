"""Multiply-accumulates and parameters of many models, beside torch.utils.flop_counter. On the meta device, two minutes.

    python -m benchmarks.macs [--all]

For each model three counts are compared:

* torch's own: ``FlopCounterMode`` as it is, two operations to a multiply-accumulate, attention spelled out;
* ``prunus.profile``, module by module: each module with its children must have what torch's counter says of it;
* what budgets are met by: predicted from the axes that ``prunus.trace`` learned, without a run of the small model.

One model of each of torchvision's families (``--all``: every one), transformers, and hand-written modules for the
operators: recurrent, transposed and grouped convolutions, einsum, bmm, attention. Exit code 1 where two differ. On a
CPU torch's own counter says 0 of fused attention and LSTM kernels; ``prunus.profile`` counts these too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import prunus
from prunus.budget.costs import Costs
from prunus.running import no_fast_path

Built = tuple[nn.Module, tuple[Any, ...]]

FAMILIES = (
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3"),
    *("maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf", "resnet50"),
    *("resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11_bn", "vit_b_16"),
    *("wide_resnet50_2", "fcn_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large", "r3d_18"),
    *("mvit_v1_b", "swin3d_t", "s3d"),
)
VIDEO = {"mvit_v1_b": (16, 224), "s3d": (16, 224), "r3d_18": (8, 64), "mc3_18": (8, 64), "r2plus1d_18": (8, 64)}
VIDEO |= {"mvit_v2_s": (16, 224), "swin3d_t": (8, 64), "swin3d_s": (8, 64), "swin3d_b": (8, 64)}
_WIDE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100}
LANGUAGE: dict[str, dict[str, int]] = {
    "BertConfig": _WIDE | {"intermediate_size": 128},
    "DistilBertConfig": {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128, "vocab_size": 100},
    "GPT2Config": {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 100},
    "LlamaConfig": _WIDE | {"intermediate_size": 128, "num_key_value_heads": 2},
    "OPTConfig": _WIDE | {"ffn_dim": 128, "word_embed_proj_dim": 64},
    "T5Config": {"d_model": 64, "num_layers": 2, "num_heads": 4, "d_kv": 16, "d_ff": 128, "vocab_size": 100},
}
"""Small ones: their code reads values of their masks, which the meta device has none of, so they run on the CPU."""

UNCOUNTED = ("matrix times vector", "bilinear")
"""torch's counter has no formula for these; nor do the others count them."""


@dataclass(frozen=True)
class Counts:
    """What each way found for one model; ``layers`` names modules in which the first two differ."""

    torch: int
    profile: int
    axes: int
    layers: tuple[str, ...]
    parameters_agree: bool

    @property
    def agree(self) -> bool:
        return self.torch == self.profile == self.axes and not self.layers and self.parameters_agree


def compare(model: nn.Module, args: tuple[Any, ...]) -> Counts:
    """Count the model's multiply-accumulates on ``args`` in three ways, and its parameters in two."""
    model.eval()
    by_module = counted_by_torch(model, args)
    found = prunus.profile(model, args, latency=False)
    layers = []
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList | nn.ModuleDict):  # never called, so torch's counter doesn't know them
            continue
        inside = sum(row.macs for row in found.rows if not name or row.name == name or row.name.startswith(name + "."))
        if inside != by_module.get(name, 0):
            layers.append(f"{name} ({type(module).__name__}): torch {by_module.get(name, 0):,}, profile {inside:,}")
    whole = sum(p.numel() for p in model.parameters())
    cost = Costs(prunus.trace(model, args))({})
    same = found.parameters == whole == cost["parameters"]
    return Counts(by_module.get("", 0), found.macs, cost["macs"], tuple(layers), same)


def counted_by_torch(model: nn.Module, args: tuple[Any, ...]) -> dict[str, int]:
    """Module name -> multiply-accumulates with those of its children, as torch's counter finds them by itself."""
    with torch.no_grad(), no_fast_path(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(*args)
    root = type(model).__name__
    found = {"": counter.get_total_flops() // 2}
    for name, operators in counter.get_flop_counts().items():
        if name.startswith(root + "."):
            found[name.removeprefix(root + ".")] = sum(operators.values()) // 2
    return found


def on_meta(build: Callable[[], Built]) -> Built:
    """Built there, or moved there where building needs values (RegNet computes its widths with tensors)."""
    try:
        with torch.device("meta"):
            return build()
    except (NotImplementedError, RuntimeError):
        model, args = build()
        return model.to("meta"), tuple(arg.to("meta") for arg in args)


def models(every: bool) -> Iterator[tuple[str, Callable[[], Built]]]:
    import torchvision

    names = torchvision.models.list_models() if every else FAMILIES
    for name in names:
        if "quantized" not in name and "rcnn" not in name and name not in _NOT_ON_META:
            yield f"torchvision:{name}", lambda name=name: vision(name)
    for name in LANGUAGE:
        yield f"transformers:{name}", lambda name=name: _language(name)
    yield from OPERATORS.items()


_NOT_ON_META = {"fcos_resnet50_fpn", "retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2", "ssd300_vgg16"}
_NOT_ON_META |= {"ssdlite320_mobilenet_v3_large"}  # boxes are chosen by their values


def vision(name: str) -> Built:
    import torchvision

    more: dict[str, Any] = {"init_weights": False} if name in ("inception_v3", "googlenet") else {}
    if ("resnet" in name and ("fcn" in name or "deeplab" in name)) or name.startswith(("lraspp", "deeplab")):
        more["weights_backbone"] = None
    frames, size = VIDEO.get(name, (0, 224))
    if name.startswith("raft"):
        return torchvision.models.get_model(name), (torch.randn(1, 3, 128, 128),) * 2
    if name == "vit_h_14":
        more["image_size"] = size = 224
    shape = (1, 3, frames, size, size) if frames else (2 if name.startswith("deeplab") else 1, 3, size, size)
    return torchvision.models.get_model(name, weights=None, **more), (torch.randn(shape),)


def _language(name: str) -> Built:
    import transformers

    config = getattr(transformers, name)(**LANGUAGE[name], use_cache=False)
    model = transformers.AutoModel.from_config(config)
    ids = torch.zeros(1, 16, dtype=torch.long)
    if name == "T5Config":
        return model.encoder, (ids,)
    return model, (ids,)


class Functional(nn.Module):
    """A weight and a function of it and the input."""

    def __init__(self, shape: tuple[int, ...], function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape))
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x, self.weight)


def _heads(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    q, k, v = (x @ weight).view(2, 7, 3, 4, 6).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v)


def _repeated(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    q, k, v = (x @ weight).split([24, 12, 12], -1)
    q, k, v = q.view(2, 7, 4, 6).transpose(1, 2), k.view(2, 7, 2, 6).transpose(1, 2), v.view(2, 7, 2, 6).transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)


OPERATORS: dict[str, Callable[[], Built]] = {
    "linear": lambda: (nn.Linear(5, 7), (torch.randn(3, 2, 5),)),
    "conv1d, dilated": lambda: (nn.Conv1d(4, 6, 3, dilation=2), (torch.randn(2, 4, 11),)),
    "conv2d, strided, padded": lambda: (nn.Conv2d(4, 6, 3, 2, 1), (torch.randn(2, 4, 9, 11),)),
    "conv2d, grouped": lambda: (nn.Conv2d(6, 9, 3, groups=3), (torch.randn(2, 6, 9, 7),)),
    "conv2d, depthwise": lambda: (nn.Conv2d(6, 12, 3, groups=6), (torch.randn(2, 6, 9, 7),)),
    "conv3d": lambda: (nn.Conv3d(2, 3, 3), (torch.randn(1, 2, 5, 6, 7),)),
    "transposed conv1d": lambda: (nn.ConvTranspose1d(4, 6, 3, 2), (torch.randn(2, 4, 5),)),
    "transposed conv2d": lambda: (nn.ConvTranspose2d(4, 6, 3, 2, output_padding=1), (torch.randn(2, 4, 5, 7),)),
    "transposed conv2d, grouped": lambda: (nn.ConvTranspose2d(4, 6, 3, groups=2), (torch.randn(2, 4, 5, 7),)),
    "RNN": lambda: (nn.RNN(5, 6, 2), (torch.randn(7, 3, 5),)),
    "LSTM, both ways": lambda: (nn.LSTM(5, 6, 2, bidirectional=True), (torch.randn(7, 3, 5),)),
    "LSTM, projected": lambda: (nn.LSTM(5, 6, proj_size=3), (torch.randn(7, 3, 5),)),
    "GRU, batch first": lambda: (nn.GRU(5, 6, batch_first=True), (torch.randn(3, 7, 5),)),
    "multi-head attention": lambda: (nn.MultiheadAttention(8, 2, batch_first=True), (torch.randn(2, 5, 8),) * 3),
    "transformer": lambda: (nn.Transformer(8, 2, 1, 1, 16), (torch.randn(5, 2, 8), torch.randn(4, 2, 8))),
    "SDPA": lambda: (Functional((8, 72), _heads), (torch.randn(2, 7, 8),)),
    "SDPA, grouped queries": lambda: (Functional((8, 48), _repeated), (torch.randn(2, 7, 8),)),
    "einsum": lambda: (
        Functional((4, 5, 6), lambda x, w: torch.einsum("bnd,hdk->bhnk", x, w)),
        (torch.randn(2, 3, 5),),
    ),
    "bmm": lambda: (Functional((3, 5, 6), torch.bmm), (torch.randn(3, 4, 5),)),
    "matmul, broadcast": lambda: (Functional((2, 1, 5, 6), torch.matmul), (torch.randn(3, 4, 5),)),
    "baddbmm": lambda: (Functional((3, 5, 6), lambda x, w: torch.baddbmm(w[:, :4], x, w)), (torch.randn(3, 4, 5),)),
    "matrix times vector": lambda: (Functional((5,), torch.matmul), (torch.randn(4, 5),)),
    "bilinear": lambda: (nn.Bilinear(4, 5, 6), (torch.randn(3, 4), torch.randn(3, 5))),
}


def main() -> None:
    different = 0
    for name, build in models("--all" in sys.argv[1:]):
        model, args = build() if name.startswith("transformers") else on_meta(build)
        found = compare(model, args)
        told = "the same" if found.agree else "DIFFERENT"
        modules = sum(1 for _ in model.modules())
        print(f"{name:<44} {found.torch:>16,} MACs in {modules:>4} modules: {told}", flush=True)
        if not found.agree:
            different += 1
            print(f"    profile {found.profile:,}, axes {found.axes:,}, parameters agree: {found.parameters_agree}")
            print("".join(f"    {layer}\n" for layer in found.layers[:6]), end="", flush=True)
    print(f"{different} of the models differ")
    sys.exit(different > 0)


if __name__ == "__main__":
    main()
