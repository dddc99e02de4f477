"""export: the file gives what torch gives, at other batch sizes too, and nothing wrong is ever left behind."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from prunus.deploy import parity
from prunus.deploy.export import ExportError
from prunus.deploy.formats import export
from prunus.deploy.measure import onnx_runner
from prunus.errors import InputError, TraceError
from prunus.plan import Plan
from prunus.surgery import AttributeChange, named_tensors

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.drop, self.norm, self.fc = (
            nn.Conv2d(1, 6, 3),
            nn.Dropout(),
            nn.BatchNorm2d(6),
            nn.Linear(6 * 16, 4),
        )

    def forward(self, x):
        return self.fc(F.relu(self.drop(self.norm(self.conv(x)))).flatten(1))


FIXES_THE_BATCH = pytest.mark.skipif(
    torch.__version__ < "2.7", reason="torch 2.6 exports it at the example's batch alone"
)


def onnx_output(path, *arrays):
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {i.name: a.numpy() for i, a in zip(session.get_inputs(), arrays, strict=True)})


def test_a_pruned_network_runs_at_any_batch_size(tmp_path, capfd):
    torch.manual_seed(0)
    model, keep = Net(), (0, 3)
    columns = tuple(c * 16 + i for c in keep for i in range(16))
    kept = {
        n: {0: keep}
        for n in ("conv.weight", "conv.bias", *(f"norm.{n}" for n in ("weight", "bias", "running_mean", "running_var")))
    }
    changes = [("conv", "out_channels", 6, 2), ("norm", "num_features", 6, 2), ("fc", "in_features", 96, 32)]
    plan = Plan(
        {n: tuple(t.shape) for n, t in named_tensors(model).items()},
        {**kept, "fc.weight": {1: columns}},
        tuple(AttributeChange(module, name, (), old, new) for module, name, old, new in changes),
    )
    small, x = plan.apply(model).train(), torch.randn(1, 1, 6, 6)
    small.norm.eval()
    random, state = torch.get_rng_state(), {k: v.clone() for k, v in small.state_dict().items()}

    result = export(small, x, tmp_path / "new/small.onnx")

    assert capfd.readouterr() == ("", "")
    assert torch.equal(random, torch.get_rng_state())
    assert (small.training, small.drop.training, small.norm.training) == (True, True, False)
    assert all(torch.equal(value, state[key]) for key, value in small.state_dict().items())
    assert os.listdir(tmp_path / "new") == ["small.onnx"]
    assert (result.path, result.dynamic_batch, result.reason) == (tmp_path / "new/small.onnx", True, None)
    assert result.bytes == result.path.stat().st_size
    assert 0 <= result.max_rel_error < 1e-5 and "any batch size" in str(result)
    graph = onnx.load(result.path)
    onnx.checker.check_model(graph)
    assert graph.opset_import[0].version == result.opset
    assert [d.dim_param or d.dim_value for d in graph.graph.input[0].type.tensor_type.shape.dim] == ["batch", 1, 6, 6]
    small.eval()
    for size in (1, 2, 7):
        x = torch.randn(size, 1, 6, 6)
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(onnx_output(result.path, x)[0]), small(x))


class Many(nn.Module):
    """Several inputs, given out of order by name, one without a batch, one no tensor; outputs in a dict."""

    def __init__(self):
        super().__init__()
        self.embed, self.fc = nn.Embedding(10, 8), nn.Linear(8, 3)

    def forward(self, tokens, scale, table, mask=None, flip=False):
        x = self.embed(tokens) * mask[..., None] * scale[:, None]
        logits = self.fc(x.sum(1)) + table.sum(0)
        return {"logits": -logits if flip else logits, "parts": (x, logits.argmax(1))}


@FIXES_THE_BATCH
def test_named_unbatched_and_nested_inputs_and_outputs(tmp_path):
    torch.manual_seed(0)
    model, tokens, table = Many(), torch.randint(10, (2, 5)), torch.randn(4, 3)
    kwargs = {"flip": True, "mask": torch.ones(2, 5), "table": table, "scale": torch.randn(2, 1)}
    result = export(model, tokens, tmp_path / "m.onnx", kwargs)
    assert result.dynamic_batch, result.reason
    session = ort.InferenceSession(str(result.path), providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["tokens", "mask", "table", "scale"]
    assert session.get_inputs()[2].shape == [4, 3]
    assert [o.name for o in session.get_outputs()] == ["logits", "parts_0", "parts_1"]
    tokens, mask, scale = torch.randint(10, (6, 5)), torch.rand(6, 5), torch.randn(6, 1)
    with torch.no_grad():
        wanted = model.eval()(tokens, scale, table, mask=mask, flip=True)
    found = onnx_output(result.path, tokens, mask, table, scale)
    torch.testing.assert_close(torch.from_numpy(found[0]), wanted["logits"])
    torch.testing.assert_close(torch.from_numpy(found[1]), wanted["parts"][0])
    assert found[2].tolist() == wanted["parts"][1].tolist()
    run = onnx_runner(result.path, tokens, {"mask": mask, "table": table, "scale": scale}, threads=1)
    np.testing.assert_array_equal(run()[0], found[0])
    with pytest.raises(InputError, match=r"has 4 inputs \(tokens, mask, table, scale\), but 1 tensors"):
        onnx_runner(result.path, tokens)


@pytest.mark.parametrize(
    "make, shape",
    [
        pytest.param(
            lambda: nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), (1, 5, 16), marks=FIXES_THE_BATCH
        ),
        pytest.param(
            lambda: nn.LSTM(8, 6, batch_first=True, bidirectional=True),
            (2, 5, 8),
            marks=pytest.mark.skipif(torch.__version__ < "2.7", reason="torch.export of 2.6 takes no recurrent layer"),
        ),
        (lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 3)).half(), (2, 4)),
    ],
)
def test_other_layers_and_precisions(tmp_path, make, shape):
    model = make()
    x = torch.randn(shape, dtype=next(model.parameters()).dtype)
    given = x.clone()
    result = export(model, x, tmp_path / "m.onnx")
    assert result.dynamic_batch, result.reason
    assert torch.equal(x, given)


class Literal(nn.Module):
    def forward(self, x):
        return x.view(2, -1) * 2


def test_a_model_bound_to_its_batch_is_exported_for_it_and_says_why(tmp_path):
    result = export(Literal(), torch.randn(2, 6), tmp_path / "m.onnx")
    assert not result.dynamic_batch
    assert "can't be exported with a dynamic batch" in result.reason and "constant (2)" in result.reason
    assert result.reason in str(result)
    assert export(Literal(), torch.randn(2, 6), tmp_path / "m.onnx", dynamic_batch=False).reason is None
    x = torch.randn(2, 6)
    torch.testing.assert_close(torch.from_numpy(onnx_output(result.path, x)[0]), x * 2)


def test_a_wrong_file_is_refused_and_none_is_left(tmp_path, monkeypatch):
    (tmp_path / "m.onnx").write_text("older")
    model, x, real = Net(), torch.randn(2, 1, 6, 6), torch.export.export

    def sabotaged(*args, **kwargs):
        program = real(*args, **kwargs)
        program.state_dict["fc.bias"] = nn.Parameter(program.state_dict["fc.bias"] + 0.01)
        return program

    monkeypatch.setattr(torch.export, "export", sabotaged)
    with pytest.raises(
        ExportError, match=r"Net \(fixed batch\) computes something else than torch: relative error .*No file"
    ):
        export(model, x, tmp_path / "m.onnx")
    assert os.listdir(tmp_path) == ["m.onnx"] and (tmp_path / "m.onnx").read_text() == "older"
    assert export(model, x, tmp_path / "m.onnx", tolerance=0.5).max_abs_error == pytest.approx(0.01, rel=0.01)
    assert os.listdir(tmp_path) == ["m.onnx"]


def test_the_difference_notices_every_kind_of_mismatch():
    t = torch.tensor
    assert parity.difference(t([1.0, -4.0]), t([1.0, -4.0])) == (0, 0)
    assert parity.difference(t([1.0, -4.0]), t([1.5, -4.0])) == (0.5, 0.125)
    assert parity.difference(t([math.nan, math.inf, 2.0]), t([math.nan, math.inf, 1.0])) == (1, 0.5)
    for wrong in (t([math.nan]), t([math.inf]), t([-math.inf])):
        assert parity.difference(t([1.0]), wrong) == (math.inf, math.inf)
        assert parity.difference(wrong, t([1.0])) == (math.inf, math.inf)
    assert parity.difference(t([1, 5]), t([1, 4])) == (1, 0.2)
    assert parity.difference(torch.zeros(2), torch.full((2,), 1e-3))[1] > 1
    assert parity.difference(torch.zeros(0), torch.zeros(0)) == (0, 0)


def test_random_inputs_stay_in_the_examples_range():
    example = (
        (torch.tensor([[3, 7], [7, 9]]), torch.randn(2, 400) * 5 + 100, torch.tensor([0.0, -math.inf, 0.0])),
        {"flag": True},
    )
    random = torch.get_rng_state()
    (ids, floats, mask), kwargs = parity.Batch(example).random(example, 50, seed=0)
    assert torch.equal(random, torch.get_rng_state())
    assert ids.shape == (50, 2) and set(ids.flatten().tolist()) == {3, 7, 9}
    assert floats.shape == (50, 400) and abs(floats.mean() - 100) < 1 and abs(floats.std() - 5) < 0.5
    assert mask.shape == (3,) and set(mask.tolist()) <= {0.0, -math.inf}
    assert kwargs == {"flag": True}


class Undecided(nn.Module):
    def forward(self, x):
        return x.sum(1) if x.sum() > 0 else x.mean(1)


class Broken(nn.Module):
    def forward(self, x):
        raise KeyError("my own mistake")


def test_what_cannot_be_exported_is_refused_quietly_and_leaves_nothing(tmp_path, capfd):
    x = torch.randn(2, 6)
    with pytest.raises(ExportError, match="Undecided can't be exported with a fixed batch: GuardOnDataDependent"):
        export(Undecided(), x, tmp_path / "m.onnx")
    with pytest.raises(TraceError, match=r"Broken\.forward raised KeyError: 'my own mistake'") as caught:
        export(Broken(), x, tmp_path / "m.onnx")
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(InputError, match="load them first"):
        export(nn.Linear(6, 2, device="meta"), x, tmp_path / "m.onnx")
    with pytest.raises(InputError, match=r"export model\.float\(\)"):
        export(nn.Linear(6, 2, dtype=torch.bfloat16), x, tmp_path / "m.onnx")
    with pytest.raises(InputError, match="give the model itself"):
        export(torch.compile(nn.Linear(6, 2)), x, tmp_path / "m.onnx")
    assert os.listdir(tmp_path) == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_is_named_with_the_command(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"{package}.*pip install 'prunus\[export\]'"):
        export(nn.Linear(6, 2), torch.randn(2, 6), tmp_path / "m.onnx")
    if package == "onnxruntime":
        with pytest.raises(InputError, match=r"pip install 'prunus\[export\]'"):
            onnx_runner(tmp_path / "m.onnx", torch.randn(2, 6))


def test_importing_the_module_loads_no_onnx():
    script = (
        "import sys, prunus.deploy.export, prunus.deploy.measure, prunus.profile\n"
        "assert not {name for name in sys.modules if name.startswith('onnx')}"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_large_weights_go_beside_the_graph(tmp_path, monkeypatch):
    monkeypatch.setattr("prunus.deploy.export._ONE_FILE_BYTES", 1000)
    model, x = nn.Linear(64, 64).eval(), torch.randn(2, 64)
    result = export(model, x, tmp_path / "m.onnx")
    assert sorted(os.listdir(tmp_path)) == ["m.onnx", "m.onnx.data"]
    assert result.bytes == sum((tmp_path / name).stat().st_size for name in os.listdir(tmp_path)) > 64 * 64 * 4
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(onnx_output(result.path, x)[0]), model(x))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_model_on_a_gpu_is_exported_from_a_copy(tmp_path):
    model = Net().cuda()
    result = export(model, torch.randn(2, 1, 6, 6, device="cuda"), tmp_path / "m.onnx")
    assert result.dynamic_batch and all(p.is_cuda for p in model.parameters())


def test_boxes_of_several_classes_are_exported_with_what_chooses_among_them(tmp_path):
    ops = pytest.importorskip("torchvision").ops

    class Boxes(nn.Module):
        """Overlapping boxes around given corners, more or fewer of them above the threshold."""

        def forward(self, corners, scores):
            likely = scores > 0.3
            boxes, scores = torch.cat([corners, corners + 4], 1)[likely], scores[likely]
            kept = ops.boxes.batched_nms(boxes, scores, (scores * 50).long() % 3, 0.3)
            return torch.cat([boxes[kept], scores[kept, None]], 1)

    inputs = (torch.rand(40, 2) * 12, torch.rand(40))
    before = ops.boxes.batched_nms
    result = export(Boxes().eval(), inputs, tmp_path / "boxes.onnx", dynamic_batch=False)
    assert result.max_rel_error < 1e-6
    assert ops.boxes.batched_nms is before
    assert 3 < len(Boxes()(*inputs)) < 40
