"""INT8 on top of the pruned network: ONNX files through ONNX Runtime, torch models through torchao."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunus.deploy.export import quiet
from prunus.deploy.measure import onnx_feed, onnx_session
from prunus.deploy.parity import difference
from prunus.errors import InputError
from prunus.running import as_args, cloned, tensors_in
from prunus.surgery import copy_model

SCHEMES = ("static", "dynamic")
TORCH_SCHEMES = {
    "dynamic": "Int8DynamicActivationInt8WeightConfig",
    "weights": "Int8WeightOnlyConfig",
}

_STATIC = ["Conv", "Gemm", "MatMul", "Add", "Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat"]
"""With Relu and Clip among them they become part of the quantization before; else each runs in floating point between
two conversions."""


@dataclass(frozen=True)
class Quantized:
    """A quantized file, and how far it is from the one it was made of.

    Attributes:
        path: the file.
        scheme: ``"static"`` (weights and activations, ranges seen in calibration) or ``"dynamic"`` (ranges found in
            each run).
        bytes: size on disk; ``bytes_before`` that of the original.
        quantized: operators that compute in INT8, by type.
        error: root mean square of the difference in the outputs, over that of the original's outputs, on the first
            batch of data; None without data.
        same_top: part of that batch whose largest output is the same; None where the output isn't [batch, classes].
    """

    path: Path
    scheme: str
    bytes: int
    bytes_before: int
    quantized: dict[str, int]
    error: float | None
    same_top: float | None

    def __str__(self) -> str:
        kinds = ", ".join(f"{n} {kind}" for kind, n in self.quantized.items())
        error = "" if self.error is None else f", outputs {self.error:.2%} off"
        top = "" if self.same_top is None else f", the same largest output in {self.same_top:.1%}"
        size = f"{self.bytes_before:,} -> {self.bytes:,} bytes"
        return f"{self.path}: INT8 {self.scheme}, {size}, {kinds}{error}{top}"


def quantize(
    source: str | PathLike[str],
    path: str | PathLike[str],
    data: Iterable[Any] | None = None,
    *,
    scheme: str | None = None,
    batches: int = 32,
) -> Quantized:
    """Quantize an ONNX file that :func:`prunus.export` wrote to INT8 (Jacob et al., 2018), with ONNX Runtime.

    Static: every convolution and matrix product between QuantizeLinear and DequantizeLinear, weights by channel,
    activations by the least and largest value seen in ``data``. Dynamic: matrix products alone, activations scaled in
    each run; for transformers and recurrent networks, no data needed.

    Args:
        source: the ONNX file.
        path: the file to write; one that is there is replaced.
        data: calibration inputs like those the model will see: batches, each one tensor or a tuple of the graph's
            inputs in order. Use training data, not the test set.
        scheme: ``"static"`` or ``"dynamic"``; by default static if there is data.
        batches: how many batches to look at, at most.

    Returns:
        The file, and its distance from ``source`` on the first batch. It's for you to check accuracy on your own data.

    Raises:
        InputError: an unknown scheme, static without data, data that isn't the graph's, a package that is missing, or
            nothing in the graph that ONNX Runtime quantizes in that way.
    """
    scheme = scheme or ("static" if data is not None else "dynamic")
    if scheme not in SCHEMES:
        raise InputError(f"scheme must be 'static' or 'dynamic', not {scheme!r}.")
    if scheme == "static" and data is None:
        raise InputError("static quantization looks at what activations are like: pass data=, some training batches.")
    tools, source, path = _tools(), Path(source), Path(path)
    if not source.is_file():
        raise InputError(f"there is no file {source}.")
    seen = [tensors_in(as_args(batch)) for batch, _ in zip(data or (), range(batches), strict=False)]
    if scheme == "static" and not seen:
        raise InputError("data holds no batch.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".prunus-") as beside, quiet():
        draft = Path(beside, path.name)
        (_static if scheme == "static" else _dynamic)(tools, source, draft, seen)
        counts = _int8_operators(draft)
        if not counts:
            raise InputError(f"{source} has nothing that ONNX Runtime quantizes with scheme={scheme!r}.")
        error, same = _distance(source, draft, seen[0]) if seen else (None, None)
        size = draft.stat().st_size
        draft.replace(path)
    return Quantized(path, scheme, size, source.stat().st_size, counts, error, same)


def quantize_torch(model: nn.Module, scheme: str = "dynamic") -> nn.Module:
    """A copy of a pruned model whose Linear layers have INT8 weights, through torchao.

    ``"dynamic"`` also computes their products in INT8; it pays with ``torch.compile``. ``"weights"`` keeps activations
    as they are: a quarter of the memory. The model given stays as it is.

    Raises:
        InputError: torchao isn't installed, an unknown scheme, or no Linear layer.
    """
    if scheme not in TORCH_SCHEMES:
        raise InputError(f"scheme must be one of {', '.join(TORCH_SCHEMES)}, not {scheme!r}.")
    if not any(isinstance(module, nn.Linear) for module in model.modules()):
        raise InputError(f"{type(model).__name__} has no Linear layer, and torchao quantizes no other on the CPU.")
    try:
        with quiet():
            torchao: Any = importlib.import_module("torchao.quantization")
    except ImportError as error:
        raise InputError(f"torchao isn't here ({error}): pip install torchao") from error
    small = copy_model(model, {})
    with quiet():
        torchao.quantize_(small, getattr(torchao, TORCH_SCHEMES[scheme])())
    return small


class _Reader:
    """Calibration batches, as ONNX Runtime asks for them."""

    def __init__(self, source: Path, seen: list[list[torch.Tensor]]) -> None:
        session = onnx_session(source)
        self.feeds: Iterator[dict[str, Any]] = iter([onnx_feed(session, cloned(batch)) for batch in seen])

    def get_next(self) -> dict[str, Any] | None:
        """The next batch, or None."""
        return next(self.feeds, None)


def _static(tools: Any, source: Path, draft: Path, seen: list[list[torch.Tensor]]) -> None:
    prepared = draft.with_suffix(".prepared.onnx")
    tools.shape_inference.quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    tools.quantize_static(
        str(prepared),
        str(draft),
        _Reader(source, seen),
        quant_format=tools.QuantFormat.QDQ,
        per_channel=True,
        activation_type=tools.QuantType.QUInt8,
        weight_type=tools.QuantType.QInt8,
        op_types_to_quantize=_STATIC,
        extra_options={"ReduceRange": False},
    )
    prepared.unlink()


def _dynamic(tools: Any, source: Path, draft: Path, seen: list[list[torch.Tensor]]) -> None:
    tools.quantize_dynamic(
        str(source),
        str(draft),
        per_channel=True,
        weight_type=tools.QuantType.QInt8,
        op_types_to_quantize=["MatMul", "Gemm", "LSTM", "Attention"],
    )


def _int8_operators(path: Path) -> dict[str, int]:
    """How many operators of each kind read values that come out of DequantizeLinear, or are integer operators."""
    onnx: Any = importlib.import_module("onnx")
    graph = onnx.load(str(path), load_external_data=False).graph
    real = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    counts: dict[str, int] = {}
    for node in graph.node:
        integer = node.op_type in ("MatMulInteger", "ConvInteger", "DynamicQuantizeLSTM", "QAttention")
        if integer or (node.op_type in ("Conv", "Gemm", "MatMul") and real.issuperset(node.input[:2])):
            counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return counts


def _distance(source: Path, draft: Path, batch: list[torch.Tensor]) -> tuple[float, float | None]:
    before, after = (_outputs(path, batch) for path in (source, draft))
    square = sum(float((a.double() - b.double()).square().sum()) for a, b in zip(before, after, strict=True))
    whole = sum(float(a.double().square().sum()) for a in before)
    if not all(difference(a, b)[0] < float("inf") for a, b in zip(before, after, strict=True)):
        return float("inf"), None
    classes = before[0].dim() == 2 and before[0].shape[1] > 1 and before[0].shape[0] > 0
    same = float((before[0].argmax(1) == after[0].argmax(1)).double().mean()) if classes else None
    return (square / max(whole, torch.finfo(torch.float64).tiny)) ** 0.5, same


def _outputs(path: Path, batch: list[torch.Tensor]) -> list[torch.Tensor]:
    session = onnx_session(path)
    return [torch.from_numpy(array) for array in session.run(None, onnx_feed(session, batch))]


def _tools() -> Any:
    try:
        with quiet():
            importlib.import_module("onnx")
            tools: Any = importlib.import_module("onnxruntime.quantization")
            importlib.import_module("onnxruntime.quantization.shape_inference")
    except ImportError as error:
        raise InputError(f"quantization needs a package that isn't here ({error}): pip install 'prunus[export]'") from (
            error
        )
    return tools
