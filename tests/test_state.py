"""A model that changes itself in forward comes back as it was given."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.state import restored, untouched


class Counter:
    def __init__(self) -> None:
        self.calls = 0


class Counting(nn.Module):
    """Keeps a running mean by hand, and counts in every way there is."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 4)
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.same = [self.steps]  # reached by another way
        self.kept: dict[str, Tensor] = {"sum": torch.zeros(8)}
        self.calls, self.log, self.counter = 0, [{"n": 0}], Counter()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.mean.mul_(0.9).add_(0.1 * x.mean(0))
        exporting = torch.compiler.is_compiling()  # torch.export knows buffers by their names alone
        (self.steps if exporting else self.same[0]).add_(1)
        if not exporting:
            self.kept["sum"] += 1
        self.calls += 1
        self.counter.calls += 1
        self.log[0]["n"] += 1
        self.log.append({"n": 0})
        self.seen = x
        return self.last(torch.relu(self.first(x - self.mean))), self.steps


def told(model: Counting) -> dict[str, Any]:
    """All that forward changes, and which objects hold it."""
    values = {"mean": model.mean.tolist(), "steps": int(model.steps), "sum": model.kept["sum"].tolist()}
    objects = [id(each) for each in (model.mean, model.steps, model.same[0], model.kept["sum"], model.log[0])]
    plain = {"calls": model.calls, "counter": model.counter.calls, "log": copy.deepcopy(model.log)}
    return {**values, **plain, "objects": objects, "seen": hasattr(model, "seen"), "training": model.training}


def test_telling_notices_a_call() -> None:
    model = Counting()
    before = told(model)
    model(torch.randn(4, 8))
    after = told(model)
    assert [key for key in before if before[key] != after[key]] == [
        *("mean", "steps", "sum", "calls", "counter", "log", "seen")
    ]


def test_outputs_keep_their_values() -> None:
    model, before = Counting(), told(Counting())
    with untouched(model):
        model(torch.randn(4, 8))
        _, steps = model(torch.randn(4, 8))
        assert model.mean.ne(0).all() and model.calls == 2
    assert int(steps) == 2 and int(model.steps) == 0
    assert told(model).keys() == before.keys() and told(model)["calls"] == 0


def test_what_is_restored_has_its_buffers_themselves() -> None:
    model = Counting()
    with restored(model):
        held = model.mean
        model(torch.randn(4, 8))
        assert held is model.mean and held.ne(0).any()
    assert model.calls == 0 and not model.kept["sum"].any()


def test_memory_shared_with_a_parameter_stays_shared() -> None:
    model = nn.Linear(4, 4)
    model.register_buffer("view", model.weight.data[0])
    with untouched(model):
        assert model.view.data_ptr() == model.weight.data_ptr()


def score(model: nn.Module) -> float:
    return 1.0


TOOLS = {
    "trace": lambda model, x, folder: prunus.trace(model, x),
    "prune": lambda model, x, folder: prunus.prune(model, x),
    "prune with data": lambda model, x, folder: prunus.prune(model, x, data=[x]),
    "profile": lambda model, x, folder: prunus.profile(model, x, repeats=1),
    "bench": lambda model, x, folder: prunus.bench({"it": model}, x, runtimes=["eager"], repeats=6, memory=False),
    "onnx": lambda model, x, folder: prunus.export(model, x, folder / "it.onnx"),
    "pt2": lambda model, x, folder: prunus.export(model, x, folder / "it.pt2"),
    "quantize": lambda model, x, folder: prunus.quantize_torch(model),
    "accelerate": lambda model, x, folder: prunus.accelerate_sparse(model, x, repeats=6),
    "sensitivity": lambda model, x, folder: prunus.sensitivity(model, x, evaluate=score),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tool", TOOLS)
def test_no_tool_changes_the_model_it_is_given(tool: str, tmp_path) -> None:
    if tool == "quantize":
        pytest.importorskip("torchao")
    model, x = Counting(), torch.randn(4, 8)
    before = told(model)
    TOOLS[tool](model, x, tmp_path)
    assert told(model) == before


class Frozen(OrderedDict[str, int]):
    """A config that refuses to be updated, as those of diffusers do."""

    def update(self, *args: object, **kwargs: object) -> None:
        raise TypeError("frozen")


def test_a_config_that_refuses_changes_is_left_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    model.settings = Frozen(width=8)
    small = prunus.prune(model, torch.randn(2, 4), ratio=0.5)
    assert small[0].out_features == 4 and dict(model.settings) == {"width": 8}
