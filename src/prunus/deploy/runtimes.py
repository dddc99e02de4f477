"""Ways to run one model: torch eager, torch.compile, ONNX Runtime, OpenVINO; each built from what the others were."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunus.deploy.export import export_onnx, quiet
from prunus.deploy.measure import in_eval, onnx_feed, onnx_runner, onnx_session, torch_runner
from prunus.errors import InputError, suggest
from prunus.running import as_args, cloned, tensors_in

RUNTIMES = ("eager", "compile", "onnx", "openvino")


@dataclass(frozen=True)
class Saved:
    """A folder that prunus.save wrote, and the factory it is loaded with."""

    folder: Path
    factory: Callable[[], nn.Module]


Source = nn.Module | Saved | str | PathLike[str]
"""A model, a saved folder with its factory, or an ONNX file."""


def check_runtime(name: str) -> str:
    """``name`` if it is a runtime; InputError otherwise."""
    if name not in RUNTIMES:
        raise InputError(f"unknown runtime {name!r}.{suggest(name, RUNTIMES)} Known: {', '.join(RUNTIMES)}.")
    return name


def runner(source: nn.Module | Path, runtime: str, args: Any, threads: int) -> Callable[[], Any]:
    """A callable that runs a model (eager, compile) or an ONNX file (onnx, openvino) on copies of ``args``.

    Raises:
        InputError: the runtime isn't known or installed, or can't run it.
    """
    check_runtime(runtime)
    if isinstance(source, nn.Module):
        return torch_runner(source, args) if runtime == "eager" else _compiled(source, args)
    return onnx_runner(source, args, threads=threads) if runtime == "onnx" else openvino_runner(source, args, threads)


def openvino_runner(path: str | PathLike[str], args: Any, threads: int | None = None) -> Callable[[], list[Any]]:
    """A callable that runs an ONNX or OpenVINO (``.xml``) file on the CPU in OpenVINO; its outputs as NumPy arrays.

    Raises:
        InputError: OpenVINO isn't installed, or it can't read the file.
    """
    openvino = openvino_module()
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    settings["INFERENCE_NUM_THREADS"] = threads or torch.get_num_threads()
    try:
        compiled = openvino.Core().compile_model(fspath(path), "CPU", settings)
    except RuntimeError as error:
        raise InputError(f"OpenVINO can't read {path}: {' '.join(str(error).split())[:200]}") from error
    feed = [tensor.detach().cpu().contiguous().numpy() for tensor in tensors_in(as_args(args))]
    request = compiled.create_infer_request()

    def run() -> list[Any]:
        found = request.infer(feed)
        return [found[output] for output in compiled.outputs]

    return run


def openvino_module() -> Any:
    """The package; InputError says how to get it."""
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise InputError(f"OpenVINO isn't here ({error}): pip install openvino") from error


def _compiled(model: nn.Module, args: Any) -> Callable[[], Any]:
    """Through torch.compile (inductor); compiled here, not in the first timed call."""
    inputs = cloned(as_args(args))
    compiled = torch.compile(in_eval(model))

    def run() -> Any:
        with torch.inference_mode():
            return compiled(*inputs)

    try:
        with quiet():
            run()
    except Exception as error:
        raise InputError(f"torch.compile can't run it: {type(error).__name__}: {str(error)[:200]}") from error
    return run


def as_onnx(model: nn.Module, args: Any, folder: Path, name: str) -> Path:
    """The model exported into ``folder``, checked, once."""
    path = folder / f"{name}.onnx"
    if not path.exists():
        export_onnx(model, args, path)
    return path


def seconds_to_open(path: Path, runtime: str, args: Any) -> float:
    """How long the runtime takes from file to ready."""
    start = time.perf_counter()
    if runtime == "onnx":
        onnx_feed(onnx_session(path), tensors_in(as_args(args)))
    else:
        openvino_runner(path, args)
    return time.perf_counter() - start
