"""Export to the file that a runtime wants, told by its suffix: ONNX, OpenVINO, ExecuTorch, torch's own, TensorRT."""

from __future__ import annotations

import importlib
import shutil
import tempfile
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunus.deploy.capture import capture, chosen
from prunus.deploy.export import ExportError, ExportResult, export_onnx, quiet, tolerance_of
from prunus.deploy.parity import Batch, Inputs, ParityError, Run, compare
from prunus.deploy.runtimes import openvino_module, openvino_runner
from prunus.errors import InputError
from prunus.running import as_args, call_afresh, check_eager, cloned, no_fast_path, tensors_in, undisturbed


def export(
    small: nn.Module,
    args: Any,
    path: str | PathLike[str],
    kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> ExportResult:
    """Export a model, in eval mode, to the kind of file that the suffix of ``path`` names, and check it against torch.

    ======== ===================================================== ====================================
    suffix   what                                                  needs
    ======== ===================================================== ====================================
    .onnx    ONNX; see :func:`prunus.deploy.export.export_onnx`    ``pip install 'prunus[export]'``
    .xml     OpenVINO IR, weights in a ``.bin`` beside it          ``prunus[export]``, ``openvino``
    .pte     ExecuTorch with XNNPACK, for phones and the like      ``executorch``
    .pt2     torch.export: no source code needed to load it        nothing
    .engine  TensorRT                                              ``prunus[export]``, ``tensorrt``, an NVIDIA GPU
    ======== ===================================================== ====================================

    Args:
        small: any eager model, pruned or not.
        args: one tensor, or a tuple of positional arguments.
        path: the file to write; one that is there is replaced. It appears only after it has passed.
        kwargs: named arguments.
        options: ``dynamic_batch`` for all but ExecuTorch and TensorRT, whose batch is the example's; ``tolerance``, the
            largest relative error; the others of ``export_onnx`` for ONNX and OpenVINO.

    Raises:
        InputError: an unknown suffix, an option the format doesn't have, or a package or device that isn't here.
        TraceError: the model's own exception on the example, as the cause.
        ExportError: the model can't be exported, or the file computes something else; no file is left.
    """
    path = Path(path)
    if path.suffix == ".onnx":
        return export_onnx(small, args, path, kwargs, **options)
    writers = {".xml": _openvino, ".pte": _executorch, ".pt2": _program, ".engine": _tensorrt}
    if path.suffix not in writers:
        raise InputError(f"{path.name!r}: the suffix names the format: .onnx, {', '.join(writers)}.")
    check_eager(small)
    inputs: Inputs = cloned((as_args(args), dict(kwargs or {})))
    if any(not t.device.type == "cpu" for t in (*small.parameters(), *small.buffers())):
        raise InputError(f"a {path.suffix} file is made from a model on the CPU: model.cpu() first.")
    tolerance = options.pop("tolerance", None) or tolerance_of(small, inputs)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".prunus-") as beside, undisturbed(small), no_fast_path():
        call_afresh(small, inputs)
        return writers[path.suffix](small, inputs, Path(beside, path.name), path, tolerance, **options)


def load_program(path: str | PathLike[str]) -> nn.Module:
    """The model of a ``.pt2`` file that :func:`save_program` wrote: a module to call, without its source code.

    Load only files you trust: torch's loader makes no promise about hostile ones (docs/security.md).

    Raises:
        InputError: the file isn't there, or isn't one of torch.export.
    """
    try:
        return torch.export.load(path).module()
    except Exception as error:
        raise InputError(f"{path} can't be read as a program ({type(error).__name__}: {str(error)[:200]}).") from error


def save_program(
    small: nn.Module, args: Any, path: str | PathLike[str], kwargs: Mapping[str, Any] | None = None, **options: Any
) -> ExportResult:
    """Save a model as a ``.pt2`` program of torch.export: its graph and weights, so that loading needs no source code.

    The same as ``export`` with that suffix. What it can't do: be pruned again, or run in train mode.
    """
    if Path(path).suffix != ".pt2":
        raise InputError(f"a program is saved in a file that ends in .pt2, not {Path(path).name!r}.")
    return export(small, args, path, kwargs, **options)


def _program(
    small: nn.Module, inputs: Inputs, draft: Path, path: Path, tolerance: float, dynamic_batch: bool = True
) -> ExportResult:
    program, reason = _captured(small, inputs, dynamic_batch)
    with quiet():
        torch.export.save(program, draft)
    loaded = load_program(draft)

    def run(drawn: Inputs) -> list[Any]:
        with torch.no_grad():
            return tensors_in(call_afresh(loaded, drawn))

    return _checked(small, inputs, run, draft, path, tolerance, dynamic_batch and not reason, reason, chosen(program))


