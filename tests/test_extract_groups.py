"""Units that are dead at other places in each group go where every group has as many: exact, whatever follows them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import prunus
from benchmarks.zoo.case import randomize
from prunus.train.following import follow
from tests.test_extract import relative


class Grouped(nn.Module):
    """Four groups between dense layers; ``way`` says what lies between."""

    def __init__(self, way: str = "") -> None:
        super().__init__()
        pad = int(way == "padded")
        kind = nn.ConvTranspose2d if way == "transposed" else nn.Conv2d
        self.first, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.mid, self.after = kind(16, 24, 3, padding=pad, groups=4), nn.BatchNorm2d(24)
        self.side = nn.Conv2d(3, 16, 1)
        self.last = nn.Conv2d(6 if way == "averaged" else 24, 5, 1)
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.first(x))
        if self.way == "added":
            y = y + self.side(x)
        if self.way == "shuffled":  # groups of four, of units that lie four apart
            y = y.unflatten(1, (-1, 4)).transpose(1, 2).flatten(1, 2)
        y = self.after(self.mid(y.sigmoid())).relu()
        if self.way == "averaged":
            y = y.unflatten(1, (4, 6)).mean(1)
        return self.last(y)


class Attention(nn.Module):
    """Four heads, whose values may be of any width."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (4, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        weights = (0.5 * q @ k.transpose(-2, -1)).softmax(-1)
        return x + self.out((weights @ v).transpose(1, 2).flatten(2))


def masked(way: str = "", inputs: tuple[int, ...] = (), outputs: tuple[int, ...] = ()) -> nn.Module:
    torch.manual_seed(0)
    model = Grouped(way).double().eval()
    randomize(model)
    with torch.no_grad():
        for layer in (model.first, model.side) if way == "added" else (model.first,):
            layer.weight[list(inputs)] = 0
        weight = model.mid.weight
        if way == "transposed":
            weight = weight.unflatten(0, (4, 4)).transpose(1, 2).flatten(0, 1)
            weight[list(outputs)] = 0
            model.mid.weight.copy_(weight.unflatten(0, (4, 6)).transpose(1, 2).flatten(0, 1))
        else:
            weight[list(outputs)] = 0
    return model


def extracted(model: nn.Module) -> nn.Module:
    small = prunus.extract(model, torch.randn(2, 3, 8, 8).double(), spread=False)
    for shape in ((2, 3, 8, 8), (3, 3, 11, 9)):
        x = torch.randn(shape).double()
        assert relative(model(x), small(x)) <= 1e-12
    return small


ONE_EACH, TWO_EACH, UNEVEN = (0, 5, 10, 15), (0, 3, 4, 5, 9, 10, 13, 15), (0, 1, 5, 6, 7, 8, 13, 14)


@pytest.mark.parametrize(
    ("way", "dead", "left"),
    [
        ("", ONE_EACH, 12),
        ("", TWO_EACH, 8),
        ("", UNEVEN, 12),
        ("", (*ONE_EACH, 12, 13, 14), 9),  # the last group goes as a whole
        ("padded", TWO_EACH, 12),  # each group needs one to carry the constant
        ("transposed", TWO_EACH, 12),
        ("added", TWO_EACH, 8),
        ("averaged", TWO_EACH, 8),
    ],
)
def test_inputs(way: str, dead: tuple[int, ...], left: int) -> None:
    small = extracted(masked(way, dead))
    assert small.first.out_channels == small.mid.in_channels == left
    assert small.norm.num_features == left


def test_one_that_carries_its_own_constant_stays() -> None:
    with pytest.raises(prunus.NothingToPrune):
        extracted(masked("padded", ONE_EACH))


def test_units_that_a_shuffle_sends_to_other_groups() -> None:
    dead = [4 * (group_unit % 4) + group for group in range(4) for group_unit in (group, group + 2)]
    small = extracted(masked("shuffled", tuple(dead)))
    assert small.first.out_channels == 8 and small.prunus_extraction.aligned == 1


@pytest.mark.parametrize("way", ["", "padded", "transposed", "shuffled"])
def test_outputs(way: str) -> None:
    small = extracted(masked(way, outputs=(0, 1, 7, 8, 14, 17, 22, 23)))
    assert small.mid.out_channels == small.last.in_channels == 16


def test_both_and_saved(tmp_path: Path) -> None:
    small = extracted(masked("", TWO_EACH, (0, 1, 7, 8, 14, 17, 22, 23)))
    assert (small.mid.in_channels, small.mid.out_channels, small.prunus_extraction.aligned) == (8, 16, 2)
    prunus.save(small, tmp_path / "small")
    x = torch.randn(2, 3, 8, 8).double()
    assert torch.equal(prunus.load(tmp_path / "small", lambda: Grouped().double()).eval()(x), small(x))


def test_what_meets_other_groups_stays_in_its_place() -> None:
    small = extracted(masked("averaged", TWO_EACH, (0, 7, 14, 21)))  # unit i of each group is averaged with the others
    assert (small.mid.in_channels, small.mid.out_channels) == (8, 24)


def test_dims_of_heads() -> None:
    torch.manual_seed(0)
    model = Attention().double().eval()
    randomize(model)
    with torch.no_grad():
        model.v.weight[list(TWO_EACH)] = 0
    small = prunus.extract(model, torch.randn(2, 5, 16).double(), spread=False)
    assert (small.v.out_features, small.q.out_features, small.out.in_features) == (8, 16, 8)
    x = torch.randn(3, 7, 16).double()
    assert relative(model(x), small(x)) <= 1e-12


def test_an_optimizer_cannot_follow_another_order() -> None:
    model = masked("", ONE_EACH)
    small = extracted(model)
    assert small.prunus_plan.reordered
    with pytest.raises(prunus.PlanError, match="order"):
        follow(torch.optim.SGD(model.parameters(), 0.1, momentum=0.9), model, small)
    same_places = extracted(masked("", (1, 5, 9, 13)))
    assert same_places.first.out_channels == 12 and not same_places.prunus_plan.reordered
