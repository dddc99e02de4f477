"""Where a model's parameters, arithmetic, bytes and time are, module by module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from prunus.columns import aligned
from prunus.counting import Seen, count, timed
from prunus.errors import InputError
from prunus.running import as_args, check_eager, cloned, undisturbed


@dataclass(frozen=True)
class Row:
    """One module: a leaf, or a module with parameters, arithmetic or new tensors of its own (children have own rows).

    Attributes:
        name: qualified name; empty for the model itself.
        type: class name.
        output_shape: of the first tensor it returned last; None if it wasn't called.
        parameters: values in its own parameters; a tied parameter counts where it is met first.
        macs: multiply-accumulates of all its calls.
        parameter_bytes: of ``parameters``.
        activation_bytes: of the tensors its calls made; inputs handed through, or worked on in place, don't count.
        input_bytes: of the tensors its calls were given.
        calls: how often the model called it.
        latency_ms: median time of all its calls in one run, without its children; None if not measured.
    """

    name: str
    type: str
    output_shape: tuple[int, ...] | None
    parameters: int
    macs: int
    parameter_bytes: int
    activation_bytes: int
    input_bytes: int
    calls: int
    latency_ms: float | None


@dataclass(frozen=True)
class Profile:
    """Rows in the order of ``named_modules``, and totals. ``latency_ms`` is of whole runs without any hook."""

    rows: tuple[Row, ...]
    latency_ms: float | None

    @property
    def parameters(self) -> int:
        """Values in all parameters, tied ones once."""
        return sum(row.parameters for row in self.rows)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run."""
        return sum(row.macs for row in self.rows)

    @property
    def bytes(self) -> int:
        """Bytes of all parameters, tied ones once."""
        return sum(row.parameter_bytes for row in self.rows)

    @property
    def activation_bytes(self) -> int:
        """Bytes of all tensors that the modules made in one run."""
        return sum(row.activation_bytes for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON values: ``rows`` and the totals."""
        totals = {
            name: getattr(self, name) for name in ("parameters", "macs", "bytes", "activation_bytes", "latency_ms")
        }
        return {"rows": [asdict(row) for row in self.rows], **totals}

    def __str__(self) -> str:
        lines = [_cells(row) for row in self.rows]
        total = ("total", "", "", self.parameters, self.macs, self.bytes, self.activation_bytes, self.latency_ms)
        table = [_HEADER, *map(_texts, lines), _texts(total)]
        texts = aligned(table, 3)
        rule = "-" * max(map(len, texts))
        return "\n".join([texts[0], rule, *texts[1:-1], rule, texts[-1]])


def profile(
    model: nn.Module,
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    *,
    latency: bool = True,
    repeats: int = 7,
) -> Profile:
    """Run ``model`` in eval mode on example inputs and tell each module's share.

    Multiply-accumulates are counted by :class:`torch.utils.flop_counter.FlopCounterMode` (two operations each), with
    attention products and recurrent layers included whichever kernel computes them; what that class has no formula for,
    such as elementwise work, counts zero. The model, its mode and hooks, the inputs and the random state stay as
    they were.

    Args:
        model: on any device; on the meta device, where inputs may be real, only with ``latency=False``.
        args: one tensor, or a tuple of positional arguments.
        kwargs: named arguments.
        latency: also time the modules and the whole model.
        repeats: timed runs, of which the median is told.

    Raises:
        InputError: a model that can't be looked into, or latency asked of a model on the meta device.
        TraceError: the model's own exception, as the cause.
    """
    check_eager(model)
    inputs: tuple[tuple[Any, ...], dict[str, Any]] = cloned((as_args(args), dict(kwargs or {})))
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        if latency:
            raise InputError("a model on the meta device computes nothing to time: pass latency=False.")
        inputs = pytree.tree_map_only(Tensor, lambda tensor: tensor.to("meta"), inputs)
    if repeats < 1:
        raise InputError(f"repeats must be at least 1, got {repeats}.")
    with undisturbed(model):
        counts = count(model, *inputs)
        times, total = timed(model, *inputs, repeats) if latency else ({}, None)
    return Profile(tuple(_rows(model, counts, times if latency else None)), total)


def _rows(model: nn.Module, counts: Mapping[nn.Module, Seen], times: Mapping[nn.Module, float] | None) -> Iterator[Row]:
    """A row for every module that owns parameters or was called, unless all it does is call its children."""
    met: set[nn.Parameter] = set()
    for name, module in model.named_modules():
        own = [p for p in module.parameters(recurse=False) if p not in met]
        met.update(own)
        seen = counts.get(module, Seen())
        leaf = seen.calls > 0 and next(module.children(), None) is None
        if not (leaf or own or seen.cost or seen.activation_bytes):
            continue
        yield Row(
            name=name,
            type=type(module).__name__,
            output_shape=seen.output_shape,
            parameters=sum(p.numel() for p in own),
            macs=int(seen.cost) // 2,
            parameter_bytes=sum(p.numel() * p.element_size() for p in own),
            activation_bytes=seen.activation_bytes,
            input_bytes=seen.input_bytes,
            calls=seen.calls,
            latency_ms=None if times is None else times.get(module, 0.0),
        )


_HEADER = ("module", "type", "output", "parameters", "MACs", "bytes", "activations", "ms")


def _cells(row: Row) -> tuple[Any, ...]:
    shape = "-" if row.output_shape is None else "x".join(map(str, row.output_shape)) or "scalar"
    costs = (row.parameters, row.macs, row.parameter_bytes, row.activation_bytes, row.latency_ms)
    return (row.name or "(model)", row.type, shape, *costs)


def _texts(cells: tuple[Any, ...]) -> tuple[str, ...]:
    texts = [f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in cells[:-1]]
    return (*texts, "-" if cells[-1] is None else f"{cells[-1]:.3f}")
