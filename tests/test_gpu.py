"""What only a CUDA device can show. `pytest -m gpu`; deselected by `make test`, which must pass without one."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import prunus
from benchmarks.zoo.case import randomize
from prunus import masks
from prunus.deploy.measure import Ratio
from prunus.train import fit, regularizers

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def net() -> nn.Module:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=10).eval()
    randomize(model)
    return model


def images(device: str = "cuda") -> torch.Tensor:
    return torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1)).to(device)


def test_a_model_on_the_gpu_stays_there_and_is_cut_as_on_the_cpu() -> None:
    there = net().cuda()
    small = prunus.prune(there, images(), ratio=0.5)
    here = prunus.prune(net(), images("cpu"), ratio=0.5)
    assert small.prunus_plan.kept == here.prunus_plan.kept
    assert {p.device.type for p in small.parameters()} == {"cuda"}
    torch.testing.assert_close(small(images()).cpu(), here(images("cpu")), rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(small.double()(images().double()).cpu(), here.double()(images("cpu").double()))


def test_the_random_state_of_the_gpu_is_left_as_it_was() -> None:
    model = net().cuda()
    before = torch.cuda.get_rng_state()
    prunus.prune(model, images(), ratio=0.5)
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_a_model_on_the_cpu_wakes_no_gpu() -> None:
    work = (
        "import torch, prunus; model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)); "
        "prunus.prune(model, torch.randn(2, 4)); assert not torch.cuda.is_initialized()"
    )
    subprocess.run([sys.executable, "-c", work], check=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_stays(dtype: torch.dtype) -> None:
    model = net().cuda().to(dtype)
    small = prunus.prune(model, images().to(dtype), ratio=0.5)
    assert {p.dtype for p in small.parameters()} == {dtype}
    assert small(images().to(dtype)).isfinite().all()


def test_it_trains_there_and_ends_there() -> None:
    from prunus.train import fit

    small = prunus.prune(net().cuda(), images(), ratio=0.5)
    before = copy.deepcopy(small.state_dict())
    data = TensorDataset(torch.randn(32, 3, 64, 64), torch.randint(10, (32,)))
    history = fit(small, DataLoader(data, batch_size=16), epochs=1, seed=0)
    assert history.epochs[0].loss > 0
    assert {p.device.type for p in small.parameters()} == {"cuda"}
    assert any(not torch.equal(before[k], v) for k, v in small.state_dict().items())


def test_saved_from_the_gpu_loaded_and_exported(tmp_path: Path) -> None:
    small = prunus.prune(net().cuda(), images(), ratio=0.5)
    prunus.save(small, tmp_path / "small")
    loaded = prunus.load(tmp_path / "small", lambda: torchvision.models.resnet18(num_classes=10)).eval()
    for (name, a), b in zip(small.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert torch.equal(a.cpu(), b.cpu()), name
    prunus.export(small, images(), tmp_path / "small.onnx")
    assert {p.device.type for p in small.parameters()} == {"cuda"}


def test_latency_is_measured_there() -> None:
    model = net().cuda()
    profile = prunus.profile(model, images())
    assert profile.latency_ms is not None


def test_compiled_it_computes_the_same() -> None:
    small = prunus.prune(net().cuda(), images(), ratio=0.5)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(small)(images()), small(images()), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_two_of_four_computes_the_same_and_is_chosen_only_if_faster(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2048, 8192), nn.ReLU(), nn.Linear(8192, 2048), nn.ReLU(), nn.Linear(2048, 10))
    prunus.Sparsifier(model, only=["0.weight", "2.weight"]).prune(granularity="2:4")
    model = model.to("cuda", dtype).eval()
    x = torch.randn(4096, 2048, device="cuda", dtype=dtype)
    fast = prunus.accelerate_sparse(model, x)
    print(fast)
    assert [set(layer.sparse) for layer in fast.layers] == [{"2:4"}, {"2:4"}, set()]  # measured, not refused
    for layer in fast.layers[:2]:
        assert layer.chosen == "dense" or layer.sparse["2:4"].median_ms < layer.dense.median_ms
    with torch.inference_mode():
        found, expected = fast.model(x), model(x)
    assert float((found - expected).abs().max()) <= 2e-2 * float(expected.abs().max())


def test_a_layer_that_takes_the_two_of_four_kernel_runs_in_the_whole_model(monkeypatch):
    from prunus.deploy import acceleration

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 512))
    prunus.Sparsifier(model).prune(granularity="2:4")
    model = model.to("cuda", torch.bfloat16).eval()
    x = torch.randn(128, 512, device="cuda", dtype=torch.bfloat16)
    monkeypatch.setattr(acceleration, "speedup", lambda dense, sparse: Ratio(2.0, 2.0, 2.0))  # whatever it takes
    fast = prunus.accelerate_sparse(model, x)
    assert [layer.chosen for layer in fast.layers] == ["2:4", "2:4"]
    with torch.inference_mode():
        found, expected = fast.model(x), model(x)
    assert float((found - expected).abs().max()) <= 2e-2 * float(expected.abs().max())


def test_weights_without_the_pattern_stay_dense():
    model = nn.Sequential(nn.Linear(256, 256)).to("cuda", torch.float16)
    prunus.Sparsifier(model).prune(0.5, "random")
    fast = prunus.accelerate_sparse(model, torch.randn(64, 256, device="cuda", dtype=torch.float16))
    assert fast.layers[0].chosen == "dense" and not fast.layers[0].sparse


@pytest.mark.parametrize("importance", sorted(masks.CRITERIA))
def test_criteria_and_masks_on_the_device(importance):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 4))
    data = [(torch.randn(6, 4, 4, 4), torch.arange(6) % 4) for _ in range(2)]  # batches follow the model's device
    on_cpu = prunus.Sparsifier(model)
    twin = prunus.Sparsifier(copy.deepcopy(model).cuda())
    on_cpu.prune(0.5, importance, data=data)
    twin.prune(0.5, importance, data=data)
    assert twin.sparsity == on_cpu.sparsity and twin.masks["0.weight"].is_cuda
    if importance != "random":
        same = [(twin.masks[n].cpu() == m).float().mean() for n, m in on_cpu.masks.items()]
        assert min(same) > 0.98  # TF32 and other orders of summation move a few scores


def test_sparsegpt_on_the_device():
    model = nn.Sequential(nn.Linear(64, 32)).cuda()
    sparse = masks.sparsegpt(prunus.Sparsifier(model), 0.5, data=[torch.randn(128, 64)], loss=lambda m, b: m(b))
    assert sparse.sparsity == 0.5 and int((model[0].weight == 0).sum()) == 1024


def test_masks_follow_a_model_that_fit_moves():
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    sparse = prunus.Sparsifier(model).prune(0.5)
    data = [[torch.randn(8, 8), torch.arange(8) % 4] for _ in range(3)]
    hooks = (
        *(sparse, masks.SET(sparse, every=1), masks.RigL(sparse, every=1, end=9)),
        *(masks.SRSTE(sparse), masks.Movement(sparse, 0.5, end=2), masks.SoftFilter(sparse, 0.5)),
        masks.Gradual(sparse, 0.5, end=1, initial=0.0),
    )
    for hook in hooks:
        fit(model, data, epochs=1, hooks=[hook])
        assert model[0].weight.device.type == "cpu"
        sparse.enforce()
        assert sparse.sparsity == 0.5 and all(int((w != 0).sum()) <= int(m.sum()) for w, m in _pairs(sparse))


REGULARIZERS = {
    "l0": lambda model, graph: regularizers.L0(graph, 0.01),
    "hesso": lambda model, graph: regularizers.HESSO(graph, 0.5, begin=0, length=2, periods=2),
    "lasso": lambda model, graph: regularizers.GroupLasso(graph, 0.01),
    "norm": lambda model, graph: regularizers.GroupNorm(graph, 0.01),
    "growing": lambda model, graph: regularizers.Growing(model, prunus.plan(graph, ratio=0.5), 0.01),
}


@pytest.mark.parametrize("kind", REGULARIZERS)
def test_regularizers_follow_a_model_that_fit_moves(kind, tmp_path):
    """Made for a model on the CPU; in one run, and cut short in the second epoch and gone on with."""
    data = [[torch.randn(8, 8), torch.arange(8) % 4] for _ in range(3)]

    def run(folder, last=2):
        def look(progress):
            if progress.epoch > last:
                raise KeyboardInterrupt

        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        hook = REGULARIZERS[kind](model, prunus.trace(model, data[0][0]))
        fit(model, data, epochs=2, seed=0, hooks=[hook], checkpoints=tmp_path / folder, on_progress=look)
        assert model[0].weight.device.type == "cpu"
        return model[0].weight.detach()

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("cut", last=1)
    torch.testing.assert_close(run("cut"), whole)


def _pairs(sparse):
    return [(sparse.weights[name], mask) for name, mask in sparse.masks.items()]
