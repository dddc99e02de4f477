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
