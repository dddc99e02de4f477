"""Where a model runs: how to make something that runs it, and what tells one machine from another."""

from __future__ import annotations

import os
import platform
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from prunus.deploy.formats import export
from prunus.deploy.latency.layers import Layer
from prunus.deploy.measure import onnx_feed, onnx_runner, onnx_session, torch_runner
from prunus.errors import InputError
from prunus.running import as_args
from prunus.surgery import copy_model

Run = Callable[[], Any]


class Backend(ABC):
    """The open interface: a runtime of your own needs a name and :meth:`runner`.

    Attributes:
        name: with :meth:`version`, the machine and the threads it tells measurements apart on disk.
        step: the multiple of channels that it computes anyway: a size between two costs what the larger does.
    """

    name = "own"
    step = 1

    @abstractmethod
    def runner(self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Run:
        """A callable that runs the whole model once and returns when its work is done."""

    def layer(self, layer: Layer) -> Run:
        """The same for one layer; by default of its torch module."""
        module, args = layer.module()
        return self.runner(module.eval(), args, {})

    def version(self) -> str:
        """The software's version."""
        return torch.__version__

    def machine(self) -> str:
        """The hardware's name."""
        return f"{_processor()} {os.cpu_count()} cores {torch.get_num_threads()} threads"


class Torch(Backend):
    """Eager torch on the CPU."""

    name = "torch"

    def __init__(self) -> None:
        self.step = _lanes()

    def runner(self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Run:
        return torch_runner(model, args, kwargs)


class Compiled(Torch):
    """torch.compile on the CPU; compiling every layer takes a second or more each."""

    name = "compile"

    def runner(self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Run:
        compiled: Any = torch.compile(copy_model(model, {}).eval())

        def run() -> Any:
            with torch.inference_mode():
                return compiled(*args, **kwargs)

        return run


class Cuda(Backend):
    """Eager torch on the current CUDA device."""

    name, step = "cuda", 8

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise InputError("there is no CUDA device here: measure where the model will run.")

    def runner(self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Run:
        move = torch.utils._pytree.tree_map_only
        args, kwargs = move(torch.Tensor, lambda t: t.cuda(), (args, dict(kwargs)))
        return torch_runner(copy_model(model, {}).cuda(), args, kwargs)

    def machine(self) -> str:
        return torch.cuda.get_device_name()


class Onnx(Backend):
    """ONNX Runtime on the CPU, with as many threads as torch has."""

    name = "onnx"

    def __init__(self) -> None:
        self.step = _lanes()

    def runner(self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Run:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "model.onnx")
            export(model, as_args(args), path, kwargs, dynamic_batch=False)
            return onnx_runner(path, args, kwargs)

    def layer(self, layer: Layer) -> Run:
        inputs = [torch.randn(shape, device="cpu") for shape in layer.shapes]
        session = onnx_session(layer.onnx())
        feed = onnx_feed(session, inputs if layer.kind == "attention" else inputs[:1])
        run: Callable[..., Any] = session.run
        return lambda: run(None, feed)

    def version(self) -> str:
        import onnxruntime

        return f"onnxruntime {onnxruntime.__version__}"


def _lanes() -> int:
    """How many fp32 values a vector register of this processor holds."""
    return 16 if "AVX512" in torch.backends.cpu.get_cpu_capability() else 8


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
