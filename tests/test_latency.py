"""Latency as a cost: a clock of our own, so that nothing here is timed."""

from __future__ import annotations

import itertools
import json

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import prunus
from prunus.deploy.latency import Backend, Layer
from prunus.deploy.latency.table import LatencyTable
from prunus.errors import InputError


def macs(layer: Layer) -> float:
    """What the layer's module multiplies, by hand."""
    x, weight = layer.shapes[:2]
    if layer.kind == "product":
        return np.prod(x) * weight[-1]
    assert layer.kind == "convolution"
    return np.prod(weight) * x[0] * x[2] * x[3]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 32, 3, padding=1)
        self.b = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.c = nn.Conv2d(32, 48, 1)
        self.d = nn.Linear(48, 10)

    def forward(self, x):
        return self.d(self.c(self.b(self.a(x).relu()).relu()).relu().mean((2, 3)))


X = torch.zeros(2, 3, 8, 8)


class Counting(Backend):
    """A machine whose time is the multiplications, and which can be asked how often it was."""

    name = "counting"

    def __init__(self, slower: float = 1.0):
        self.slower, self.layers = slower, []

    def runner(self, model, args, kwargs):
        return lambda: None

    def layer(self, layer):
        self.layers.append(layer)
        return lambda: None


class Clockwork(prunus.Runtime):
    """A runtime with the clock of :class:`Counting` in the place of a real one."""

    def cost(self, graph):
        return LatencyTable(graph, lambda layer: self._timed(layer), 1e-3 * self._whole_macs(graph.model), 1)

    def _timed(self, layer):
        self.backend.layer(layer)
        return 1e-3 * macs(layer)

    def _whole_macs(self, model):
        return prunus.profile(model, X, latency=False).macs

    def compare(self, dense, small, args, kwargs=None):
        """Small models take ``slower`` times what their arithmetic says."""
        whole = [1e-3 * self._whole_macs(model) for model in (dense, small)]
        return whole[0], whole[1] * self.backend.slower


def test_between_measured_sizes_the_table_is_right_for_what_is_bilinear():
    graph = prunus.trace(Net().eval(), X)
    table = Clockwork(Counting(), cache=None).cost(graph)
    assert table.share == pytest.approx(1)
    free = {g.name: g.atom for g in graph.free}
    for a, c in itertools.product((32, 29, 12, 5), (48, 31, 7)):
        counts = {free["a"] if "a" in free else free["b"]: np.array([a]), free["c"]: np.array([c])}
        by_hand = 1e-3 * 2 * (64 * (a * 27 + a * 9 + a * c) + c * 10)
        assert table(counts, 1)[0] == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize("slower", [1.0, 1.3, 0.8])
def test_a_plan_is_corrected_by_the_whole_models_time(slower):
    torch.manual_seed(0)
    model = Net().eval()
    runtime = Clockwork(Counting(slower), cache=None)
    for budget in ({"latency": "50%"}, {"latency": "0.06 s"}):
        plan = prunus.plan(model, X, budget=budget, runtime=runtime)
        told = plan.how["latency"]
        assert 0.9 < told["measured_ms"] / told["limit_ms"] <= 1.02
        small = 1e-3 * prunus.profile(plan.apply(model), X, latency=False).macs
        assert told["measured_ms"] == pytest.approx(small * slower)
        assert told["error"] == pytest.approx(1 / slower - 1, rel=1e-3, abs=1e-6)
        assert told["limit_ms"] == (told["dense_ms"] / 2 if "50%" in str(budget) else 60)


@pytest.mark.parametrize("power", [0.6, 1.5])
def test_a_time_that_bends_is_met_by_the_secant(power):
    """Small models don't gain what their arithmetic says, but a power of it: one factor never gets there."""

    class Bent(Clockwork):
        def compare(self, dense, small, args, kwargs=None):
            whole, part = (1e-3 * self._whole_macs(model) for model in (dense, small))
            return whole, whole * (part / whole) ** power

    torch.manual_seed(0)
    plan = prunus.plan(Net().eval(), X, budget={"latency": "50%"}, runtime=Bent(Counting(), cache=None))
    told = plan.how["latency"]
    assert 0.95 <= told["measured_ms"] / told["limit_ms"] <= 1.02
    assert 1 < told["timed"] <= 4


def test_what_cannot_be_reached_is_said():
    runtime = Clockwork(Counting(1000.0), cache=None)
    with pytest.raises(prunus.PlanError, match="too little is free to be cut for latency"):
        prunus.plan(Net().eval(), X, budget={"latency": "0.01 ms"}, runtime=runtime)
    rows = {row.unit: row for row in prunus.feasibility(Net().eval(), X, runtime=runtime).rows}
    assert rows["latency"].now == pytest.approx(1e-3 * rows["macs"].now)


def test_layers_are_timed_once_and_kept_on_disk(tmp_path):
    graph = prunus.trace(Net().eval(), X)
    backend = Counting()
    runtime = prunus.Runtime(backend, cache=tmp_path, layer_ms=0)
    runtime.cost(graph)
    keys = [layer.key for layer in backend.layers]
    assert len(keys) == len(set(keys)) > 10
    (file,) = tmp_path.iterdir()
    assert file.name.startswith("counting-") and set(json.loads(file.read_text())) == set(keys)
    again = Counting()
    prunus.Runtime(again, cache=tmp_path, layer_ms=0).cost(graph)
    assert again.layers == []
    again.version = lambda: "another"
    prunus.Runtime(again, cache=tmp_path, layer_ms=0).cost(graph)
    assert len(again.layers) == len(keys)


LAYERS = [
    Layer(
        "convolution",
        ((2, 6, 9, 9), (8, 3, 3, 3)),
        (("stride", (2, 2)), ("padding", (1, 1)), ("dilation", (1, 1)), ("output_padding", (0, 0))),
    ),
    Layer(
        "transposed convolution",
        ((2, 6, 5, 5), (6, 4, 2, 2)),
        (("stride", (2, 2)), ("padding", (0, 0)), ("dilation", (1, 1)), ("output_padding", (0, 0))),
    ),
    Layer("product", ((2, 7, 5), (5, 4))),
    Layer("attention", ((2, 3, 7, 4), (2, 3, 6, 4), (2, 3, 6, 5))),
]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.kind)
def test_a_layer_is_the_same_work_in_torch_and_in_onnx(layer):
    module, inputs = layer.module()
    with torch.no_grad():
        expected = module(*inputs)
    session = onnxruntime.InferenceSession(layer.onnx(), providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    found = session.run(None, {name: value.numpy() for name, value in zip(names, inputs, strict=True)})[0]
    assert found.shape == tuple(expected.shape)


def test_real_runtimes_time_a_layer_and_a_model():
    for name in ("onnx", "torch"):
        runtime = prunus.Runtime(name, cache=None, repeats=6, layer_ms=0)
        assert runtime.time(Net().eval(), X) > 0
        assert all(runtime._layer(layer) > 0 for layer in LAYERS)


def test_unknown_runtimes_are_refused():
    with pytest.raises(InputError, match="no runtime 'onxx'. Did you mean 'onnx'"):
        prunus.Runtime("onxx")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="there is no CUDA device here"):
            prunus.Runtime("cuda")
