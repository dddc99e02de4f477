"""bench, roofline and quantize: what they tell is what is there, and what can't be told is said."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import prunus
from prunus.cli import app
from prunus.deploy import machine
from prunus.deploy.machine import Peak, energy_counter, peak_memory
from prunus.deploy.measure import onnx_runner
from prunus.deploy.runtimes import openvino_runner, runner
from prunus.errors import InputError
from prunus.profile import Profile, Row


def net():
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)).eval()


X = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    small = prunus.prune(net(), X, ratio=0.5)
    prunus.export(small, X, folder / "small.onnx")
    prunus.save(small, folder / "small")
    return folder


def test_every_runtime_computes_what_torch_does(files):
    small = prunus.load(files / "small", net)
    expected = small(X).detach().numpy()
    for runtime, source in (("eager", small), ("onnx", files / "small.onnx"), ("openvino", files / "small.onnx")):
        found = runner(source, runtime, X, 1)()
        found = found.numpy() if isinstance(found, torch.Tensor) else found[0]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(onnx_runner(files / "small.onnx", X + 1)()[0], expected, rtol=1e-4, atol=1e-5)


def test_bench_tells_all_of_every_candidate(files):
    dense = net().train()
    candidates = {"dense": dense, "saved": prunus.Saved(files / "small", net), "file": files / "small.onnx"}
    found = prunus.bench(candidates, X, runtimes=("eager", "onnx"), batch_sizes=(1, 4), repeats=6, warmup=1)
    assert dense.training
    entries = {(e.name, e.runtime, e.batch): e for e in found.entries}
    assert len(entries) == 3 * 2 * 2 and not any(e.joules for e in found.entries if found.notes)
    for (name, runtime, batch), entry in entries.items():
        if (name, runtime) == ("file", "eager"):
            assert entry.latency is None and entry.reason == "torch doesn't run ONNX files"
            continue
        assert entry.latency.low_ms <= entry.latency.median_ms <= entry.latency.high_ms
        assert entry.throughput == pytest.approx(1000 * batch / entry.latency.median_ms)
        assert (entry.speedup is None) == (name == "dense")
        assert (entry.load_seconds is None) == ((name, runtime) == ("dense", "eager"))
        assert entry.peak_bytes > 0
    size = (files / "small.onnx").stat().st_size
    assert entries["file", "onnx", 1].file_bytes == size
    weights = sum(p.numel() * 4 for p in dense.parameters())
    assert entries["dense", "eager", 1].file_bytes == weights
    saved = sum(file.stat().st_size for file in (files / "small").iterdir())
    assert entries["saved", "eager", 1].file_bytes == saved
    assert len(json.loads(json.dumps(found.to_dict()))["entries"]) == 12
    assert "can't: torch doesn't run ONNX files" in str(found)


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="torch.compile needs a C++ compiler")
def test_torch_compile_computes_the_same_and_is_measured(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("torch._inductor.config.compile_threads", 1)
    model, x = nn.Linear(8, 3).train(), torch.randn(4, 8)
    torch.testing.assert_close(runner(model, "compile", x, 1)(), model(x))
    (compiled,) = prunus.bench({"one": model}, x, runtimes=("compile",), repeats=6, warmup=1).entries
    assert (compiled.runtime, compiled.reason, compiled.peak_bytes) == ("compile", None, None)
    assert compiled.latency.median_ms > 0 and model.training
    assert list(tmp_path.iterdir())  # a compiler wrote code


def test_a_model_that_one_batch_size_breaks_says_so():
    class Fixed(nn.Module):
        def forward(self, x):
            return x.view(4, -1)

    found = prunus.bench({"fixed": Fixed()}, X, runtimes=("eager",), batch_sizes=(4, 1), repeats=6, memory=False)
    assert found.entries[0].latency is not None
    assert found.entries[1].latency is not None  # one image is four rows too
    found = prunus.bench({"fixed": Fixed()}, X[:, :1, :3, :3], runtimes=("eager",), batch_sizes=(3,), repeats=6)
    assert found.entries[0].latency is None and found.entries[0].reason.startswith("batch 3: ")


def test_bad_input_is_refused_with_the_cure(tmp_path):
    for arguments, words in (
        (({}, X), "at least one candidate"),
        (({"a": net()}, X, "batch_sizes", (0,)), "must be at least 1"),
        (({"a": net()}, X, "runtimes", ("onx",)), "unknown runtime 'onx'. Did you mean 'onnx'"),
        (({"a": tmp_path / "no.onnx"}, X), "there is no file"),
    ):
        with pytest.raises(InputError, match=words):
            prunus.bench(*arguments[:2], **dict([arguments[2:]] if arguments[2:] else []))
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(InputError, match="OpenVINO can't read"):
        openvino_runner(tmp_path / "bad.onnx", X)


def test_peak_memory_is_what_the_work_takes():
    told = peak_memory(lambda: torch.ones(64 * 2**20, dtype=torch.uint8))
    assert 60 * 2**20 < told < 100 * 2**20
    assert peak_memory(lambda: None) < 16 * 2**20
    assert isinstance(peak_memory(lambda: 1 / 0), str)


def test_energy_is_read_from_every_package_or_its_absence_told(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "POWERCAP", tmp_path)
    assert energy_counter() == "this machine has no energy counter (RAPL)"
    for zone, joules in (("intel-rapl:0", 3), ("intel-rapl:1", 4), ("intel-rapl:0:0", 100)):
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "energy_uj").write_text(f"{joules * 1_000_000}\n")
    assert energy_counter()() == 7
    (tmp_path / "intel-rapl:1" / "energy_uj").unlink()
    assert "can't be read" in energy_counter()


def row(name, macs=0, inputs=0, parameters=0, outputs=0, calls=1, ms=1.0):
    return Row(name, "Linear", (1,), parameters // 4, macs, parameters, outputs, inputs, calls, ms)


def test_each_bound_by_hand():
    peak = Peak(macs=1e9, bandwidth=1e9, call_ms=0.01)
    rows = (
        row("busy", macs=2_000_000, inputs=1000, ms=4.0),  # 2 ms of arithmetic
        row("wide", macs=10, inputs=200_000, parameters=200_000, outputs=100_000, ms=1.0),  # 0.5 ms of traffic
        row("tiny", macs=10, inputs=40, calls=3, ms=0.1),  # three calls: 0.03 ms
        row("uncalled", parameters=8, calls=0, ms=0.0),
    )
    found = prunus.roofline(Profile(rows, 5.1), peak)
    told = {layer.name: (layer.bound, layer.floor_ms, layer.attained) for layer in found.layers}
    assert told == {
        "busy": ("compute", pytest.approx(2.0), pytest.approx(0.5)),
        "wide": ("memory", pytest.approx(0.5), pytest.approx(0.5)),
        "tiny": ("overhead", pytest.approx(0.03), pytest.approx(0.3)),
    }
    assert found.layers[1].intensity == 10 / 500_000
    assert found.shares == {b: pytest.approx(t / 5.1) for b, t in (("compute", 4), ("memory", 1), ("overhead", 0.1))}
    assert "Fewer MACs make it faster" in str(found)
    with pytest.raises(InputError, match="latency=True"):
        prunus.roofline(Profile(rows, None), peak)


def test_traffic_counts_inputs_parameters_and_outputs_once():
    model = net()
    layer = prunus.roofline(prunus.profile(model, X, repeats=1), Peak(1e9, 1e9, 0.01)).layers[0]
    assert layer.bytes == 4 * (X.numel() + 16 * 3 * 9 + 16 + 4 * 16 * 16 * 16)


def test_the_machine_has_peaks():
    found = machine.peak()
    assert found.macs > 1e8 and found.bandwidth > 1e7 and 0 < found.call_ms < 10


# INT8


def test_static_int8_is_close_and_small(files):
    found = prunus.quantize(files / "small.onnx", files / "int8.onnx", [torch.randn(8, 3, 16, 16) for _ in range(3)])
    assert found.scheme == "static" and found.quantized == {"Conv": 2, "Gemm": 1}
    assert 0 < found.error < 0.1 and found.same_top is not None
    before, after = (onnx_runner(files / name, X)()[0] for name in ("small.onnx", "int8.onnx"))
    assert before.shape == after.shape and 0 < np.abs(before - after).max() < 0.1 * np.abs(before).max()
    weights = [t for t in onnx.load(files / "int8.onnx").graph.initializer if t.data_type == 3 and len(t.dims) > 1]
    assert len(weights) == 3
    kinds = {node.op_type for node in onnx.load(files / "int8.onnx").graph.node}
    assert "Relu" in {node.op_type for node in onnx.load(files / "small.onnx").graph.node} and "Relu" not in kinds
    assert "INT8 static" in str(found)


def test_calibration_matters_so_it_is_used(files):
    """With activations calibrated on inputs a hundred times too small, large ones are clipped."""
    good, bad = (
        prunus.quantize(files / "small.onnx", files / "c.onnx", [X, scale * X][::-1] if scale > 1 else [scale * X])
        for scale in (1.0, 0.01)
    )
    outputs = onnx_runner(files / "small.onnx", X)()[0]
    clipped = onnx_runner(files / "c.onnx", X)()[0]
    assert np.abs(outputs - clipped).max() > 5 * good.error * np.abs(outputs).max()
    assert bad.scheme == "static"


def test_dynamic_int8_needs_no_data(files):
    mlp = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    x = torch.randn(3, 16)
    prunus.export(mlp, x, files / "mlp.onnx")
    found = prunus.quantize(files / "mlp.onnx", files / "mlp8.onnx")
    assert found.scheme == "dynamic" and sum(found.quantized.values()) == 2 and found.error is None
    np.testing.assert_allclose(onnx_runner(files / "mlp8.onnx", x)()[0], mlp(x).detach(), atol=0.05)


def test_quantization_refuses_what_it_cannot_do(files, tmp_path):
    for arguments, words in (
        ((files / "small.onnx", tmp_path / "q", None, "static"), "pass data="),
        ((files / "small.onnx", tmp_path / "q", [X], "int4"), "scheme must be"),
        ((files / "no.onnx", tmp_path / "q", [X], None), "there is no file"),
        ((files / "small.onnx", tmp_path / "q", [], None), "data holds no batch"),
    ):
        with pytest.raises(InputError, match=words):
            prunus.quantize(*arguments[:3], scheme=arguments[3])
    prunus.export(nn.ReLU(), X, tmp_path / "relu.onnx")
    with pytest.raises(InputError, match="nothing that ONNX Runtime quantizes"):
        prunus.quantize(tmp_path / "relu.onnx", tmp_path / "q")
    assert [path.name for path in tmp_path.iterdir()] == ["relu.onnx"]


@pytest.mark.parametrize("scheme", ["dynamic", "weights"])
def test_torchao_quantizes_a_copy(scheme):
    pytest.importorskip("torchao")
    mlp = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 32)).eval()
    x = torch.randn(5, 64)
    small = prunus.quantize_torch(mlp, scheme)
    assert type(mlp[0].weight) is nn.Parameter and type(small[0].weight) is not nn.Parameter
    error = (small(x) - mlp(x)).abs().max() / mlp(x).abs().max()
    assert 0 < error < 0.05
    with pytest.raises(InputError, match="no Linear layer"):
        prunus.quantize_torch(nn.Conv2d(3, 4, 1))
    with pytest.raises(InputError, match="scheme must be one of"):
        prunus.quantize_torch(mlp, "int3")


# The command line


def run(*arguments):
    found = CliRunner().invoke(app, list(arguments))
    assert found.exit_code == 0, (found.output, found.exception)
    return found.output


def test_bench_and_roofline_and_export_on_the_command_line(files, tmp_path):
    small = prunus.prune(__import__("prunus.demo.lenet", fromlist=["LeNet"]).LeNet().eval(), torch.ones(1, 1, 28, 28))
    prunus.save(small, tmp_path / "small")
    lenet, shape = "prunus.demo.lenet:LeNet", ("-i", "2x1x28x28")
    saved = f"{tmp_path / 'small'}@{lenet}"
    told = run("export", saved, str(tmp_path / "small.onnx"), *shape, "--int8", str(tmp_path / "q.onnx"))
    assert "any batch size" in told and "INT8 dynamic" in told and (tmp_path / "q.onnx").exists()
    told = run("export", lenet, str(tmp_path / "open.onnx"), "-i", "2x1x28x28", "--open-sizes", "--slim")
    assert "any batch size" in told  # LeNet fixes height and width
    text = run("bench", lenet, saved, *shape, "-r", "eager", "--batch", "1,2", "--repeats", "6", "--json")
    entries = json.loads(text)["entries"]
    assert [(e["name"], e["batch"]) for e in entries] == [(lenet, 1), (saved, 1), (lenet, 2), (saved, 2)]
    assert "ONNX" not in run("bench", str(tmp_path / "small.onnx"), *shape, "-r", "onnx", "--repeats", "6")
    bounds = json.loads(run("profile", lenet, *shape, "--roofline", "--json"))
    assert {layer["name"] for layer in bounds["layers"]} >= {"conv1", "fc1"} and set(bounds["shares"]) == {
        "compute",
        "memory",
        "overhead",
    }
