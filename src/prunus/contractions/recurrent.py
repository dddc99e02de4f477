"""Recurrent layers as what they stand for: a linear map of the inputs, one of the state at each step, and gates.

Torch runs them as one function, in which no linear map is seen. Equations of ``torch.nn.LSTM``, ``GRU`` and ``RNN``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

State = tuple[Tensor, ...]
"""The hidden state, and behind it the cell of an LSTM."""

Step = Callable[[Tensor, Tensor, State], State]
"""From what the input gives, what the state gives, and the state, to the next state."""


def _lstm(given: Tensor, fed_back: Tensor, state: State) -> State:
    entry, forget, new, out = (given + fed_back).chunk(4, -1)
    cell = forget.sigmoid() * state[1] + entry.sigmoid() * new.tanh()
    return out.sigmoid() * cell.tanh(), cell


def _gru(given: Tensor, fed_back: Tensor, state: State) -> State:
    (reset, update, new), (more_reset, more_update, again) = given.chunk(3, -1), fed_back.chunk(3, -1)
    update = (update + more_update).sigmoid()
    new = (new + (reset + more_reset).sigmoid() * again).tanh()
    return (new + update * (state[0] - new),)


def _tanh(given: Tensor, fed_back: Tensor, state: State) -> State:
    return ((given + fed_back).tanh(),)


def _relu(given: Tensor, fed_back: Tensor, state: State) -> State:
    return ((given + fed_back).relu(),)


_STEPS: dict[str, Step] = {"lstm": _lstm, "gru": _gru, "rnn_tanh": _tanh, "rnn_relu": _relu}


def unrolled(kind: str) -> Callable[..., Any] | None:
    """What computes the torch function of that name (``"lstm"``, ``"gru_cell"``) step by step; None if it is none."""
    name = kind.removesuffix("_cell")
    if name not in _STEPS:
        return None
    return partial(_cell if kind != name else _layers, _STEPS[name])


def _cell(step: Step, x: Tensor, state: Any, *weights: Tensor | None) -> Any:
    old = _as_state(state)
    w_ih, w_hh, b_ih, b_hh = (*weights, None, None)[:4]
    assert w_ih is not None and w_hh is not None
    new = step(F.linear(x, w_ih, b_ih), F.linear(old[0], w_hh, b_hh), old)
    return new if len(new) > 1 else new[0]


def _layers(step: Step, x: Tensor, *rest: Any) -> Any:
    """All layers and directions; of packed sequences (their rows, the batch sizes of the steps, ...) too.

    As ``torch.lstm`` takes it: the state, the weights, whether there are biases, the number of layers, dropout, whether
    it trains, whether it runs both ways and, unless packed, whether the batch comes first.
    """
    packed = not isinstance(rest[2], bool)
    sizes, rest = (rest[0].tolist(), rest[1:]) if packed else (None, rest)
    state, weights, biases, layers, dropout, training, both_ways, *batch_first = rest
    turned = bool(batch_first and batch_first[0])
    x = x.transpose(0, 1) if turned else x
    ways = 2 if both_ways else 1
    start, sets, last = _as_state(state), _by_layer(weights, biases, layers * ways), []
    for layer in range(layers):
        outputs = []
        for way in range(ways):
            number = layer * ways + way
            output, end = _one_way(step, x, tuple(s[number] for s in start), sets[number], sizes, bool(way))
            outputs.append(output)
            last.append(end)
        x = torch.cat(outputs, -1)
        if dropout and training and layer < layers - 1:
            x = F.dropout(x, dropout, True)
    ends = tuple(torch.stack(parts) for parts in zip(*last, strict=True))
    return x.transpose(0, 1) if turned else x, *ends


def _one_way(
    step: Step, x: Tensor, state: State, weights: Sequence[Tensor | None], sizes: list[int] | None, back: bool
) -> tuple[Tensor, State]:
    """The outputs of all steps, in the order of the input, and the last state of every sequence."""
    w_ih, w_hh, b_ih, b_hh, w_hr = weights
    assert w_ih is not None and w_hh is not None
    given = F.linear(x, w_ih, b_ih)
    steps = list(given.unbind(0) if sizes is None else given.split(sizes))
    outputs: list[Tensor] = []
    ended: list[State] = []
    now = tuple(s[: len(steps[-1])] for s in state) if back else state
    for row in reversed(steps) if back else steps:
        now, gone = _as_many(now, state, len(row), back)
        ended += gone
        new = step(row, F.linear(now[0], w_hh, b_hh), now)
        now = (F.linear(new[0], w_hr), *new[1:]) if w_hr is not None else new
        outputs.append(now[0])
    ordered = outputs[::-1] if back else outputs
    whole = tuple(torch.cat(parts) for parts in zip(now, *reversed(ended), strict=True))
    return torch.stack(ordered) if sizes is None else torch.cat(ordered), whole


def _as_many(now: State, start: State, rows: int, back: bool) -> tuple[State, list[State]]:
    """The state of as many sequences as a step has, with that of those which ended before it or began at it."""
    have = len(now[0])
    if back:
        return tuple(torch.cat([s, first[have:rows]]) for s, first in zip(now, start, strict=True)), []
    if rows == have:
        return now, []
    return tuple(s[:rows] for s in now), [tuple(s[rows:] for s in now)]


def _as_state(state: Any) -> State:
    return (state,) if isinstance(state, Tensor) else tuple(state)


def _by_layer(weights: Sequence[Tensor], biases: bool, number: int) -> list[list[Tensor | None]]:
    """For each layer and direction: of inputs and state, their biases, and the projection of the output."""
    each = len(weights) // number
    result = []
    for i in range(number):
        mine: list[Tensor | None] = list(weights[i * each : (i + 1) * each])
        matrices, rest = mine[:2], mine[2:]
        result.append([*matrices, *(rest[:2] if biases else (None, None)), rest[-1] if each in (3, 5) else None])
    return result
