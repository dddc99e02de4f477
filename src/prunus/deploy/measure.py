"""Latency that can be compared: candidates take turns, and every median comes with its confidence interval."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any

import torch
from torch import nn

from prunus.errors import InputError
from prunus.running import as_args, check_eager, cloned, tensors_in
from prunus.surgery import copy_model, named_tensors

MIN_REPEATS = 6
"""With fewer samples no pair of order statistics covers the median with 95 % confidence."""


@dataclass(frozen=True)
class Latency:
    """Median milliseconds of one call, their 95 % confidence interval, and every sample in the order taken."""

    median_ms: float
    low_ms: float
    high_ms: float
    samples: tuple[float, ...]

    def __str__(self) -> str:
        return f"{self.median_ms:.3f} ms [{self.low_ms:.3f}, {self.high_ms:.3f}]"


@dataclass(frozen=True)
class Ratio:
    """Median of a paired ratio with its 95 % confidence interval."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f}x [{self.low:.2f}, {self.high:.2f}]"


def measure(
    runners: Mapping[str, Callable[[], Any]], *, repeats: int = 50, warmup: int = 5, threads: int | None = None
) -> dict[str, Latency]:
    """Time each callable ``repeats`` times, one call of each in turn (A B A B ...), after ``warmup`` untimed rounds.

    Taking turns lets slow drifts of the machine (clock, temperature, neighbours) fall on all candidates alike, and
    makes sample ``i`` of one comparable with sample ``i`` of another: see :func:`speedup`.

    Args:
        runners: name -> a callable without arguments that returns when its work is done.
        repeats: timed calls of each, at least 6.
        warmup: untimed calls of each.
        threads: torch's intra-op threads during the measurement; by default as they are set.

    Returns:
        name -> Latency, in the order given.

    Raises:
        InputError: no runners, or counts out of range.
    """
    if not runners:
        raise InputError("measure needs at least one named callable: measure({'small': runner}).")
    if repeats < MIN_REPEATS or warmup < 0:
        raise InputError(
            f"repeats must be at least {MIN_REPEATS} (a 95 % interval needs as many) and warmup at least 0, "
            f"got repeats={repeats}, warmup={warmup}."
        )
    samples: dict[str, list[float]] = {name: [] for name in runners}
    with _steady(threads):
        for _ in range(warmup):
            for run in runners.values():
                run()
        for _ in range(repeats):
            for name, run in runners.items():
                start = time.perf_counter_ns()
                run()
                samples[name].append((time.perf_counter_ns() - start) / 1e6)
    return {name: _latency(times) for name, times in samples.items()}


def speedup(before: Latency, after: Latency) -> Ratio:
    """How many times faster ``after`` is: the median of ``before / after`` over the rounds of one :func:`measure` call.

    Raises:
        InputError: the two weren't measured together (different numbers of samples).
    """
    if len(before.samples) != len(after.samples):
        raise InputError(
            f"a paired ratio needs both sides from one measure() call; got {len(before.samples)} and "
            f"{len(after.samples)} samples."
        )
    ratios = [a / b for a, b in zip(before.samples, after.samples, strict=True)]
    return Ratio(*median_interval(ratios))


def median_interval(samples: list[float]) -> tuple[float, float, float]:
    """Median, low and high of a distribution-free interval that covers the median with at least 95 % confidence.

    The interval runs between the k-th smallest and the k-th largest sample, with the largest k for which
    P(Binomial(n, 1/2) < k) <= 2.5 %: David and Nagaraja, Order Statistics, 3rd ed., section 7.1. It asks only that the
    samples are independent.
    """
    ordered, n = sorted(samples), len(samples)
    middle = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    k, tail = 0, 1
    while 40 * tail <= 2**n:
        k += 1
        tail += math.comb(n, k)
    k = max(k, 1)
    return middle, ordered[k - 1], ordered[n - k]


def torch_runner(model: nn.Module, args: Any, kwargs: Mapping[str, Any] | None = None) -> Callable[[], Any]:
    """A callable that runs ``model`` on copies of the inputs in eval mode, under ``torch.inference_mode``.

    On CUDA it waits for the device. The model given keeps its mode and its state: a copy of its modules and buffers
    that shares the weights is run instead.
    """
    check_eager(model)
    return eval_runner(model, as_args(args), dict(kwargs or {}))


def eval_runner(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], Any]:
    """The same without a look at the model, whose weights may be in a format that can't be cut."""
    args, kwargs = cloned((args, kwargs))
    model = in_eval(model)
    on_cuda = any(t.is_cuda for t in (*model.parameters(), *tensors_in((args, kwargs))))

    def run() -> Any:
        with torch.inference_mode():
            output = model(*args, **kwargs)
        if on_cuda:
            torch.cuda.synchronize()
        return output

    return run


def in_eval(model: nn.Module) -> nn.Module:
    """A copy of ``model`` in eval mode with the same parameters; its buffers and its Python state are its own."""
    mine = named_tensors(model).values()
    replace = {id(t): t if isinstance(t, nn.Parameter) else t.detach().clone() for t in mine}
    return copy_model(model, replace).eval()


def onnx_runner(
    path: str | PathLike[str], args: Any, kwargs: Mapping[str, Any] | None = None, *, threads: int | None = None
) -> Callable[[], list[Any]]:
    """A callable that runs an ONNX file on the CPU in ONNX Runtime, returning its outputs as NumPy arrays.

    Args:
        path: the file.
        args: the torch model's example inputs; its tensors are fed to the graph's inputs in order.
        kwargs: named inputs, after ``args``.
        threads: intra-op threads; by default as many as torch uses, so that the two compare.

    Raises:
        InputError: ONNX Runtime isn't installed, or the number of tensors differs from the graph's inputs.
    """
    session = onnx_session(path, threads)
    tensors = tensors_in((as_args(args), dict(kwargs or {})))
    feed = onnx_feed(session, tensors)
    run: Callable[..., list[Any]] = session.run
    return lambda: run(None, feed)


def onnx_session(path: str | PathLike[str] | bytes, threads: int | None = None) -> Any:
    """An ``onnxruntime.InferenceSession`` on the CPU, of a file or a model's bytes.

    Raises:
        InputError: ONNX Runtime isn't installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError("ONNX Runtime isn't installed: pip install 'prunus[export]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(fspath(path), options, providers=["CPUExecutionProvider"])


def onnx_feed(session: Any, tensors: list[torch.Tensor]) -> dict[str, Any]:
    """Graph input name -> NumPy array, in order."""
    names = [graph_input.name for graph_input in session.get_inputs()]
    if len(names) != len(tensors):
        raise InputError(
            f"the ONNX graph has {len(names)} inputs ({', '.join(names)}), but {len(tensors)} tensors came."
        )
    return {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in zip(names, tensors, strict=True)}


def _latency(samples: list[float]) -> Latency:
    return Latency(*median_interval(samples), tuple(samples))


@contextmanager
def _steady(threads: int | None) -> Iterator[None]:
    """No garbage collection inside a timed call, and the asked number of threads; both as before afterwards."""
    collecting, before = gc.isenabled(), torch.get_num_threads()
    gc.collect()
    gc.disable()
    if threads:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        if collecting:
            gc.enable()
