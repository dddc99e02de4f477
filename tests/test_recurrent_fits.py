"""Recurrent layers step by step are what torch computes; a cut of what they read or feed back can be made up for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import prunus
from prunus.contractions import Watch, names
from prunus.running import tensors_in

LAYERS: list[Any] = [
    (nn.LSTM, {}),
    (nn.LSTM, {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    (nn.LSTM, {"num_layers": 2, "proj_size": 3, "bidirectional": True}),
    (nn.LSTM, {"proj_size": 2, "bias": False}),
    (nn.GRU, {"num_layers": 2, "bias": False}),
    (nn.GRU, {"bidirectional": True, "batch_first": True}),
    (nn.RNN, {"nonlinearity": "relu", "num_layers": 2}),
    (nn.RNN, {"bidirectional": True}),
]


def seen(module: nn.Module, *args: Any) -> tuple[set[str], list[Tensor]]:
    found: set[str] = set()
    with torch.no_grad(), Watch(names(module), lambda name, *_: found.add(name)):
        result = module(*args)
    return found, tensors(result)


def tensors(result: Any) -> list[Tensor]:
    return [t for part in result for t in (part[:1] if isinstance(part, PackedSequence) else tensors_in(part))]


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize(("kind", "options"), LAYERS)
def test_layers_step_by_step_are_what_torch_computes(kind: Any, options: dict[str, Any], packed: bool) -> None:
    torch.manual_seed(0)
    layer = kind(5, 6, **options).double().eval()
    x: Any = torch.randn(4, 4, 5, dtype=torch.float64)
    if packed:
        lengths = torch.tensor([4, 2, 2, 1])
        x = pack_padded_sequence(x, lengths, batch_first=options.get("batch_first", False))
    with torch.no_grad():
        want = tensors(layer(x))
    found, got = seen(layer, x)
    assert found == {name for name, parameter in layer.named_parameters() if parameter.dim() > 1}
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_cells_are_what_torch_computes(kind: Any) -> None:
    torch.manual_seed(0)
    cell = kind(5, 6).double().eval()
    x = torch.randn(4, 5, dtype=torch.float64)
    with torch.no_grad():
        want = tensors_in(cell(x))
    with torch.no_grad(), Watch(names(cell), lambda *_: None):
        torch.testing.assert_close(tensors_in(cell(x)), want, rtol=1e-12, atol=1e-12)


class Tagger(nn.Module):
    """Ten features of which five are independent, a recurrent layer, a label for each step."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.inp, self.rnn, self.out = nn.Linear(5, 10), kind(10, 12, batch_first=True), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(self.inp(x))[0])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_what_is_left_of_the_inputs_makes_up_for_the_rest(kind: Any) -> None:
    torch.manual_seed(0)
    model = Tagger(kind).double().eval()
    x = torch.randn(40, 6, 5, dtype=torch.float64)
    plan = prunus.plan(model, x[:2], ratio={"inp": 0.4})
    small = plan.apply(model)
    with torch.no_grad():
        cut = (small(x) - model(x)).square().mean()
        prunus.compensate(model, small, plan, [x[:20], x[20:]], x[:2], ridge=1e-12)
        assert (small(x) - model(x)).square().mean() < 1e-12 * cut


def test_half_of_the_state_is_made_up_for_in_part() -> None:
    torch.manual_seed(0)
    model = Tagger(nn.LSTM).double().eval()
    with torch.no_grad():
        model.rnn.weight_hh_l0 *= 3  # what is fed back counts
    x, unseen = torch.randn(64, 6, 5, dtype=torch.float64), torch.randn(64, 6, 5, dtype=torch.float64)
    plan = prunus.plan(model, x[:2], ratio={"rnn*": 0.5})
    small = plan.apply(model)
    with torch.no_grad():
        cut = (small(unseen) - model(unseen)).square().mean()
        result = prunus.compensate(model, small, plan, [x[:16], x[16:32], x[32:48], x[48:]], x[:2])
        assert (small(unseen) - model(unseen)).square().mean() < 0.5 * cut
    assert [m.weight for m in result.layers] == ["inp.weight", "rnn.weight_ih_l0", "rnn.weight_hh_l0", "out.weight"]
    assert not result.skipped
