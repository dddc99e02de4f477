"""What the arithmetic of a call is a product of: the one thing that costs are predicted from."""

from __future__ import annotations

from dataclasses import dataclass

from prunus.axes import UNIT, Axes
from prunus.operators.table import Call


@dataclass(frozen=True, slots=True)
class Work:
    """A call that multiplies, by its axes.

    Attributes:
        kind: ``"convolution"``, ``"transposed convolution"``, ``"product"`` of matrices, or ``"attention"``.
        operands: the axes of what it works on: input and weight; both factors; query, key and value.
        output: the axes of its result.
        settings: further arguments on which its time depends (stride, padding, dilation), as plain values.
    """

    kind: str
    operands: tuple[Axes, ...]
    output: Axes
    settings: tuple[tuple[str, tuple[int, ...]], ...] = ()

    @property
    def products(self) -> tuple[Axes, ...]:
        """Its multiply-accumulates are the sum, over these, of the product of the axes' counts."""
        first, second = self.operands[:2]
        if self.kind == "attention":
            value = self.operands[2]
            return (*first[:-1], second[-2], first[-1]), (*first[:-1], second[-2], value[-1])
        if self.kind == "product":
            return ((*first, second[-1]),)
        slid = first if self.kind == "transposed convolution" else self.output
        return ((first[0], *slid[2:], *second),)


_FACTORS = {"mm": (0, 1), "bmm": (0, 1), "matmul": (0, 1), "addmm": (1, 2), "baddbmm": (1, 2)}
_CONVOLUTIONS = {"convolution", "_convolution", "convolution_overrideable", "mkldnn_convolution", "cudnn_convolution"}
_SETTINGS = ("stride", "padding", "dilation", "output_padding")


def work_of(call: Call, outputs: list[Axes]) -> Work | None:
    """The arithmetic of a call; None where it multiplies nothing that is counted."""
    if call.name in _FACTORS:
        return Work("product", tuple(call.axes_of(call.args[i]) for i in _FACTORS[call.name]), outputs[0])
    if call.name == "linear":
        weight = call.axes("weight")
        return Work("product", (call.axes("input"), (*weight[:-2], weight[-1], weight[-2])), outputs[0])
    if call.name in _CONVOLUTIONS:
        return _convolution(call, outputs[0])
    if "scaled_dot_product" in call.name:
        return Work("attention", tuple(call.axes(name) for name in ("query", "key", "value")), outputs[0])
    return None


def _convolution(call: Call, output: Axes) -> Work:
    x, weight = call.first(), call.axes("weight")
    lead = (UNIT,) * (len(weight) - len(x))
    kind = "transposed convolution" if call.arg("transposed") else "convolution"
    settings = tuple((name, _numbers(call.arg(name))) for name in _SETTINGS)
    return Work(kind, ((*lead, *x), weight), (*lead, *output), settings)


def _numbers(value: object) -> tuple[int, ...]:
    if isinstance(value, list | tuple):
        return tuple(int(n) for n in value)
    return (int(value),) if isinstance(value, int) else ()
