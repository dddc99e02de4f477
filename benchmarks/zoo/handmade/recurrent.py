"""Recurrent networks: torch's layers in all their forms, and cells in loops."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from benchmarks.zoo.case import Case
from benchmarks.zoo.handmade.entry import entry


class Tagger(nn.Module):
    """Features, a recurrent layer, and a label for each step."""

    def __init__(self, kind: type[nn.RNNBase], hidden: int = 12, **options: Any) -> None:
        super().__init__()
        self.inp = nn.Linear(5, 10)
        self.rnn = kind(10, hidden, **options)
        width = (options.get("proj_size") or hidden) * (2 if options.get("bidirectional") else 1)
        self.out = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(self.inp(x).relu())[0])


class Last(nn.Module):
    """The last hidden state of an embedded sequence is classified."""

    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.rnn = kind(8, 14, batch_first=True, **options)
        self.out = nn.Linear(14 * (2 if options.get("bidirectional") else 1), 3)

    def forward(self, i: Tensor) -> Tensor:
        state = self.rnn(self.embed(i))[1]
        last = state[0] if isinstance(state, tuple) else state
        if self.rnn.bidirectional:
            return self.out(torch.cat([last[-2], last[-1]], 1))
        return self.out(last[-1])


class Given(nn.Module):
    """Initial states made by a layer, or learned."""

    def __init__(self, learned: bool) -> None:
        super().__init__()
        self.rnn = nn.LSTM(5, 12, batch_first=True)
        self.start = nn.Parameter(torch.randn(1, 1, 12)) if learned else nn.Linear(5, 12)
        self.out = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.start, nn.Linear):
            h = self.start(x[:, 0]).tanh()[None]
        else:
            h = self.start.expand(1, x.shape[0], -1).contiguous()
        y, _ = self.rnn(x, (h, torch.zeros_like(h)))
        return self.out(y)


class ZeroStates(nn.Module):
    """Zero states made by hand from ``hidden_size``."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden_size, self.layers = 12, 2
        self.rnn = nn.GRU(5, self.hidden_size, self.layers, batch_first=True)
        self.out = nn.Linear(self.hidden_size, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(self.layers, x.size(0), self.hidden_size, device=x.device, dtype=x.dtype)
        y, _ = self.rnn(x, h)
        return self.out(y[:, -1, :])


class Packed(nn.Module):
    """Padded sequences are packed, and padded again after the layer."""

    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.rnn = kind(8, 12, batch_first=True, **options)
        self.out = nn.Linear(24 if options.get("bidirectional") else 12, 3)

    def forward(self, i: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.embed(i), lengths, batch_first=True, enforce_sorted=False)
        y, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        return self.out(y)


class Loop(nn.Module):
    """A cell stepped over time in Python."""

    def __init__(self, kind: type[nn.RNNCellBase]) -> None:
        super().__init__()
        self.inp, self.cell, self.out = nn.Linear(5, 10), kind(10, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        state, steps = None, []
        for t in range(x.shape[1]):
            state = self.cell(self.inp(x[:, t]).relu(), state)
            steps.append(self.out(state[0] if isinstance(state, tuple) else state))
        return torch.stack(steps, 1)


class Encoder(nn.Module):
    """Sequence to sequence: the encoder's state starts the decoder, with attention over the encoder's steps."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.encoder, self.decoder = nn.GRU(8, 12, batch_first=True), nn.GRU(8, 12, batch_first=True)
        self.mix, self.out = nn.Linear(24, 10), nn.Linear(10, 20)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory, state = self.encoder(self.embed(source))
        y, _ = self.decoder(self.embed(target), state)
        weights = (y @ memory.transpose(1, 2)).softmax(-1)
        return self.out(self.mix(torch.cat([y, weights @ memory], -1)).tanh())


class Crnn(nn.Module):
    """Columns of a feature map as a sequence, as in text recognition."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.rnn, self.out = nn.LSTM(6 * 4, 10, bidirectional=True), nn.Linear(20, 7)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.max_pool2d(self.norm(self.conv(x)).relu(), 2)
        b, c, h, w = y.shape
        return self.out(self.rnn(y.permute(3, 0, 1, 2).reshape(w, b, c * h))[0])


class HandLstm(nn.Module):
    """An LSTM written out, all gates in one product."""

    def __init__(self, hidden: int = 12) -> None:
        super().__init__()
        self.hidden = hidden
        self.gates, self.out = nn.Linear(5 + hidden, 4 * hidden), nn.Linear(hidden, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(x.shape[0], self.hidden)
        for step in x.unbind(1):
            i, f, g, o = self.gates(torch.cat([step, h], 1)).split(self.hidden, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return self.out(h)


class ConvLstm(nn.Module):
    """A convolutional LSTM cell over a short video."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 6
        self.gates, self.out = nn.Conv2d(2 + 6, 24, 3, padding=1), nn.Conv2d(6, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _, height, width = x.shape
        h = c = torch.zeros(b, self.width, height, width, dtype=x.dtype)
        for k in range(t):
            i, f, o, g = torch.chunk(self.gates(torch.cat([x[:, k], h], 1)), 4, dim=1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        return self.out(h)


def steps() -> Tensor:
    return torch.randn(6, 3, 5)


def words() -> Tensor:
    return torch.randint(20, (3, 6))


def cases() -> Iterator[Case]:
    for kind in (nn.RNN, nn.LSTM, nn.GRU):
        name = kind.__name__.lower()
        yield entry(name, lambda kind=kind: (Tagger(kind), steps()))
        yield entry(f"{name}_bidirectional", lambda kind=kind: (Tagger(kind, bidirectional=True), steps()))
        yield entry(f"{name}_layers", lambda kind=kind: (Tagger(kind, num_layers=3), steps()))
        yield entry(
            f"{name}_stacked_both_ways",
            lambda kind=kind: (
                Tagger(kind, num_layers=2, bidirectional=True, batch_first=True),
                steps(),
            ),
        )
        yield entry(f"{name}_last_state", lambda kind=kind: (Last(kind), words()))
        yield entry(f"{name}_packed", lambda kind=kind: (Packed(kind), (words(), torch.tensor([6, 2, 4]))))
        yield entry(f"{name}_cell", lambda kind=kind: (Loop(getattr(nn, kind.__name__ + "Cell")), steps()))
    yield entry("rnn_relu", lambda: (Tagger(nn.RNN, nonlinearity="relu"), steps()))
    yield entry("gru_without_bias", lambda: (Tagger(nn.GRU, bias=False), steps()))
    yield entry("lstm_dropout", lambda: (Tagger(nn.LSTM, num_layers=2, dropout=0.3), steps()))
    yield entry("lstm_projected", lambda: (Tagger(nn.LSTM, proj_size=6), steps()))
    yield entry(
        "lstm_projected_both_ways",
        lambda: (Tagger(nn.LSTM, proj_size=6, bidirectional=True, num_layers=2), steps()),
    )
    yield entry("lstm_last_state_both_ways", lambda: (Last(nn.LSTM, bidirectional=True), words()))
    yield entry(
        "lstm_packed_both_ways",
        lambda: (Packed(nn.LSTM, bidirectional=True, num_layers=2), (words(), torch.tensor([6, 2, 4]))),
    )
    yield entry("lstm_given_state", lambda: (Given(learned=False), steps()))
    yield entry("lstm_learned_state", lambda: (Given(learned=True), steps()))
    yield entry("gru_zero_states", lambda: (ZeroStates(), steps()))
    yield entry("gru_sequence_to_sequence", lambda: (Encoder(), (words(), words())))
    yield entry("crnn", lambda: (Crnn(), torch.randn(2, 1, 8, 10)))
    yield entry("lstm_by_hand", lambda: (HandLstm(), steps()))
    yield entry("conv_lstm", lambda: (ConvLstm(), torch.randn(2, 3, 2, 5, 5)))
