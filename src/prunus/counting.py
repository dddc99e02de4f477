"""What every module did in a run, in operations or in seconds, without its children; seen through hooks that leave."""

from __future__ import annotations

import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from prunus.created import Creations
from prunus.running import call, no_fast_path, tensors_in

Shape = Sequence[int]


@dataclass
class Seen:
    """What one module did in one run, without its children: ``cost`` is in units of the clock that watched."""

    cost: float = 0
    calls: int = 0
    output_shape: tuple[int, ...] | None = None
    activation_bytes: int = 0
    input_bytes: int = 0


@dataclass
class _Frame:
    """A call in progress."""

    start: float
    inner: float = 0


@contextmanager
def watch(model: nn.Module, clock: Callable[[], float]) -> Iterator[dict[nn.Module, Seen]]:
    """Within, each call of a submodule adds to its entry what ``clock`` advanced, less what it advanced in children."""
    seen: dict[nn.Module, Seen] = defaultdict(Seen)
    stack = [_Frame(0)]
    made = Creations()

    def before(module: nn.Module, args: Any) -> None:
        made.enter()
        stack.append(_Frame(clock()))

    def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        now = clock()
        frame, entry = stack.pop(), seen[module]
        entry.cost += now - frame.start - frame.inner
        stack[-1].inner += now - frame.start
        outputs = tensors_in(output)
        new = made.leave((args, kwargs), output)
        entry.calls += 1
        entry.output_shape = tuple(outputs[0].shape) if outputs else None
        entry.activation_bytes += sum(tensor.numel() * tensor.element_size() for tensor in new)
        entry.input_bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors_in((args, kwargs)))

    handles = []
    for module in model.modules():
        handles.append(module.register_forward_pre_hook(before))
        handles.append(module.register_forward_hook(after, with_kwargs=True, always_call=True))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def count(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[nn.Module, Seen]:
    """Operations (two for a multiply-accumulate) of each module's own calls in one run."""
    counter = FlopCounterMode(display=False, custom_mapping=_formulas())
    with no_fast_path(), counter, watch(model, counter.get_total_flops) as seen:
        call(model, args, kwargs)
    return seen


def timed(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], repeats: int
) -> tuple[dict[nn.Module, float], float]:
    """Median milliseconds of each module (with hooks), and of the whole model (without)."""
    on_cuda = any(tensor.is_cuda for tensor in (*model.parameters(), *tensors_in((args, kwargs))))

    def clock() -> float:
        if on_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    call(model, args, kwargs)
    runs: dict[nn.Module, list[float]] = defaultdict(list)
    whole = []
    for _ in range(repeats):
        start = clock()
        call(model, args, kwargs)
        whole.append(1e3 * (clock() - start))
        with watch(model, clock) as seen:
            call(model, args, kwargs)
        for module, entry in seen.items():
            runs[module].append(1e3 * entry.cost)
    return {module: statistics.median(times) for module, times in runs.items()}, statistics.median(whole)


def _formulas() -> dict[Any, Callable[..., int]]:
    """Operations of the fused CPU and cuDNN kernels that FlopCounterMode counts as zero. Arguments come as shapes."""
    aten = torch.ops.aten
    known = {
        "_scaled_dot_product_flash_attention_for_cpu": _attention_operations,
        "_scaled_dot_product_fused_attention_overrideable": _attention_operations,
        "mkldnn_rnn_layer": lambda x, w_ih, w_hh, *_, **__: _recurrent_operations(x, [w_ih, w_hh]),
        "_cudnn_rnn": lambda x, weights, *_, **__: _recurrent_operations(x, weights),
    }
    return {getattr(aten, name): formula for name, formula in known.items() if hasattr(aten, name)}


def _attention_operations(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """Query times key and weights times value: shapes [..., queries, d], [..., keys, d], [..., keys, d_value]."""
    return 2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _recurrent_operations(x: Shape, weights: Sequence[Shape]) -> int:
    """Every weight matrix times the vector of every step: x is [steps, batch, features] or [batch, steps, features]."""
    return 2 * math.prod(x[:-1]) * sum(math.prod(w) for w in weights if len(w) == 2)
