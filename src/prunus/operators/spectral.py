"""Fourier transforms: each output position reads every input position along the dimension, so that it is frozen."""

from __future__ import annotations

from prunus.axes import Axes
from prunus.operators.table import Call, dims, row


@row("_fft_r2c", "_fft_c2r", "_fft_c2c")
def fourier(call: Call) -> Axes:
    axes = list(call.first())
    for d in dims(call.arg("dim"), len(axes)):
        call.freeze(axes[d], "a Fourier transform over it")
        axes[d] = call.fresh(call.outputs[0].shape[d], "frequencies of a Fourier transform")
    return tuple(axes)
