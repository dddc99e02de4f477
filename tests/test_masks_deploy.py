"""Sparse files: lossless, small, safe to read. Sparse kernels: the same outputs, taken only where they are faster."""

from __future__ import annotations

import copy
import gzip
import json
import zlib

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import prune

import prunus
from prunus.demo.lenet import LeNet
from prunus.deploy import acceleration
from prunus.deploy.measure import Latency
from prunus.errors import InputError, PlanError, SaveError


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


@pytest.mark.parametrize("sparsity", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("granularity", ["weight", "filter", "block:4x4"])
def test_sparse_files_are_lossless_and_smaller_than_gzip(tmp_path, sparsity, granularity):
    torch.manual_seed(0)
    model = LeNet()
    prunus.Sparsifier(model).prune(sparsity, "l2", granularity=granularity)
    path = prunus.save_sparse(model, tmp_path / "deep" / "model.safetensors")
    state = prunus.load_sparse(path)
    assert state.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == state[name].dtype and torch.equal(bits(tensor), bits(state[name])), name
    save_file(model.state_dict(), tmp_path / "dense.safetensors")
    dense = (tmp_path / "dense.safetensors").read_bytes()
    assert path.stat().st_size < len(gzip.compress(dense, 9)) < len(dense)
    fresh = LeNet()
    fresh.load_state_dict(state)
    x = torch.randn(2, 1, 28, 28)
    torch.testing.assert_close(fresh(x), model(x), rtol=0, atol=0)


def test_every_type_and_oddity_comes_back_bit_for_bit(tmp_path):
    torch.manual_seed(0)
    sparse = torch.randn(40, 30) * (torch.rand(40, 30) > 0.7)
    odd = torch.zeros(100)
    odd[:4] = torch.tensor([-0.0, float("nan"), float("inf"), 1e-45])
    state = {
        "f32": sparse, "f64": sparse.double(), "f16": sparse.half(), "bf16": sparse.bfloat16(), "odd": odd,
        "i64": (sparse * 9).long(), "bool": sparse > 0, "scalar": torch.tensor(3.0), "none": torch.zeros(0, 3),
        "zero": torch.zeros(50, 50), "last": sparse[:32].view(2, 4, 4, 30).to(memory_format=torch.channels_last),
        "noise": torch.randint(0, 255, (1000,), dtype=torch.uint8),
    }  # fmt: skip
    state["tied"] = state["f32"]
    found = prunus.load_sparse(prunus.save_sparse(state, tmp_path / "s.safetensors"))
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        assert torch.equal(bits(found[name]), bits(tensor)), name
    assert found["tied"] is found["f32"]
    assert found["last"].is_contiguous(memory_format=torch.channels_last)


def test_masks_of_torch_are_applied_and_files_are_not_overwritten(tmp_path):
    model = LeNet()
    prune.l1_unstructured(model.fc1, "weight", amount=0.9)
    path = prunus.save_sparse(model, tmp_path / "a")
    assert torch.equal(prunus.load_sparse(path)["fc1.weight"], model.fc1.weight)
    before = path.read_bytes()
    with pytest.raises(SaveError, match="overwrite=True"):
        prunus.save_sparse(LeNet(), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    prunus.save_sparse(LeNet(), path, overwrite=True)
    with pytest.raises(SaveError, match="'x'"):
        prunus.save_sparse({"x": 3}, tmp_path / "b")
    assert list(tmp_path.iterdir()) == [path]


def damaged(path, change):
    """The file with its entry of fc1.weight, or a part, changed."""
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["prunus_sparse"])
        parts = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(about, parts)
    save_file(parts, path, metadata={"format": "pt", "prunus_sparse": json.dumps(about)})


def bomb(about, parts):
    packed = zlib.compress(bytes(100_000_000), 9)
    about["sparse"]["fc1.weight"][3][0] = len(packed)
    rest = parts["fc1.weight"][-sum(about["sparse"]["fc1.weight"][3][1:]) :]
    parts["fc1.weight"] = torch.cat([torch.frombuffer(bytearray(packed), dtype=torch.uint8), rest])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda about, parts: parts.pop("fc1.weight"), "damaged"),
        (lambda about, parts: about["sparse"]["fc1.weight"].__setitem__(3, [9, 9]), "damaged"),
        (lambda about, parts: about["sparse"]["fc1.weight"].pop(), "damaged"),
        (lambda about, parts: about["sparse"]["fc1.weight"].__setitem__(2, 7), "values by its mask and 7"),
        (lambda about, parts: about["sparse"]["fc1.weight"].__setitem__(0, [-1, 2]), "damaged|has"),
        (lambda about, parts: about["sparse"]["fc1.weight"].__setitem__(1, "object"), "damaged"),
        (lambda about, parts: about.__setitem__("version", 2), "this version"),
        (lambda about, parts: about["aliases"].__setitem__("a", "b"), "damaged"),
        (bomb, "bytes where"),
    ],
)
def test_damaged_files_are_refused(tmp_path, change, words):
    model = LeNet()
    prunus.Sparsifier(model).prune(0.9)
    path = prunus.save_sparse(model, tmp_path / "m")
    damaged(path, change)
    with pytest.raises(SaveError, match=words):
        prunus.load_sparse(path)


