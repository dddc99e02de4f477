"""Folders that earlier versions of prunus saved load for ever: one for each schema of the plan, in tests/golden.

Each folder's metrics hold what its model computed when it was saved. A new schema gets a folder of its own:
`python -m tests.test_golden` writes those that are missing, and never touches one that is there.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import prunus
from prunus.plan import SCHEMA

GOLDEN = Path(__file__).parent / "golden"
X = torch.linspace(-1, 1, 2 * 3 * 8 * 8).view(2, 3, 8, 8)


class Residual(nn.Sequential):
    def forward(self, input):
        return input + super().forward(input)


class Net(nn.Module):
    """Of the simplest layers; golden files depend on it: never change it."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.block = Residual(nn.Conv2d(4, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1))
        self.fc = nn.Linear(4, 5)
        self.register_buffer("gain", torch.linspace(0.5, 1.5, 4), persistent=False)

    def forward(self, x):
        return self.fc(self.block(self.norm(self.conv(x))).mean((2, 3)) * self.gain)


class Mix(nn.Module):
    """For heads; golden files depend on it: never change it."""

    def __init__(self):
        super().__init__()
        self.conv, self.mix, self.fc = nn.Conv2d(3, 8, 4, 4), nn.MultiheadAttention(8, 4), nn.Linear(8, 5)

    def forward(self, x):
        x = self.conv(x).flatten(2).permute(2, 0, 1)
        return self.fc((x + self.mix(x, x, x, need_weights=False)[0]).mean(0))


def cut():
    return prunus.prune(Net().eval(), X, ratio=0.5)


def extracted():
    """Adds biases and spreads a layer."""
    masked = Net().eval()
    for layer, dead in ((masked.conv, [1]), (masked.block[0], [0, 2]), (masked.block[2], [1, 3])):
        layer.weight.data[dead] = 0
        layer.bias.data[dead] = 0
    return prunus.extract(masked, X)


def shortened():
    net = Net().eval()
    return prunus.drop_blocks(net, X, blocks="block").apply(net)


def freed():
    """Heads go from an attention whose width stays."""
    return prunus.prune(prunus.free_heads(Mix().eval()), X, ratio={"mix": 0.5})


MAKERS = {1: cut, 2: extracted, 3: shortened, 4: freed}


def output(model):
    with torch.no_grad():
        return model(X)


@pytest.mark.parametrize("schema", MAKERS)
def test_what_was_saved_then_computes_the_same_now(schema):
    folder = GOLDEN / f"schema-{schema}"
    document = json.loads((folder / "plan.json").read_text())
    assert document["plan"]["schema"] == schema
    loaded = prunus.load(folder, Mix if schema == 4 else Net)
    expected = torch.tensor(document["metrics"]["output"])
    torch.testing.assert_close(output(loaded), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(AssertionError):  # the comparison can fail
        torch.testing.assert_close(output(loaded) + 1e-4, expected, rtol=1e-5, atol=1e-6)


def test_every_schema_has_its_folder():
    assert set(MAKERS) == set(range(1, SCHEMA + 1))


def main():
    for schema, make in MAKERS.items():
        folder = GOLDEN / f"schema-{schema}"
        if not folder.exists():
            torch.manual_seed(schema)
            small = make()
            prunus.save(small, folder, metrics={"output": output(small).tolist()})


if __name__ == "__main__":
    main()
