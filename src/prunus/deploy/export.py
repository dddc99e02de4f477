"""Export to ONNX: any batch size where the model allows, one file, and only if ONNX Runtime agrees with torch."""

from __future__ import annotations

import importlib
import io
import logging
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from prunus.deploy.capture import capture, chosen, open_dims
from prunus.deploy.measure import onnx_feed, onnx_session
from prunus.deploy.parity import Batch, Comparison, Inputs, compare
from prunus.errors import InputError, PrunusError
from prunus.running import as_args, call_afresh, check_eager, cloned, no_fast_path, tensors_in, undisturbed
from prunus.surgery import copy_model, like, named_tensors

_ONE_FILE_BYTES = 1_900_000_000
"""A protobuf message ends at 2 GiB; larger weights go in a ``.data`` file beside the graph."""

_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 2e-2}


class ExportError(PrunusError, RuntimeError):
    """The model can't be exported, or the exported file computes something else."""


@dataclass(frozen=True)
class ExportResult:
    """An exported and checked file.

    Attributes:
        path: the file.
        max_abs_error: largest |torch - the file in its runtime| over all outputs and inputs tried.
        max_rel_error: the same, each output's relative to its largest magnitude.
        dynamic_batch: whether the file takes any batch size; if not, only that of the example.
        bytes: size on disk.
        opset: version of the ONNX operator set; 0 in other formats.
        open_dims: for each input tensor, the dimensions beside the batch that may have any size the model takes.
        reason: why the batch is fixed although a dynamic one was asked for; otherwise None.
        compared: on what torch and the file were compared, and what was left out; None if they weren't.
    """

    path: Path
    max_abs_error: float
    max_rel_error: float
    dynamic_batch: bool
    bytes: int
    opset: int
    open_dims: tuple[tuple[int, ...], ...] = ()
    reason: str | None = None
    compared: Comparison | None = None

    def __str__(self) -> str:
        batch = "any batch size" if self.dynamic_batch else "the example's batch size only"
        if any(self.open_dims):
            batch += f", open dimensions {', '.join(map(str, map(list, self.open_dims)))}"
        because = f" ({self.reason})" if self.reason else ""
        error = f"within {self.max_rel_error:.1e} of torch {self.compared or 'unchecked'}"
        opset = f", opset {self.opset}" if self.opset else ""
        return f"{self.path}: {self.bytes:,} bytes{opset}, {batch}{because}, {error}"


def export_onnx(
    small: nn.Module,
    args: Any,
    path: str | PathLike[str],
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_batch: bool = True,
    dynamic_sizes: bool = False,
    draws: int = 2,
    slim: bool = False,
    tolerance: float | None = None,
    opset: int | None = None,
) -> ExportResult:
    """Export a model, in eval mode, to an ONNX file, and check the file against torch in ONNX Runtime on the CPU.

    The check runs the example and random inputs like it, at the example's batch size and, if the batch is dynamic, at
    1 and at 3 more, and with larger sizes where those are open. The file appears only after it has passed. The model,
    its mode, the inputs and the random state stay as they were; a model on a GPU is exported from a copy on the CPU.

    Args:
        small: any eager model, pruned or not.
        args: one tensor, or a tuple of positional arguments.
        path: the file to write; one that is there is replaced. Weights beyond 1.9 GB go to ``<path>.data``.
        kwargs: named arguments. The graph's inputs are the tensors of args, then of kwargs, in order.
        dynamic_batch: take any size in the first dimension of every tensor whose first dimension is as long as that of
            the first. If the model can't, the batch is fixed and the result's ``reason`` says why.
        dynamic_sizes: also leave every other dimension open that the model doesn't fix, such as height and width, or
            the length of a sequence; the result's ``open_dims`` says which. Where that fails, they are fixed.
        draws: random inputs of each batch size that the file is compared on.
        slim: also simplify the graph with onnxslim, beyond what the exporter's own optimizer does.
        tolerance: largest relative error; by default 1e-4 in float32, 2e-2 in float16, 1e-6 in float64.
        opset: version of the ONNX operator set; by default the exporter's own.

    Raises:
        InputError: the packages for export aren't installed, or arguments that can't be used.
        TraceError: the model's own exception on the example, as the cause.
        ExportError: torch can't export the model, ONNX Runtime can't run the file, or the two differ; no file is left.
    """
    _check_installed(("onnxslim",) if slim else ())
    check_eager(small)
    inputs: Inputs = cloned((as_args(args), dict(kwargs or {})))
    small, inputs = _on_cpu(small, inputs)
    if tolerance is None:
        tolerance = tolerance_of(small, inputs)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with undisturbed(small), no_fast_path(), tempfile.TemporaryDirectory(dir=path.parent, prefix=".prunus-") as beside:
        call_afresh(small, inputs)
        work = _Work(small, inputs, Path(beside, path.name), path, tolerance, opset, dynamic_sizes, draws, slim)
        reason = None
        if dynamic_batch:
            try:
                return work.run(dynamic=True)
            except ExportError as error:
                reason = str(error)
        return work.run(dynamic=False, reason=reason)