def test_files_of_another_kind_are_refused(tmp_path):
    with pytest.raises(SaveError, match="can't be read"):
        prunus.load_sparse(tmp_path / "nothing")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(SaveError, match="can't be read"):
        prunus.load_sparse(tmp_path / "text")
    save_file({"a": torch.zeros(2)}, tmp_path / "plain")
    with pytest.raises(SaveError, match="wasn't written by save_sparse"):
        prunus.load_sparse(tmp_path / "plain")


# ---------------------------------------------------------------- kernels


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 256, bias=False), nn.ReLU(), nn.Linear(256, 3))


class Clock:
    """Instead of ``measure``: the milliseconds that a test decides on, by name of the candidate."""

    def __init__(self, **ms: float) -> None:
        self.ms = ms

    def __call__(self, runners, *, repeats):
        for run in runners.values():
            run()
        return {name: Latency(t := self.ms.get(name, 9.0), t, t, (t,) * repeats) for name in runners}


def test_layers_are_switched_only_where_faster(monkeypatch):
    model, x = mlp(), torch.randn(4, 256)
    prunus.Sparsifier(model, only=["0", "2.weight"]).prune(0.95)
    before, expected = copy.deepcopy(model.state_dict()), model(x).detach()
    monkeypatch.setattr(acceleration, "measure", Clock(dense=2.0, csr=1.0, sparse=1.5))
    fast = prunus.accelerate_sparse(model, x, backend="csr")
    assert [layer.chosen for layer in fast.layers] == ["csr", "csr", "dense"]
    assert fast.layers[2].reason == "no zeros" and fast.layers[0].sparsity == pytest.approx(0.95, abs=0.03)
    assert isinstance(fast.model[0], acceleration.SparseLinear) and type(fast.model[4]) is nn.Linear
    torch.testing.assert_close(fast.model(x), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fast.model(x.view(2, 2, 256)), expected.view(2, 2, 3), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(copy.deepcopy(fast.model)(x), expected, rtol=1e-4, atol=1e-5)
    assert all(type(m) is nn.Linear for m in model[::2]) and model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert "csr 1.000 ms" in str(fast) and "1.33x" in str(fast)

    monkeypatch.setattr(acceleration, "measure", Clock(dense=1.0, csr=1.0))
    slow = prunus.accelerate_sparse(model, x, backend="csr")
    assert [layer.chosen for layer in slow.layers] == ["dense"] * 3
    assert slow.layers[0].crossover is None and slow.layers[0].reason == "not faster"

    monkeypatch.setattr(acceleration, "measure", Clock(dense=2.0, csr=1.0, sparse=3.0))
    whole = prunus.accelerate_sparse(model, x, backend="csr")
    assert [layer.chosen for layer in whole.layers] == ["dense"] * 3 and "within the whole model" in whole.layers[
        0
    ].reason
    assert all(type(m) is nn.Linear for m in whole.model[::2]) and whole.sparse == whole.dense


def test_the_crossover_is_searched_by_halves(monkeypatch):
    """A kernel that needs ten times its share of the weights pays off from 90 %, strictly."""

    def clock(runners, *, repeats):
        found = {}
        for name, run in runners.items():
            module = run.__closure__ and next(
                c.cell_contents for c in run.__closure__ if isinstance(c.cell_contents, nn.Module)
            )
            sparse = isinstance(module, acceleration.SparseLinear)
            t = 10 * module.weight.values().numel() / module.weight.numel() if sparse else 1.0
            found[name] = Latency(t, t, t, (t,) * repeats)
        return found

    monkeypatch.setattr(acceleration, "measure", clock)
    found = acceleration._crossover((64, 64), [torch.randn(2, 64)], 6)
    assert found in (0.9, 0.95)  # 409.6 weights at 90 %: a few more or fewer, by chance


def test_blocks_of_zeros_become_bsr():
    model = nn.Sequential(nn.Linear(128, 64))
    prunus.Sparsifier(model).prune(0.75, granularity="block:16x16")
    x = torch.randn(3, 128)
    fast = acceleration._bsr(model[0])
    assert fast.weight.layout == torch.sparse_bsr and fast.weight.values().shape[1:] == (16, 16)
    torch.testing.assert_close(fast(x), model(x).detach(), rtol=1e-4, atol=1e-5)
    scattered = nn.Linear(128, 64)
    prunus.Sparsifier(scattered).prune(0.75)
    assert acceleration._bsr(scattered) is None


def test_measured_for_real_the_choice_is_consistent():
    model, x = mlp(), torch.randn(16, 256)
    prunus.Sparsifier(model, only=["0", "2"]).prune(0.9)
    fast = prunus.accelerate_sparse(model, x, repeats=7)
    for layer in fast.layers:
        if layer.chosen != "dense":
            assert layer.sparse[layer.chosen].median_ms < layer.dense.median_ms
    torch.testing.assert_close(fast.model(x), model(x), rtol=1e-4, atol=1e-5)
    assert len(str(fast).splitlines()) == 7


def test_models_that_read_a_layers_weight_are_left_or_refused(monkeypatch):
    monkeypatch.setattr(acceleration, "measure", Clock(dense=2.0, csr=1.0, sparse=1.5))
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model, x = nn.Sequential(layer, nn.Linear(16, 16)).eval(), torch.randn(2, 5, 16)
    prunus.Sparsifier(model, only=["0.linear1.weight", "1.weight"]).prune(0.5)
    fast = prunus.accelerate_sparse(model, x)
    assert [found.name for found in fast.layers] == ["1"] and fast.layers[0].chosen == "csr"
    torch.testing.assert_close(fast.model(x), model(x), rtol=1e-4, atol=1e-5)

    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(8, 8)

        def forward(self, x):
            return self.a(x) + x * self.a.weight[0]

    model = Reads()
    prunus.Sparsifier(model).prune(0.5)
    with pytest.raises(PlanError, match="uses the weight of a linear layer by itself"):
        prunus.accelerate_sparse(model, torch.randn(2, 8))


def test_errors_of_acceleration():
    with pytest.raises(InputError, match="Did you mean 'csr'"):
        prunus.accelerate_sparse(mlp(), torch.randn(2, 256), backend="csrr")
    with pytest.raises(InputError, match=r"no torch.nn.Linear of Sequential ran"):
        prunus.accelerate_sparse(nn.Sequential(nn.Conv2d(1, 1, 1)), torch.randn(1, 1, 4, 4))
