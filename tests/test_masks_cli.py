"""``prunus masks`` as a user runs it, and the counts that it prints."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import prune
from typer.testing import CliRunner

import prunus
from prunus import cli
from prunus.demo.lenet import LeNet
from prunus.errors import InputError
from prunus.masks.inspection import zero_units, zeros

LENET = "prunus.demo.lenet:LeNet"


def masked() -> LeNet:
    torch.manual_seed(0)
    model = LeNet()
    prunus.Sparsifier(model, only=["conv2"]).prune(0.25, "l2", granularity="filter")
    prunus.Sparsifier(model, only=["fc1.weight"]).prune(0.1, "l1", granularity="channel")
    prunus.Sparsifier(model, only=["fc2.weight"]).prune(granularity="2:4")
    return model


def test_zeros_are_counted_by_hand():
    mask = torch.ones(4, 6, dtype=torch.bool)
    mask[0] = False
    mask[1:, :2] = False
    counted = {kind: zero_units(mask, kind) for kind in ("weight", "row", "column", "block:2x2", "vector:4")}
    assert counted["weight"] == (12, 24)
    assert counted["row"] == (1, 4) and counted["column"] == (2, 6)
    assert counted["block:2x2"] == (2, 6) and counted["vector:4"] == (2, 8)
    assert zero_units(torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]]).bool(), "2:4") == (1, 2)


def test_a_models_zeros():
    found = {parameter.name: parameter for parameter in zeros(masked())}
    assert found["conv2.weight"].units["filter"] == (4, 16) and found["conv2.weight"].units["kernel"] == (24, 96)
    assert found["fc1.weight"].units["channel"] == (40, 400)
    assert found["fc2.weight"].two_of_four and not found["fc1.weight"].two_of_four
    assert found["fc2.weight"].share("weight") == 0.5
    with pytest.raises(InputError, match="no weight of Linear is zero"):
        zeros(nn.Linear(3, 3))


@pytest.mark.parametrize("form", ["zeros.safetensors", "torch_prune.pt"])
def test_the_command(tmp_path, form):
    if form.startswith("zeros"):
        save_file(masked().state_dict(), tmp_path / form)
    else:
        model = LeNet()
        prune.ln_structured(model.conv2, "weight", amount=0.25, n=2, dim=0)
        torch.save(model.state_dict(), tmp_path / form)
    told = CliRunner().invoke(cli.app, ["masks", LENET, "-w", str(tmp_path / form)])
    assert told.exit_code == 0, told.output
    assert "conv2.weight: 4 of 16 filters" in told.output and "prunus extract" in told.output
    line = next(line for line in told.output.splitlines() if line.startswith("conv2.weight"))
    weight, _, _, kernel, *_, filters, two_of_four = line.split()[2:]
    assert (weight, kernel, filters, two_of_four) == ("25.0%", "25.0%", "25.0%", "no")
    as_json = CliRunner().invoke(cli.app, ["masks", LENET, "-w", str(tmp_path / form), "--json"])
    units = {entry["name"]: entry["units"] for entry in json.loads(as_json.output)["parameters"]}
    assert units["conv2.weight"]["filter"] == {"zero": 4, "of": 16}


def test_the_command_with_an_input_times_sparse_kernels(tmp_path):
    save_file(masked().state_dict(), tmp_path / "w.safetensors")
    told = CliRunner().invoke(cli.app, ["masks", LENET, "-w", str(tmp_path / "w.safetensors"), "-i", "4x1x28x28"])
    assert told.exit_code == 0, told.output
    assert "of 3 layers switched" in told.output and "pays off from" in told.output
    assert "Extracted: parameters 60,074 -> " in told.output


def test_without_zeros_it_says_what_to_do(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["prunus", "masks", LENET])
    with pytest.raises(SystemExit):
        cli.main()
    assert "no weight of LeNet is zero" in capsys.readouterr().err