@dataclass(frozen=True)
class _Work:
    """One export: to ``draft``, where it is checked, and from there to ``path``."""

    small: nn.Module
    inputs: Inputs
    draft: Path
    path: Path
    tolerance: float
    opset: int | None
    sizes: bool
    draws: int
    slim: bool

    def run(self, dynamic: bool, reason: str | None = None) -> ExportResult:
        """Other sizes are left open if that is asked for and works."""
        if self.sizes:
            try:
                return self._run(dynamic, True, reason)
            except ExportError as error:
                reason = reason or str(error)
        return self._run(dynamic, False, reason)

    def _run(self, dynamic: bool, sizes: bool, reason: str | None) -> ExportResult:
        name = type(self.small).__name__
        try:
            with quiet():
                program, free, rows = self._write(dynamic, sizes)
            told = self._compare(dynamic, free, rows)
        except Exception as error:
            raise ExportError(
                f"{name} can't be exported with a {_kind(dynamic)} batch: {_first_words(error)}"
            ) from error
        if not told.max_rel_error <= self.tolerance:
            raise ExportError(
                f"the ONNX file of {name} ({_kind(dynamic)} batch) computes something else than torch: relative error "
                f"{told.max_rel_error:.2e} (absolute {told.max_abs_error:.2e}), allowed {self.tolerance:.0e}. No file "
                "was written."
            )
        files = sorted(self.draft.parent.iterdir(), reverse=True)  # the weights before the graph that names them
        size = sum(file.stat().st_size for file in files)
        for file in files:
            file.replace(self.path.parent / file.name)
        opset = program.model.opset_imports[""]
        errors = told.max_abs_error, told.max_rel_error
        return ExportResult(self.path, *errors, dynamic, size, opset, tuple(free), reason, told)

    def _write(self, dynamic: bool, sizes: bool) -> tuple[Any, list[tuple[int, ...]], tuple[int, ...]]:
        program, free, rows = _convert(self.small, self.inputs, dynamic, sizes, self.opset)
        large = sum(t.numel() * t.element_size() for t in self.small.state_dict().values()) > _ONE_FILE_BYTES
        program.save(str(self.draft), external_data=large)
        if self.slim and not large:
            _slim(self.draft)
        return program, free, rows

    def _compare(self, dynamic: bool, free: list[tuple[int, ...]], rows: tuple[int, ...]) -> Comparison:
        batch, session = Batch(self.inputs), onnx_session(self.draft)
        sizes = [batch.size, 1, batch.size + 3] if dynamic else [batch.size]

        def file(drawn: Inputs) -> list[Tensor]:
            return [torch.from_numpy(array) for array in session.run(None, onnx_feed(session, tensors_in(drawn)))]

        return compare(
            lambda drawn: call_afresh(self.small, drawn),
            file,
            self.inputs,
            sizes,
            self.tolerance,
            self.draws,
            free,
            rows,
        )


def _slim(path: Path) -> None:
    onnxslim: Any = importlib.import_module("onnxslim")
    importlib.import_module("onnx").save(onnxslim.slim(str(path)), str(path))


