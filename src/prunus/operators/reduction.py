"""Reductions and what is normalized over a dimension: sums, means, extrema, norms, softmax, sorting."""

from __future__ import annotations

from prunus.axes import UNIT, Axes
from prunus.operators.table import Call, broadcast, dims, row


def _reduced(call: Call, chosen: list[int]) -> list[Axes]:
    """The axes that are left, in every output; a reduced dimension is kept as one position with ``keepdim``."""
    axes = call.first()
    keep = bool(call.arg("keepdim", False))
    kept = tuple(UNIT if d in chosen else axis for d, axis in enumerate(axes) if keep or d not in chosen)
    return [kept] * len(call.outputs)


def _chosen(call: Call) -> list[int]:
    return dims(call.arg("dim"), len(call.first()))


@row("sum", "nansum", "count_nonzero")
def sum_(call: Call) -> list[Axes]:
    """Removed positions, being zero, add nothing."""
    return _reduced(call, _chosen(call))


@row(
    *"mean var std var_mean std_mean amax amin prod all any logsumexp norm linalg_vector_norm max min median "
    "nanmedian aminmax nanmean".split(),
    preserves_zero=False,
)  # fmt: skip
def statistic(call: Call) -> list[Axes]:
    """A statistic over the kept positions of the reduced dimensions."""
    if call.maybe_axes("other") is not None:  # max and min of two tensors
        return [broadcast(call, [call.first(), call.axes("other")])]
    chosen = _chosen(call)
    if len(call.outputs) > 1 and call.name in ("median", "nanmedian"):
        _freeze_positions(call, chosen)  # the second output holds positions
        return _reduced(call, chosen)
    if len(call.outputs) > 1 and call.name in ("max", "min"):
        _choose_one(call, chosen, 1)
        return _reduced(call, chosen)
    for d in chosen:
        call.reduces(call.first()[d])
    return _reduced(call, chosen)


@row("argmax", "argmin", preserves_zero=False)
def arg_extremum(call: Call) -> list[Axes]:
    if call.arg("dim") is None:
        _freeze_positions(call, _chosen(call))
    else:
        _choose_one(call, _chosen(call), 0)
    return _reduced(call, _chosen(call))


def _choose_one(call: Call, chosen: list[int], output: int) -> None:
    for d in chosen:
        call.chooses(output, call.first()[d], 1)


def _freeze_positions(call: Call, chosen: list[int]) -> None:
    for d in chosen:
        call.freeze(call.first()[d], f"{call.name}() gives positions along it")


@row("_softmax", "_log_softmax", "_safe_softmax", "softmax", "log_softmax", preserves_zero=False)
def softmax(call: Call) -> Axes:
    axes = call.first()
    if axes:
        call.reduces(axes[call.arg("dim")])
    return axes


@row("cumsum", "cumprod", "logcumsumexp", preserves_zero=False)
def cumulative(call: Call) -> Axes:
    """Kept positions are summed up in the order that they had."""
    axes = call.first()
    if axes:
        call.reduces(axes[call.arg("dim")])
    return axes


@row("cummax", "cummin", preserves_zero=False)
def cumulative_extremum(call: Call) -> list[Axes]:
    _freeze_positions(call, _chosen(call))
    return [call.first()] * len(call.outputs)


@row("topk", preserves_zero=False)
def topk(call: Call) -> list[Axes]:
    """As many are chosen as before, of those that stay."""
    axes = call.first()
    if not axes:
        return [(), ()]
    dim = call.arg("dim") % len(axes)
    call.chooses(1, axes[dim], call.outputs[0].shape[dim])
    chosen = call.fresh(call.outputs[0].shape[dim], "chosen by topk()")
    return [(*axes[:dim], chosen, *axes[dim + 1 :])] * 2


@row("sort", "argsort", "kthvalue", "mode", "msort", preserves_zero=False)
def order(call: Call) -> list[Axes]:
    """Positions along the dimension trade places by value."""
    axes = call.first()
    dim = 0 if call.name == "msort" or not axes else call.arg("dim") % len(axes)
    if axes:
        call.freeze(axes[dim], f"{call.name}() along it")
    result = []
    for out in call.outputs:
        same = len(out.shape) == len(axes)
        left = axes if same else (*axes[:dim], *axes[dim + 1 :])
        new = tuple(call.fresh(n, f"{call.name}()") if same and d == dim else left[d] for d, n in enumerate(out.shape))
        result.append(new)
    return result


@row("histc", preserves_zero=False)
def histogram(call: Call) -> list[Axes]:
    """Counts of all values in bins: one that is zeroed would be counted too. Of chosen positions along an axis, a bin
    for each counts how often it was chosen.
    """
    chosen, bins = call.positions_of(call.args[0]), call.arg("bins")
    if chosen is not None and (bins, call.arg("min"), call.arg("max")) == (chosen.size, 0, chosen.size - 1):
        call.followed.add(id(call.args[0]))
        call.sized("bins", None, chosen)
        return [(chosen,)]
    for axis in call.first():
        call.freeze(axis, "counted by histc()")
    return call.frozen_outputs("bins of histc()")
