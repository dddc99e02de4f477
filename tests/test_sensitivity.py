"""sensitivity: every figure against a network cut by hand, with masks, and nothing measured twice."""

from __future__ import annotations

import csv

import pytest
import torch
from torch import nn

import prunus
from prunus.demo.lenet import LeNet
from prunus.errors import InputError
from prunus.sensitivity import Row, Sensitivity


@pytest.fixture
def lenet():
    torch.manual_seed(0)
    return LeNet().eval()


@pytest.fixture
def images():
    return torch.randn(16, 1, 28, 28, generator=torch.Generator().manual_seed(1))


def masked(model: LeNet, layer: str, following: str, remove: int) -> LeNet:
    """The layer's weakest outputs zeroed, with the whole group's L2 norm worked out here, by other means."""
    copy = LeNet().eval()
    copy.load_state_dict(model.state_dict())
    made, used = getattr(copy, layer), getattr(copy, following)
    width = len(made.bias)
    columns = used.weight.detach().reshape(used.weight.shape[0], width, -1)
    norms = made.weight.detach().reshape(width, -1).square().sum(1) + made.bias.detach().square()
    norms += columns.square().sum((0, 2))
    with torch.no_grad():
        for index in norms.argsort()[:remove].tolist():
            made.weight[index] = 0
            made.bias[index] = 0
    return copy


@pytest.mark.parametrize(
    ("layer", "following", "ratio", "removed"),
    [("conv1", "conv2", 0.5, 3), ("conv2", "fc1", 0.25, 4), ("fc1", "fc2", 0.5, 60), ("fc2", "fc3", 0.75, 63)],
)
def test_each_group_is_cut_alone(lenet, images, layer, following, ratio, removed):
    found = prunus.sensitivity(
        lenet, images[:1], evaluate=lambda m: float(m(images).detach().sum()), ratios=[ratio], groups=[layer]
    )
    (row,) = found.rows
    assert (row.group, row.ratio, row.size - row.kept) == (layer, ratio, removed)
    expected = float(masked(lenet, layer, following, removed)(images).detach().sum())
    assert row.metrics["score"] == pytest.approx(expected, rel=1e-4)
    assert row.metrics["score"] != pytest.approx(found.baseline["score"], rel=1e-4)


def test_all_free_groups_and_no_count_twice(lenet, images):
    evaluated, ticks = [], []

    def evaluate(model):
        evaluated.append([module.weight.shape[0] for module in model.children()])
        return 1.0

    found = prunus.sensitivity(
        lenet,
        images[:1],
        evaluate=evaluate,
        ratios=[0.9, 0.1, 0.5, 0.5],
        method="small",
        on_progress=lambda done, of, name: ticks.append((done, of)),
    )
    assert list(found.sizes.items()) == [("conv1", 6), ("conv2", 16), ("fc1", 120), ("fc2", 84)]
    assert [row.kept for row in found.rows if row.group == "conv1"] == [3, 1]  # 10 % of 6 is nothing
    assert evaluated[0] == [6, 16, 120, 84, 10]
    assert len(evaluated) == 1 + 2 + 3 + 3 + 3
    assert all(sum(a != b for a, b in zip(widths, evaluated[0], strict=True)) == 1 for widths in evaluated[1:])
    assert ticks[-1] == (12, 12)


def test_the_model_is_left_as_it_was(lenet, images):
    before = {name: tensor.clone() for name, tensor in lenet.state_dict().items()}
    prunus.sensitivity(lenet.train(), images[:1], evaluate=lambda m: 1.0, ratios=[0.5])
    assert lenet.training
    for name, tensor in lenet.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


class Chunked(nn.Module):
    """Two halves of one convolution must keep equal counts: the second follows the first."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.out = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        a, b = self.conv(x).chunk(2, dim=1)
        return self.out(a) + self.out(b.sigmoid())


def test_groups_that_follow_others_are_not_asked_for(images):
    found = prunus.sensitivity(Chunked(), torch.randn(1, 3, 4, 4), evaluate=lambda m: 1.0, ratios=[0.5])
    assert found.rows
    for row in found.rows:
        assert (row.size, row.kept) == (4, 2)


def curves():
    """Hand-made: a falls slowly, b at once, c falls and recovers."""
    scores = {"a": (90, 89, 85), "b": (80, 70, 60), "c": (91, 80, 90)}
    rows = [
        Row(group, ratio, 10, round(10 * (1 - ratio)), {"score": float(score)})
        for group, values in scores.items()
        for ratio, score in zip((0.2, 0.5, 0.8), values, strict=True)
    ]
    return Sensitivity({"score": 90.0}, tuple(rows), {"a": 10, "b": 10, "c": 10})


@pytest.mark.parametrize(
    ("drop", "expected"),
    [(0, {"a": 0.2, "c": 0.2}), (1, {"a": 0.5, "c": 0.2}), (10, {"a": 0.8, "b": 0.2, "c": 0.8}), (-2, {})],
)
def test_table_stops_at_the_first_drop_beyond(drop, expected):
    assert curves().table(max_drop=drop) == expected


def test_table_is_a_ratio_for_plan(lenet, images):
    found = prunus.sensitivity(lenet, images[:1], evaluate=lambda m: 1.0, ratios=[0.5], groups=["fc1", "conv2"])
    plan = prunus.plan(lenet, images[:1], ratio=found.table(max_drop=0))
    assert plan.shape_after("fc1.weight") == (60, 200)
    assert plan.shape_after("fc2.weight") == (84, 60)


def test_csv_and_plot(tmp_path):
    found = curves()
    found.to_csv(tmp_path / "curves.csv")
    with open(tmp_path / "curves.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert (rows[0]["group"], rows[0]["score"]) == ("", "90.0")
    assert [(r["group"], float(r["ratio"]), int(r["kept"]), float(r["score"])) for r in rows[1:3]] == [
        ("a", 0.2, 8, 90.0),
        ("a", 0.5, 5, 89.0),
    ]
    assert len(rows) == 10
    figure = found.plot(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    lines = {line.get_label(): line.get_xydata().tolist() for line in figure.axes[0].get_lines()}
    assert set(lines) == {"a", "b", "c"}
    flat = [value for point in ((0, 90), (20, 80), (50, 70), (80, 60)) for value in point]
    assert [value for point in lines["b"] for value in point] == pytest.approx(flat)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"ratios": [0.5, 1.0]}, r"ratio 1.0 is outside \[0, 1\)"),
        ({"groups": ["conv_1"]}, "there is no group 'conv_1'. Did you mean 'conv1'"),
        ({"groups": ["fc3"]}, "'fc3' can't be cut by itself: a model output"),
        ({"evaluate": lambda m: float("nan")}, "higher is better"),
        ({"evaluate": lambda m: None}, "it must return numbers"),
    ],
)
def test_bad_arguments(lenet, images, arguments, words):
    with pytest.raises(InputError, match=words):
        prunus.sensitivity(lenet, images[:1], **{"evaluate": lambda m: 1.0, **arguments})


def test_unknown_metric():
    with pytest.raises(InputError, match="no metric 'scores' was measured. Did you mean 'score'"):
        curves().table(1, metric="scores")
