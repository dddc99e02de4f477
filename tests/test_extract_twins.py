"""Units that are multiples of each other become one; units that only look alike stay two."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import prunus
from benchmarks.zoo.case import randomize
from prunus.extraction.alike import alike_rows
from tests.test_extract import same

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
OTHER = torch.randn(3, 3, 11, 9, generator=torch.Generator().manual_seed(4))


def copy_unit(module: nn.Module, of: int, to: int, scale: float = 1.0) -> None:
    """Make one filter (and its normalization) ``scale`` times another."""
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.dim():
                grows = not isinstance(module, nn.BatchNorm2d) or name in ("weight", "bias")
                tensor[to] = tensor[of] * (scale if grows else 1.0)


class Net(nn.Module):
    """Padding, batch norm, pooling, a depthwise convolution, concatenation, a residual block, flatten: every way on."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.depth, self.b = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(3, 4, 1)
        self.mix, self.up, self.down = nn.Conv2d(12, 6, 1), nn.Conv2d(6, 10, 3, padding=1), nn.Conv2d(10, 6, 1)
        self.head = nn.Linear(24, 5)
        randomize(self.eval())

    def forward(self, x: Tensor) -> Tensor:
        y = self.depth(F.relu(self.norm(self.a(x))))
        y = self.mix(torch.cat([F.max_pool2d(F.leaky_relu(y), 2), F.avg_pool2d(torch.sigmoid(self.b(x)), 2)], 1))
        y = y + self.down(F.relu(self.up(y)))
        return self.head(F.adaptive_avg_pool2d(y, 2).flatten(1))


@pytest.mark.parametrize("scale", [1.0, 4.0, 0.5])
def test_through_everything(scale: float) -> None:
    model = Net()
    copy_unit(model.a, 1, 3, scale)
    with torch.no_grad():  # batch norm undoes the scale of the mean; its gain and shift are the same
        for name in ("running_mean", "weight", "bias"):
            getattr(model.norm, name)[3] = getattr(model.norm, name)[1] * (scale if name != "weight" else 1)
        model.norm.running_var[3] = model.norm.running_var[1]
    copy_unit(model.depth, 1, 3, 1.0)
    with torch.no_grad():
        model.depth.bias[3] = model.depth.bias[1] * scale
    copy_unit(model.b, 0, 2)
    copy_unit(model.up, 5, 9, scale)
    small = prunus.extract(model, X)
    assert (small.a.out_channels, small.depth.groups, small.b.out_channels, small.up.out_channels) == (7, 7, 3, 9)
    same(model, small, X, OTHER)


def test_signs_count_behind_a_relu_and_not_behind_a_sum() -> None:
    for act, left in ((nn.ReLU(), 4), (nn.Identity(), 3)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), act, nn.Conv2d(4, 2, 1)).eval()
        copy_unit(model[0], 0, 2, -2.0)
        if left == 4:
            with pytest.raises(prunus.NothingToPrune):
                prunus.extract(model, X)
            continue
        small = prunus.extract(model, X)
        assert small[0].out_channels == left
        same(model, small, X, OTHER)


@pytest.mark.parametrize("act", [nn.GELU(), nn.Sigmoid(), nn.Hardswish(), nn.SiLU()])
def test_multiples_are_not_alike_behind_other_functions(act: nn.Module) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), act, nn.Conv2d(4, 2, 1)).eval()
    copy_unit(model[0], 0, 2, 2.0)
    with pytest.raises(prunus.NothingToPrune):
        prunus.extract(model, X)
    copy_unit(model[0], 0, 2)  # the same one twice is
    small = prunus.extract(model, X)
    assert small[0].out_channels == 3
    same(model, small, X, OTHER)


@pytest.mark.parametrize("where", ["bias", "norm", "depth", "layer norm", "weight"])
def test_what_differs_in_one_number_stays(where: str) -> None:
    torch.manual_seed(0)
    last = nn.LayerNorm(6) if where == "layer norm" else nn.Identity()
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1, groups=8), nn.ReLU()),
        *(last, nn.Conv2d(8, 2, 1)),
    ).eval()
    for layer in model[:3]:
        copy_unit(layer, 1, 3)
    with torch.no_grad():
        {"bias": model[0].bias, "norm": model[1].running_mean, "depth": model[2].weight, "weight": model[0].weight}.get(
            where, model[0].bias
        )[3] += 0.01
    with pytest.raises(prunus.NothingToPrune):
        prunus.extract(model, torch.randn(2, 3, 6, 6))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_units(kind: type[nn.RNNBase]) -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.rnn, self.head = kind(6, 8, num_layers=2, batch_first=True), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x)[0])

    model = Last().eval()
    with torch.no_grad():
        for parameter in model.rnn.parameters():
            gates = parameter.view(-1, 8, *parameter.shape[1:])
            gates[:, 5] = gates[:, 2]
    small = prunus.extract(model, torch.randn(2, 5, 6))
    assert small.rnn.hidden_size == 7
    same(model, small, torch.randn(2, 5, 6), torch.randn(3, 9, 6))


def test_in_one_group_of_a_grouped_convolution_only() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3, groups=2)).eval()
    copy_unit(model[0], 1, 6)  # the two are read by different groups
    with pytest.raises(prunus.NothingToPrune):
        prunus.extract(model, X)
    for of, to in ((1, 2), (5, 6)):  # in the same place of each group, so that they stay of one size
        copy_unit(model[0], of, to)
    small = prunus.extract(model, X)
    assert small[0].out_channels == 6
    same(model, small, X, OTHER)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 9), st.integers(1, 7), st.integers(0, 2**31), st.floats(-8, 8).filter(lambda s: abs(s) > 1e-3))
def test_rows_are_found_and_no_others(rows: int, columns: int, seed: int, scale: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    matrix = torch.randn(rows, columns + 1, generator=draw, dtype=torch.float64)
    of, to = torch.randperm(rows, generator=draw)[:2].tolist()
    matrix[to] = scale * matrix[of]
    group, size = alike_rows(matrix)
    assert group[of] == group[to] and len(group.unique()) == rows - 1
    torch.testing.assert_close(matrix[to] / size[to], matrix[of] / size[of])


def test_a_wrong_merge_is_not_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    from prunus.extraction import alike

    monkeypatch.setattr(alike, "_POSITIVE", (*alike._POSITIVE, "sigmoid"))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sigmoid(), nn.Conv2d(4, 2, 1)).eval()
    copy_unit(model[0], 0, 2, 2.0)
    with pytest.raises(prunus.PlanError, match="isn't exact"):
        prunus.extract(model, X)