def _convert(
    small: nn.Module, inputs: Inputs, dynamic: bool, sizes: bool, opset: int | None
) -> tuple[Any, list[tuple[int, ...]], tuple[int, ...]]:
    """The ONNX program of the model, its batch dimension named ``batch`` if it is dynamic, what else is open, and which
    outputs have rows that values choose.
    """
    outputs = call_afresh(small, inputs)
    exported = capture(small, inputs, dynamic, sizes)
    given = [node.name for node in exported.graph.nodes if node.op == "placeholder"]
    names = _output_names(outputs, given)
    program = torch.onnx.export(exported, (), dynamo=True, verbose=False, output_names=names, opset_version=opset)
    if program is None:
        raise ExportError("torch.onnx.export returned nothing")
    if dynamic:
        batch = Batch(inputs)
        _name_batch(program.model.graph, [batch.holds(tensor) for tensor in tensors_in(inputs)])
    return program, open_dims(exported, inputs) if sizes else [], chosen(exported)


def _output_names(outputs: Any, taken: list[str]) -> list[str]:
    """``output``, ``output_0`` and so on, or the keys where the model returns a dict."""
    names = []
    for path, leaf in pytree.tree_flatten_with_path(outputs)[0]:
        if isinstance(leaf, Tensor):
            key = re.sub(r"\W+", "_", pytree.keystr(path)).strip("_")
            names.append(key if key and not key[0].isdigit() and key not in taken else f"output_{key}".rstrip("_"))
    return names


def _name_batch(graph: Any, batched: list[bool]) -> None:
    """Call the batch's symbol ``batch`` in every shape, instead of ``s52``."""
    first = graph.inputs[batched.index(True)]
    symbol = re.compile(rf"\b{re.escape(str(first.shape[0].value))}\b")
    values = [*graph.inputs, *(output for node in graph for output in node.outputs)]
    for value in values:
        for dim, size in enumerate(value.shape or ()):
            text = getattr(size, "value", None)
            if isinstance(text, str) and text.isdigit():  # a symbol that was found to be a number
                value.shape[dim] = int(text)
            elif isinstance(text, str) and symbol.search(text):
                value.shape[dim] = symbol.sub("batch", text)


def _on_cpu(small: nn.Module, inputs: Inputs) -> tuple[nn.Module, Inputs]:
    tensors = named_tensors(small).values()
    if any(tensor.dtype == torch.bfloat16 for tensor in (*tensors, *tensors_in(inputs))):
        raise InputError(
            "ONNX Runtime's CPU kernels don't compute in bfloat16: export model.float() on float32 inputs."
        )
    if any(tensor.is_meta for tensor in tensors):
        raise InputError("a model on the meta device has no weights to export: load them first.")
    if all(tensor.device.type == "cpu" for tensor in tensors):
        return small, inputs
    copy = copy_model(small, {id(tensor): like(tensor, tensor.detach().cpu()) for tensor in tensors})
    return copy, pytree.tree_map_only(Tensor, Tensor.cpu, inputs)


def tolerance_of(small: nn.Module, inputs: Inputs) -> float:
    return max(_TOLERANCE.get(t.dtype, 1e-6) for t in (*small.parameters(), *small.buffers(), *tensors_in(inputs)))


def _check_installed(more: tuple[str, ...] = ()) -> None:
    try:
        for package in ("onnx", "onnxscript", "onnxruntime", *more):
            importlib.import_module(package)
    except ImportError as error:
        install = " ".join(("'prunus[export]'", *more))
        raise InputError(f"export needs a package that isn't here ({error}): pip install {install}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings, log lines and prints of the exporter's inner workings; what matters comes as an exception."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                yield
    finally:
        logging.disable(before)


def _kind(dynamic: bool) -> str:
    return "dynamic" if dynamic else "fixed"


def _first_words(error: BaseException) -> str:
    """The innermost cause's first lines: torch's exporter wraps it in advice on debugging torch."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = re.sub(r"\x1b\[\d*m|For more information, run with TORCH_LOGS=\S*", "", str(error))
    return f"{type(error).__name__}: {' '.join(text.split())[:300]}"
