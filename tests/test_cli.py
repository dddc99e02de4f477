"""The command line, as a user runs it: output, files, and errors of one line."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import prunus
from prunus import cli
from prunus.demo.lenet import LeNet

LENET = "prunus.demo.lenet:LeNet"
SHAPE = ["--input", "1x1x28x28"]


def run(*arguments: str):
    return CliRunner().invoke(cli.app, list(arguments))


def fails(monkeypatch, capsys, *arguments: str) -> str:
    """The one line on stderr with which the command ends, with exit code 2."""
    monkeypatch.setattr(sys, "argv", ["prunus", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("prunus: ") and err.count("\n") == 1 and "Traceback" not in err
    return err


def test_inspect_prints_the_tree_and_the_groups():
    found = run("inspect", LENET, *SHAPE)
    assert found.exit_code == 0
    assert found.output.rstrip().endswith(str(prunus.trace(LeNet(), torch.zeros(1, 1, 28, 28))).strip())
    assert "conv2.weight[0], conv2.bias[0], fc1.weight[1]" in found.output
    assert "├── fc1  Linear\n│   ├── weight [120, conv2:16 * 5 * 5]" in found.output


def test_inspect_as_json_says_the_same():
    told = json.loads(run("inspect", LENET, *SHAPE, "--json").output)
    graph = prunus.trace(LeNet(), torch.zeros(1, 1, 28, 28))
    assert [g["name"] for g in told["groups"] if g["state"] == "can be cut"] == [g.name for g in graph.free]
    assert told["tensors"]["fc1.weight"][1] == graph.format(graph.tensors["fc1.weight"][1])


def test_inspect_draws(tmp_path):
    page, drawing = tmp_path / "groups.html", tmp_path / "groups.svg"
    assert run("inspect", LENET, *SHAPE, "--html", str(page), "--svg", str(drawing)).exit_code == 0
    for text in (page.read_text(), drawing.read_text()):
        assert "conv2" in text and "<svg" in text
    assert "a model output" in page.read_text()


def test_inspect_shows_as_many_levels_as_asked():
    output = run("inspect", "torchvision:resnet18", "-i", "1x3x64x64", "--depth", "1").output
    assert "├── 0.conv1.weight [64, conv1:64, 3, 3]" in output and "BasicBlock" not in output


def test_torchvision_models_have_a_shorthand():
    found = run("profile", "torchvision:resnet18", "-i", "1x3x64x64", "--json", "--no-latency")
    assert found.exit_code == 0, found.output
    assert json.loads(found.output)["parameters"] == 11_689_512  # as torchvision's documentation says


def test_inspect_explains_one_tensor():
    found = run("inspect", LENET, *SHAPE, "--why", "fc1.weight:1")
    assert found.exit_code == 0
    assert found.output.startswith("fc1.weight[1] = conv2:16 * ")


@pytest.mark.skipif(torch.__version__ < "2.7", reason="the timm of that time ties the heads of all blocks")
def test_inspect_explains_a_group_and_a_module():
    group = run("inspect", "timm:test_vit", "-i", "1x3x160x160", "--why", "blocks.0.attn.qkv#2").output
    assert group.startswith("blocks.0.attn.qkv#2 (32): frozen: it sets the scale of scaled_dot_product_attention()")
    module = run("inspect", "timm:test_vit", "-i", "1x3x160x160", "--why", "blocks.0.attn").output
    assert "blocks.0.attn.proj.weight = [" in module and "(2): can be cut\n" in module
    assert "blocks.1" not in module  # its groups are named, not all that they run through


def test_inspect_suggests_close_names(monkeypatch, capsys):
    assert "Did you mean 'fc1.weight'" in fails(monkeypatch, capsys, "inspect", LENET, *SHAPE, "--why", "fc1.wieght")


def test_profile_counts():
    found = run("profile", LENET, *SHAPE, "--json", "--no-latency")
    assert found.exit_code == 0
    told = json.loads(found.output)
    assert told["parameters"] == sum(p.numel() for p in LeNet().parameters()) == 60074
    assert told["latency_ms"] is None
    assert "199,968" in run("profile", LENET, *SHAPE).output


def test_prune_saves_what_prune_makes(tmp_path):
    torch.manual_seed(0)
    dense = LeNet().eval()
    save_file(dense.state_dict(), tmp_path / "dense.safetensors")
    found = run(
        "prune", LENET, *SHAPE, "-w", str(tmp_path / "dense.safetensors"), "--ratio", "0.25",
        "--keep", "conv1", "--round-to", "4", "--out", str(tmp_path / "small"), "--onnx", str(tmp_path / "small.onnx"),
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    assert "proven" in found.output and (tmp_path / "small.onnx").is_file()
    small = prunus.load(tmp_path / "small", LeNet)
    x = torch.randn(3, 1, 28, 28)
    expected = prunus.prune(dense, x, ratio=0.25, keep=["conv1"], round_to=4)
    torch.testing.assert_close(small(x), expected(x), rtol=0, atol=0)
    assert [m.weight.shape[0] for m in small.children()] == [6, 12, 92, 64, 10]


def test_weights_of_torch_save_and_a_model_in_a_file(tmp_path):
    (tmp_path / "net.py").write_text(
        "import torch\n\ndef tiny():\n    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))\n",
        encoding="utf-8",
    )
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
    torch.save(model.state_dict(), tmp_path / "w.pt")
    spec, out = f"{tmp_path / 'net.py'}:tiny", tmp_path / "small"
    found = run("prune", spec, "-i", "2x4", "-w", str(tmp_path / "w.pt"), "--out", str(out))
    assert found.exit_code == 0, found.output
    small = prunus.load(out, lambda: torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)))
    x = torch.randn(5, 4)
    torch.testing.assert_close(small(x), prunus.prune(model, x, ratio=0.5)(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["inspect", "LeNet", *SHAPE], "a model or data is named module:name or file.py:name"),
        (["inspect", "prunus.demo.lenet:Lenet", *SHAPE], "Did you mean 'LeNet'"),
        (["inspect", "torchvision:resnet81", "-i", "1x3x64x64"], "torchvision has no model 'resnet81'. Did you mean"),
        (["inspect", "no_such_package:Net", *SHAPE], "no module 'no_such_package'"),
        (["inspect", "no_such_file.py:Net", *SHAPE], "there is no file no_such_file.py"),
        (["inspect", "torch.nn:Linear", *SHAPE], "name a function that takes no arguments"),
        (["inspect", "prunus.demo.lenet:F", *SHAPE], "name a class or function that builds the model"),
        (["inspect", LENET, "--input", "1x1x28y28"], "isn't a shape: write sizes with x between"),
        (["inspect", LENET, "--input", "1x1x28x28:int46"], "unknown type 'int46' in '1x1x28x28:int46'. Did you mean"),
        (["inspect", LENET, "--input", "1x1x20x20"], "LeNet"),
        (["inspect", LENET, *SHAPE, "--why", "fc1.wight"], "Did you mean 'fc1.weight'"),
        (["inspect", LENET, *SHAPE, "--why", "fc1.weight:x"], "--why takes NAME or NAME:DIM"),
        (["profile", LENET, *SHAPE, "-w", "nothing.pt"], "there is no file nothing.pt"),
        (["inspect", LENET], "Missing option '--input' / '-i'. See prunus inspect --help."),
        (["inspect", LENET, *SHAPE, "--inptu", "3"], "--inptu"),
        (["prune", LENET, *SHAPE, "--ratio", "half"], "Invalid value for '--ratio'"),
        (["pruen", LENET], "No such command 'pruen'"),
        (["export", f"small@{LENET}", "x.onnx", *SHAPE, "-w", "w.pt"], "small holds its own: leave it out"),
        (["export", LENET, "x.pt2", *SHAPE, "--slim"], "--slim are for .onnx and .xml files, not '.pt2'"),
        (["prune", LENET, *SHAPE, "--out", "x", "--ratio", "1.5"], "ratio must be at least 0 and less than 1"),
        (["prune", LENET, *SHAPE, "--out", "x", "--keep", "conv9"], "'conv9', but no group, module or tensor matches"),
        (["prune", LENET, *SHAPE, "--out", "x", "--ratio", "0.001"], "removes nothing"),
    ],
)
def test_errors_are_one_line_with_the_cure(monkeypatch, capsys, tmp_path, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert words in fails(monkeypatch, capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_damaged_or_foreign_weights(monkeypatch, capsys, tmp_path, name):
    (tmp_path / name).write_bytes(b"nothing of the kind")
    words = fails(monkeypatch, capsys, "profile", LENET, *SHAPE, "-w", str(tmp_path / name))
    assert "can't be read as a state dict" in words
    other = {"fc9.weight": torch.zeros(2)}
    torch.save(other, tmp_path / "o.pt")
    words = fails(monkeypatch, capsys, "profile", LENET, *SHAPE, "-w", str(tmp_path / "o.pt"))
    assert "doesn't fit LeNet" in words and "fc9.weight" in words


def test_a_pickled_model_is_not_run(monkeypatch, capsys, tmp_path):
    torch.save(LeNet(), tmp_path / "whole.pt")
    words = fails(monkeypatch, capsys, "profile", LENET, *SHAPE, "-w", str(tmp_path / "whole.pt"))
    assert "save model.state_dict(), not the model" in words


def test_the_demo_does_not_write_over_a_file(monkeypatch, capsys, tmp_path):
    (tmp_path / "out").write_text("mine", encoding="utf-8")
    assert "is a file; give a folder" in fails(monkeypatch, capsys, "demo", "--out", str(tmp_path / "out"))
    assert (tmp_path / "out").read_text(encoding="utf-8") == "mine"


def test_what_ends_well_ends_with_0_and_alone_it_helps(monkeypatch, capsys):
    for arguments in ["--version"], ["prune", "--help"], []:
        monkeypatch.setattr(sys, "argv", ["prunus", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        assert (ended.value.code or 0) == 0 and err == ""
        assert ("prunus " if arguments == ["--version"] else "Usage") in out


def test_the_installed_command_runs_and_help_is_light():
    code = "import sys; from prunus import cli; print([m for m in ('onnxruntime', 'matplotlib') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
    assert all(name in run("--help").output for name in ("inspect", "profile", "prune", "demo"))
