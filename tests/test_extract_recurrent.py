"""Extraction of recurrent layers, and of layers that run several times: one bias for all of their calls."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

import prunus
from tests.test_extract import relative, same

KINDS = (nn.LSTM, nn.GRU, nn.RNN)
SHAPES: tuple[dict[str, Any], ...] = ({}, {"num_layers": 2}, {"bidirectional": True}, {"bias": False})
DEAD = (0, 3)


class Net(nn.Module):
    """Features, a recurrent layer of eight units, a head."""

    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.rnn = nn.Linear(6, 10), kind(10, 8, batch_first=True, **options)
        self.head = nn.Linear(16 if options.get("bidirectional") else 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.rnn(torch.tanh(self.inner(x)))
        return self.head(y)


def units(parameter: Tensor) -> Tensor:
    """Rows by gate and unit."""
    return parameter.detach().view(-1, 8, *parameter.shape[1:])


X = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))
LONGER = torch.randn(3, 9, 6, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("options", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_constant_features_go_into_the_bias(kind: type[nn.RNNBase], options: dict[str, Any]) -> None:
    model = Net(kind, **options).eval()
    keep = torch.ones(10, 6)
    keep[:4] = 0
    torch_prune.custom_from_mask(model.inner, "weight", keep)  # their tanh(bias) is a constant, not zero
    small = prunus.extract(model, X, spread=False)
    left = 7 if options.get("bias") is False else 6  # without a bias, one of the constants carries the others
    assert small.inner.out_features == small.rnn.input_size == left
    same(model, small, X, LONGER)


@pytest.mark.parametrize("options", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_units_that_stay_at_zero(kind: type[nn.RNNBase], options: dict[str, Any]) -> None:
    model = Net(kind, **options).eval()
    for parameter in model.rnn.parameters():
        units(parameter)[:, DEAD] = 0
    small = prunus.extract(model, X)
    assert small.rnn.hidden_size == 6
    same(model, small, X, LONGER)


@pytest.mark.parametrize("options", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_units_that_nothing_reads(kind: type[nn.RNNBase], options: dict[str, Any]) -> None:
    model = Net(kind, **options).eval()
    for name, parameter in model.rnn.named_parameters():
        if "weight_hh" in name or "weight_ih_l1" in name:
            parameter.detach()[:, DEAD] = 0
    model.head.weight.detach().view(3, -1, 8)[:, :, DEAD] = 0
    small = prunus.extract(model, X)
    assert small.rnn.hidden_size == 6
    same(model, small, X, LONGER)


@pytest.mark.parametrize("kind", KINDS)
def test_units_with_dead_weights_and_a_bias_move_and_stay(kind: type[nn.RNNBase]) -> None:
    """Zero weights, but biases: the state goes its own way through time, and is no constant."""
    model = Net(kind).eval()
    for name, parameter in model.rnn.named_parameters():
        if "weight" in name:
            units(parameter)[:, DEAD] = 0
    with pytest.raises(prunus.NothingToPrune):
        prunus.extract(model, X)


def test_a_state_that_is_given_is_an_input() -> None:
    class Given(Net):
        def forward(self, x: Tensor, h: Tensor, c: Tensor) -> Tensor:
            y, _ = self.rnn(torch.tanh(self.inner(x)), (h, c))
            return self.head(y)

    model = Given(nn.LSTM).eval()
    for parameter in model.rnn.parameters():
        units(parameter)[:, DEAD] = 0
    with pytest.raises(prunus.NothingToPrune):
        prunus.extract(model, (X, torch.randn(1, 2, 8), torch.randn(1, 2, 8)))


def test_one_step_does_not_show_what_two_do() -> None:
    model = Net(nn.RNN).eval()
    model.head.weight.detach()[:, DEAD] = 0  # but the next step would read them
    with pytest.raises(prunus.PlanError, match="doesn't show all that forward does"):
        prunus.extract(model, X[:, :1])


def test_a_layer_that_runs_twice_has_one_bias() -> None:
    class Twice(nn.Module):
        def __init__(self, alike: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.shared, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
            self.alike = alike

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            y = self.a(y) if self.alike else 2 * self.a(y)  # with twice the constants one bias can't serve both
            return self.head(torch.relu(self.shared(self.a(x))) * torch.sigmoid(self.shared(y)))

    pair = (torch.randn(2, 6), torch.randn(2, 6))
    for alike in (True, False):
        model = Twice(alike).eval()
        model.a.weight.detach()[:3] = 0
        if alike:
            small = prunus.extract(model, pair, spread=False)
            assert small.a.out_features == 5
            with torch.no_grad():
                assert relative(model(*pair), small(*pair)) <= 2e-6
        else:
            with pytest.raises(prunus.NothingToPrune):
                prunus.extract(model, pair, spread=False)
