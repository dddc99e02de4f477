"""What recurrent layers need beside their cells, which dispatch as matrix products: sequences packed by length."""

from __future__ import annotations

from prunus.axes import Axes
from prunus.operators.table import Call, row


@row("_pack_padded_sequence")
def pack(call: Call) -> list[Axes]:
    """``[time, batch, ...]`` to ``[steps, ...]`` without the padding, and how many sequences each time step has."""
    axes = call.first()
    for axis in (*axes[:2], *call.axes("lengths")):
        call.freeze(axis, "packed by length")
    steps, times = (call.fresh(out.shape[0], "packed by length") for out in call.outputs)
    return [(steps, *axes[2:]), (times,)]


@row("_pad_packed_sequence", preserves_zero=False)
def pad(call: Call) -> list[Axes]:
    """``pack`` backwards: ``[steps, ...]`` to ``[time, batch, ...]``, padded with a value, and the lengths."""
    data = call.axes("data")
    for axis in (data[0], *call.axes("batch_sizes")):
        call.freeze(axis, "packed by length")
    positions = [call.fresh(n, "padded again") for n in call.outputs[0].shape[:2]]
    return [(*positions, *data[1:]), (call.fresh(call.outputs[1].shape[0], "padded again"),)]
