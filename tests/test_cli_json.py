"""Every command: one JSON document alone on stdout with --json, one line and exit code 2 for a mistake, completion."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import prunus
from prunus import cli
from prunus.demo.lenet import LeNet
from prunus.importance import CRITERIA
from prunus.importance.criteria import WITHOUT_DATA

LENET, SHAPE = "prunus.demo.lenet:LeNet", ("-i", "2x1x28x28")
MINE = """
import torch

def batches():
    return [(torch.randn(16, 1, 28, 28), torch.arange(16) % 10)]

def images():
    print("a loader that talks")
    return [torch.randn(16, 1, 28, 28)]

def nothing():
    return []

def broken():
    raise RuntimeError("no such disk")

def score(model):
    return 1.0
"""
TABLE = ("--table", "{}/t.yaml", "--max-drop", "1")
RECIPE = """\
name: tiny
model: prunus.demo.lenet:LeNet
data: prunus.recipes.tasks:digits
data_args: {examples: 64}
stages:
  - train: {epochs: 1}
  - prune: {ratio: 0.5}
"""


def run(*arguments: str):
    return CliRunner().invoke(cli.app, list(map(str, arguments)))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a user's code, weights with zeros, a saved small model, and a recipe."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "mine.py").write_text(MINE)
    (folder / "tiny.yaml").write_text(RECIPE)
    torch.manual_seed(0)
    model = LeNet().eval()
    prunus.save(prunus.prune(model, torch.randn(2, 1, 28, 28)), folder / "small")
    save_file(model.state_dict(), folder / "w.safetensors")
    with torch.no_grad():
        model.conv2.weight[:4] = 0
        model.conv2.bias[:4] = 0
    save_file(model.state_dict(), folder / "zeros.safetensors")
    return folder


COMMANDS = {
    "inspect": (("inspect", LENET, *SHAPE), "groups"),
    "why": (("inspect", LENET, *SHAPE, "--why", "fc1"), "why"),
    "profile": (("profile", LENET, *SHAPE, "--no-latency"), "macs"),
    "roofline": (("profile", LENET, *SHAPE, "--roofline"), "layers"),
    "masks": (("masks", LENET, "-w", "{}/zeros.safetensors"), "parameters"),
    "sensitivity": (
        ("sensitivity", LENET, *SHAPE, "--evaluate", "{}/mine.py:score", "--ratios", "0.5", *TABLE),
        "measurements",
    ),
    "prune": (
        ("prune", LENET, *SHAPE, "-w", "{}/w.safetensors", "-o", "{}/a", "--data", "{}/mine.py:images"),
        "proof",
    ),
    "extract": (("extract", LENET, *SHAPE, "-w", "{}/zeros.safetensors", "-o", "{}/b"), "extraction"),
    "export": (
        ("export", f"{{}}/small@{LENET}", "{}/s.onnx", *SHAPE, "--int8", "{}/q.onnx", "--data", "{}/mine.py:images"),
        1,
    ),
    "bench": (("bench", LENET, f"{{}}/small@{LENET}", *SHAPE, "-r", "eager", "--repeats", "6"), "entries"),
    "report": (("report", LENET, "{}/small", *SHAPE, "--no-onnx", "-o", "{}/r.html"), "tiles"),
    "run": (("run", "{}/tiny.yaml", "-o", "{}/run"), "metrics"),
    "run --list": (("run", "--list"), "lenet-digits"),
    "run --dry-run": (("run", "{}/tiny.yaml", "--dry-run"), 1),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_with_json_stdout_holds_one_document_alone(name, place):
    arguments, key = COMMANDS[name]
    found = run(*(text.format(place) for text in arguments), "--json")
    assert found.exit_code == 0, found.output
    document = json.loads(found.stdout, parse_constant=lambda word: pytest.fail(f"{word} isn't JSON"))
    assert document[key]
    if name == "prune":
        assert "a loader that talks" in found.stderr and document["how"]["importance"] == "auto"
        assert document["parameters"]["before"] == 60_074 and document["proof"]["ok"]


def test_the_demo_too(tmp_path, monkeypatch):
    def job(out, settings, terminal):
        terminal.heading("1  Train")
        print("talk")
        return SimpleNamespace(to_dict=lambda: {"seed": settings.seed, "speed": float("nan")})

    monkeypatch.setattr("prunus.demo.job.run", job)
    found = run("demo", "--out", tmp_path / "out", "--seed", "3", "--json")
    assert json.loads(found.stdout) == {"seed": 3, "speed": None} and "talk" in found.stderr


def test_every_command_has_a_case():
    tested = {arguments[0] for arguments, _ in COMMANDS.values()} | {"demo"}
    assert tested == {command.callback.__name__ for command in cli.app.registered_commands}


NOBODY = "{}/nobody.safetensors"
MISTAKES = {
    "inspect": (("inspect", LENET, *SHAPE, "-w", NOBODY), "there is no file"),
    "profile": (("profile", "{}/mine.py:nothing", *SHAPE), "returned a list, not a torch.nn.Module"),
    "masks": (("masks", LENET, "-w", "{}/w.safetensors"), "has no masks"),
    "sensitivity": (("sensitivity", LENET, *SHAPE, "--evaluate", "{}/mine.py:scroe"), "Did you mean 'score'"),
    "prune": (("prune", LENET, *SHAPE, "-o", "{}/x", "--importance", "taylr"), "Did you mean 'taylor'"),
    "prune, no data": (("prune", LENET, *SHAPE, "-o", "{}/x", "--data", "{}/mine.py:nothing"), "no batch"),
    "prune, bad data": (("prune", LENET, *SHAPE, "-o", "{}/x", "--data", "{}/mine.py:broken"), "no such disk"),
    "prune, mending": (
        ("prune", LENET, *SHAPE, "-o", "{}/x", "--data", "{}/mine.py:batches", "--compensation", "glue"),
        "glue",
    ),
    "extract": (("extract", LENET, *SHAPE, "-o", "{}/x", "--mode", "drpo"), "mode"),
    "export": (("export", LENET, "{}/s.onxx", *SHAPE), "the suffix names the format"),
    "export, INT8": (("export", LENET, "{}/s.pt2", *SHAPE, "--int8", "{}/q.onnx"), "suffix .onnx"),
    "export, data": (("export", LENET, "{}/s2.onnx", *SHAPE, "--data", "{}/mine.py:images"), "--int8"),
    "bench": (("bench", LENET, *SHAPE, "-r", "eagre"), "Did you mean 'eager'"),
    "report": (("report", LENET, "{}/nowhere", *SHAPE), "plan.json can't be read"),
    "run": (("run", "lenet-digit"), "Did you mean"),
    "run, nothing": (("run",), "name a recipe"),
    "demo": (("demo", "--out", "{}/mine.py"), "is a file; give a folder"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_with_exit_code_2(name, place, monkeypatch, capsys):
    arguments, words = MISTAKES[name]
    before = sorted(place.iterdir())
    monkeypatch.setattr(sys, "argv", ["prunus", *(text.format(place) for text in arguments), "--json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    assert ended.value.code == 2 and out == ""
    assert err.startswith("prunus: ") and err.count("\n") == 1 and words in err, err
    assert sorted(path for path in place.iterdir() if path.name != "__pycache__") == before


def test_each_command_has_a_mistake():
    assert {name.partition(",")[0] for name in MISTAKES} == {c.callback.__name__ for c in cli.app.registered_commands}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes(shell, monkeypatch):
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    shown = CliRunner().invoke(cli.app, ["--show-completion", shell], prog_name="prunus")
    assert shown.exit_code == 0 and "_PRUNUS_COMPLETE" in shown.output
    asked = {"_PRUNUS_COMPLETE": "complete_bash", "COMP_WORDS": "prunus pr", "COMP_CWORD": "1"}
    found = CliRunner().invoke(cli.app, [], prog_name="prunus", env=asked)
    assert found.output.split() == ["profile", "prune"]


def test_the_help_of_prune_names_every_criterion_and_which_need_no_data():
    told = " ".join(
        CliRunner(env={"COLUMNS": "400", "TERMINAL_WIDTH": "400"}).invoke(cli.app, ["prune", "--help"]).output.split()
    )
    assert all(name in told for name in CRITERIA)
    model, x = (
        torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 8)).eval(),
        torch.randn(3, 4),
    )
    for name in set(CRITERIA) - set(WITHOUT_DATA):
        with pytest.raises(prunus.InputError, match="data|gradients"):
            prunus.plan(model, x, importance=name)
    for name in WITHOUT_DATA:
        prunus.plan(model, x, importance=name)