def _openvino(
    small: nn.Module, inputs: Inputs, draft: Path, path: Path, tolerance: float, **options: Any
) -> ExportResult:
    openvino = openvino_module()
    graph = draft.parent / "graph" / "graph.onnx"
    told = export_onnx(small, inputs[0], graph, inputs[1], tolerance=tolerance, **options)
    with quiet():
        openvino.save_model(openvino.convert_model(str(graph)), str(draft), compress_to_fp16=False)
    shutil.rmtree(graph.parent)

    def run(drawn: Inputs) -> list[Any]:
        return [torch.from_numpy(array) for array in openvino_runner(draft, tuple(tensors_in(drawn)))()]

    rows = told.compared.chosen if told.compared else ()
    return _checked(small, inputs, run, draft, path, tolerance, told.dynamic_batch, told.reason, rows)


def _executorch(small: nn.Module, inputs: Inputs, draft: Path, path: Path, tolerance: float) -> ExportResult:
    with quiet():
        exir = _package("executorch.exir", "executorch")
        xnnpack = _package("executorch.backends.xnnpack.partition.xnnpack_partitioner", "executorch")
        runtime = _package("executorch.runtime", "executorch")
        program, _ = _captured(small, inputs, False)
        rows = chosen(program)
        lowered = exir.to_edge_transform_and_lower(program, partitioner=[xnnpack.XnnpackPartitioner()])
        draft.write_bytes(lowered.to_executorch().buffer)
        method = runtime.Runtime.get().load_program(draft).load_method("forward")

    def run(drawn: Inputs) -> list[Any]:
        return [tensor.clone() for tensor in method.execute(tensors_in(drawn))]

    reason = "ExecuTorch files are made for one batch size"
    return _checked(small, inputs, run, draft, path, tolerance, False, reason, rows)


def _tensorrt(small: nn.Module, inputs: Inputs, draft: Path, path: Path, tolerance: float) -> ExportResult:
    if not torch.cuda.is_available():
        raise InputError(
            "a TensorRT engine is built on the GPU it will run on, and there is none here: export to .onnx, and build "
            "it there with trtexec --onnx=FILE --saveEngine=FILE.engine."
        )
    tensorrt = _package("tensorrt", "tensorrt")
    graph = draft.parent / "graph.onnx"
    export_onnx(small, inputs[0], graph, inputs[1], tolerance=tolerance, dynamic_batch=False)
    builder = tensorrt.Builder(tensorrt.Logger(tensorrt.Logger.ERROR))
    network = builder.create_network(0)
    parser = tensorrt.OnnxParser(network, tensorrt.Logger(tensorrt.Logger.ERROR))
    if not parser.parse_from_file(str(graph)):
        raise ExportError(f"TensorRT can't read the graph of {type(small).__name__}: {parser.get_error(0)}")
    built = builder.build_serialized_network(network, builder.create_builder_config())
    if built is None:
        raise ExportError(f"TensorRT can't build an engine of {type(small).__name__}")
    draft.write_bytes(built)
    graph.unlink()
    draft.replace(path)
    reason = "TensorRT engines are made for one batch size; the ONNX graph was checked, the engine wasn't"
    return ExportResult(path, float("nan"), float("nan"), False, path.stat().st_size, 0, reason=reason)


def _package(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"this format needs a package that isn't here ({error}): pip install {package}") from error


def _captured(small: nn.Module, inputs: Inputs, dynamic: bool) -> tuple[Any, str | None]:
    """The program, and why its batch is fixed if it shouldn't be."""
    reason = None
    with quiet():
        for open_ in (True, False) if dynamic else (False,):
            try:
                return capture(small, inputs, open_), reason
            except Exception as error:
                reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                if not open_:
                    raise ExportError(f"torch can't export {type(small).__name__}: {reason}") from error
    raise AssertionError("unreachable")


def _checked(
    small: nn.Module,
    inputs: Inputs,
    run: Run,
    draft: Path,
    path: Path,
    tolerance: float,
    dynamic: bool,
    reason: str | None,
    rows: tuple[int, ...] = (),
) -> ExportResult:
    """Compare on the example and random inputs, then move what was written to its place."""
    name, batch = f"{draft.suffix} of {type(small).__name__}", Batch(inputs)
    sizes = [batch.size, 1, batch.size + 3] if dynamic else [batch.size]

    def file(drawn: Inputs) -> Any:
        try:
            return run(cloned(drawn))
        except Exception as error:
            raise ExportError(f"{name} doesn't run: {str(error)[:200]}") from error

    try:
        told = compare(lambda drawn: call_afresh(small, drawn), file, inputs, sizes, tolerance, chosen=rows)
    except ParityError as error:
        raise ExportError(f"{name} is refused: {error}. No file was written.") from error
    if not told.max_rel_error <= tolerance:
        raise ExportError(
            f"{name} computes something else than torch: relative error {told.max_rel_error:.2e}, allowed "
            f"{tolerance:.0e}. No file was written."
        )
    files = sorted(draft.parent.iterdir())
    size = sum(written.stat().st_size for written in files)
    for written in files:
        written.replace(path.parent / written.name)
    errors = told.max_abs_error, told.max_rel_error
    return ExportResult(path, *errors, dynamic, size, 0, reason=reason, compared=told)
