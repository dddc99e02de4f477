"""One layer's arithmetic with sizes of its own, to be timed alone: as a torch module, and as an ONNX graph."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """A call that multiplies, by the shapes of its operands.

    Attributes:
        kind: ``"convolution"``, ``"transposed convolution"``, ``"product"`` or ``"attention"``.
        shapes: of the operands: input and weight; both factors; query, key and value.
        settings: stride, padding, dilation and output padding of a convolution.
    """

    kind: str
    shapes: tuple[Shape, ...]
    settings: tuple[tuple[str, Shape], ...] = ()

    @property
    def key(self) -> str:
        """A name that is the same for the same work."""
        shapes = " ".join("x".join(map(str, shape)) for shape in self.shapes)
        return f"{self.kind} {shapes} {' '.join(f'{n}={v}' for n, v in self.settings)}".strip()

    @property
    def groups(self) -> int:
        """Of a convolution."""
        return max(1, self.shapes[0][1] // self.shapes[1][1]) if self.kind == "convolution" else 1

    def module(self) -> tuple[nn.Module, tuple[Tensor, ...]]:
        """A module that does it, with weights of its own, and its inputs."""
        if self.kind in ("attention",):
            return _Attention(), tuple(torch.randn(shape, device="cpu") for shape in self.shapes)
        return _Weighted(self), (torch.randn(self.shapes[0], device="cpu"),)

    def onnx(self) -> bytes:
        """An ONNX model that does it, its inputs in the order of :meth:`module`'s."""
        from onnx import TensorProto, helper, numpy_helper

        names = ["a", "b", "c"][: len(self.shapes)]
        drawn = [] if self.kind == "attention" else [torch.randn(self.shapes[1], device="cpu")]
        weight = [numpy_helper.from_array(tensor.numpy(), "b") for tensor in drawn]
        given = names if not weight else names[:1]
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))
            for name, shape in zip(given, self.shapes, strict=False)
        ]
        output = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
        graph = helper.make_graph(self._nodes(helper), "layer", inputs, [output], initializer=weight)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        data: bytes = model.SerializeToString()
        return data

    def _nodes(self, helper: Any) -> list[Any]:
        if self.kind == "product":
            return [helper.make_node("MatMul", ["a", "b"], ["out"])]
        if self.kind == "attention":
            swap = [*range(len(self.shapes[1]) - 2), len(self.shapes[1]) - 1, len(self.shapes[1]) - 2]
            return [
                helper.make_node("Transpose", ["b"], ["bt"], perm=swap),
                helper.make_node("MatMul", ["a", "bt"], ["scores"]),
                helper.make_node("Softmax", ["scores"], ["weights"], axis=-1),
                helper.make_node("MatMul", ["weights", "c"], ["out"]),
            ]
        numbers = dict(self.settings)
        n = len(self.shapes[1]) - 2
        spread = {name: list(numbers[name]) * (n if len(numbers[name]) == 1 else 1) for name in numbers}
        settings = {"strides": spread["stride"], "dilations": spread["dilation"], "pads": spread["padding"] * 2}
        if self.kind == "convolution":
            return [helper.make_node("Conv", ["a", "b"], ["out"], group=self.groups, **settings)]
        return [
            helper.make_node("ConvTranspose", ["a", "b"], ["out"], output_padding=spread["output_padding"], **settings)
        ]


class _Weighted(nn.Module):
    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.layer, self.settings = layer, dict(layer.settings)
        self.weight = nn.Parameter(torch.randn(layer.shapes[1], device="cpu") / math.sqrt(max(layer.shapes[1][-1], 1)))

    def forward(self, x: Tensor) -> Tensor:
        if self.layer.kind == "product":
            return x @ self.weight
        s = self.settings
        if self.layer.kind == "convolution":
            return torch.convolution(
                x,
                self.weight,
                None,
                s["stride"],
                s["padding"],
                s["dilation"],
                False,
                s["output_padding"],
                self.layer.groups,
            )
        return torch.convolution(
            x, self.weight, None, s["stride"], s["padding"], s["dilation"], True, s["output_padding"], 1
        )


class _Attention(nn.Module):
    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value)
