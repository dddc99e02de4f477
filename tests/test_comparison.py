"""The page about a large model and the small one made of it."""

from __future__ import annotations

import re

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import prunus
from prunus import cli
from prunus.comparison import compare
from prunus.demo.lenet import LeNet
from prunus.errors import InputError
from prunus.report.language import speaker, translated

X = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def pair() -> tuple[LeNet, torch.nn.Module]:
    torch.manual_seed(0)
    dense = LeNet().eval()
    return dense, prunus.prune(dense, X, ratio=0.5)


def test_the_report_tells_both_sides(pair) -> None:
    asked = []

    def evaluate(model: torch.nn.Module) -> float:
        asked.append(sum(p.numel() for p in model.parameters()))
        return float(asked[-1])

    page = compare(*pair, X, evaluate=evaluate, onnx=False, repeats=6)
    small = sum(p.numel() for p in pair[1].parameters())
    assert asked[0] == 60_074 and asked[1] == small
    by_title = {section.title: section for section in page.sections}
    assert by_title["Before and after"].tables[0].rows[0][1:3] == ("60,074", f"{small:,}")
    assert "differ from the masked original" in by_title["The proof"].text[0]
    rows = by_title["What a cut would cost"].tables[0].rows
    halved = next(row for row in rows if row[0] == "50%")
    assert float(halved[3]) == small and halved[1] == f"{small / 60_074:.1%}"


def test_weights_that_were_trained_since_are_told_apart(pair) -> None:
    dense, small = pair
    trained = prunus.plan(dense, X, ratio=0.5).apply(dense)
    with torch.no_grad():
        trained.fc3.bias += 1
    texts = [
        next(s for s in compare(dense, model, X, onnx=False, repeats=6).sections if s.title == "The proof").text[0]
        for model in (small, trained)
    ]
    assert "were changed since the cut" not in texts[0] and "were changed since the cut" in texts[1]


def test_a_model_without_a_plan_is_refused(pair) -> None:
    with pytest.raises(InputError, match="carries no plan"):
        compare(pair[0], pair[0], X)


def test_translation_keeps_every_number_in_its_place() -> None:
    say = speaker("zh-CN")
    assert (
        say("12.5% of the parameters and 7.0% of the multiply-accumulates are left.")
        == "剩下 12.5% 的参数和 7.0% 的乘加。"
    )
    assert say("torch, batch 64") == "torch，批大小 64"
    assert say("conv1") == "conv1"


def test_an_unknown_language_is_refused(pair) -> None:
    page = compare(*pair, X, onnx=False, repeats=6)
    with pytest.raises(InputError, match="no report in 'zh'.*zh-CN"):
        translated(page, "zh")
    assert translated(page, "zh-CN").title == "变小了的 LeNet"


def test_a_mistake_is_told_before_anything_is_measured(monkeypatch) -> None:
    monkeypatch.setattr("prunus.comparison.compare", lambda *_, **__: pytest.fail("measured"))
    for wrong, words in (["--language", "zh"], "no report in 'zh'"), (["--sensitivity"], "with --evaluate"):
        found = CliRunner().invoke(cli.app, ["report", "prunus.demo.lenet:LeNet", "nowhere", "-i", "2x1x28x28", *wrong])
        assert isinstance(found.exception, InputError) and words in str(found.exception)


def test_sensitivity_is_drawn_where_it_was_measured(pair, monkeypatch) -> None:
    def evaluate(model: torch.nn.Module) -> float:
        return float(sum(p.numel() for p in model.parameters()))

    monkeypatch.setattr("prunus.comparison.CURVES", 2)
    curves = prunus.sensitivity(pair[0], X, evaluate=evaluate, ratios=(0.5,))
    page = translated(compare(*pair, X, onnx=False, repeats=6, curves=curves), "zh-CN")
    section = next(section for section in page.sections if section.title == "哪一层能少多少？")
    assert section.text == ["每个组单独剪，不修补，不训练；图中是损失最大的 2 个。"]
    left = {group: float(metric) for group, _, metric in section.tables[0].rows}
    assert len(left) == len(curves.sizes) and all(share == "0.5" for _, share, _ in section.tables[0].rows)
    drawn = {group for group in left if f">{group}<" in section.figures[0] or f"<!-- {group} -->" in section.figures[0]}
    assert drawn == set(sorted(left, key=left.get)[:2])


def test_from_the_shell(pair, tmp_path) -> None:
    save_file(pair[0].state_dict(), tmp_path / "dense.safetensors")
    prunus.save(pair[1], tmp_path / "small")
    arguments = ["report", "prunus.demo.lenet:LeNet", str(tmp_path / "small"), "-i", "2x1x28x28", "--no-onnx"]
    arguments += [
        "-w",
        str(tmp_path / "dense.safetensors"),
        "--out",
        str(tmp_path / "page.html"),
        "--language",
        "zh-CN",
    ]
    found = CliRunner().invoke(cli.app, arguments)
    assert found.exit_code == 0, found.output
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert '<html lang="zh-CN">' in page and "剪枝前后" in page and not re.search(r"(src|href)=.https?:", page)
