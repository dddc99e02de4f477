"""Every format by its suffix: the same numbers as torch, open sizes that hold, and what isn't here said."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import textwrap

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import prunus
from prunus.deploy import formats
from prunus.deploy.export import ExportError
from prunus.deploy.measure import onnx_runner
from prunus.deploy.runtimes import openvino_runner
from prunus.errors import InputError, PrunusError


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return prunus.prune(Net().eval(), X, ratio=0.5)


def test_a_program_needs_no_source_code(small, tmp_path):
    told = prunus.save_program(small, X, tmp_path / "small.pt2")
    assert told.dynamic_batch and told.max_rel_error < 1e-5
    torch.save([X[:1], small(X[:1]).detach()], tmp_path / "pair.pt")
    script = """
        import sys, torch
        x, y = torch.load("pair.pt")
        found = torch.export.load("small.pt2").module()(x)
        torch.testing.assert_close(found, y)
        assert not any(name.startswith(("prunus", "test_formats")) for name in sys.modules)
        print("same")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=tmp_path, capture_output=True, text=True, env={}
    )
    assert done.stdout.strip() == "same", done.stderr
    torch.testing.assert_close(prunus.load_program(tmp_path / "small.pt2")(X), small(X))


def test_openvino_computes_the_same_at_any_batch(small, tmp_path):
    told = prunus.export(small, X, tmp_path / "small.xml")
    assert told.dynamic_batch and sorted(p.name for p in tmp_path.iterdir()) == ["small.bin", "small.xml"]
    x = torch.randn(7, 3, 16, 16)
    found = openvino_runner(tmp_path / "small.xml", x)()[0]
    np.testing.assert_allclose(found, small(x).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_open_sizes_hold_and_are_told(small, tmp_path):
    told = prunus.export(small, X, tmp_path / "small.onnx", dynamic_sizes=True, slim=True, draws=5)
    assert told.open_dims == ((2, 3),) and told.reason is None and "open dimensions [2, 3]" in str(told)
    x = torch.randn(3, 3, 40, 24)
    found = onnx_runner(tmp_path / "small.onnx", x)()[0]
    np.testing.assert_allclose(found, small(x).detach().numpy(), rtol=1e-4, atol=1e-5)
    dims = onnx.load(tmp_path / "small.onnx").graph.input[0].type.tensor_type.shape.dim
    assert dims[0].dim_param == "batch" and dims[1].dim_value == 3 and dims[2].dim_param != dims[3].dim_param


def test_sizes_that_the_model_fixes_stay_fixed(tmp_path):
    flat = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 14 * 14, 2)).eval()
    told = prunus.export(flat, X, tmp_path / "flat.onnx", dynamic_sizes=True)
    assert told.dynamic_batch and not any(told.open_dims) and "mat1 and mat2" in told.reason


def test_random_sizes_are_larger_where_they_are_open():
    (drawn,), _ = formats.Batch(((X,), {})).random(((X,), {}), 5, 0, [(2, 3)])
    assert drawn.shape == (5, 3, 48, 48)
    ids = torch.arange(12).view(2, 6)
    (drawn,), _ = formats.Batch(((ids,), {})).random(((ids,), {}), 2, 0, [(1,)])
    assert drawn.shape == (2, 9) and drawn.max() <= 11


def test_a_tiny_llama_of_open_length_is_exported(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, use_cache=False,
    )  # fmt: skip
    torch.manual_seed(0)
    ids = torch.randint(0, 64, (2, 8))
    small = prunus.prune(transformers.LlamaForCausalLM(config).eval(), ids, ratio=0.5)
    told = prunus.export(small, ids, tmp_path / "llama.onnx", dynamic_sizes=True)
    assert told.max_rel_error < 1e-4
    assert told.dynamic_batch and told.open_dims == ((1,),), told
    longer = torch.randint(0, 64, (1, 13))
    expected = small(longer).logits.detach().numpy()
    np.testing.assert_allclose(onnx_runner(tmp_path / "llama.onnx", longer)()[0], expected, rtol=1e-3, atol=1e-5)


LANGUAGE = {
    "gpt2": ("GPT2LMHeadModel", {"n_embd": 32, "n_layer": 1, "n_head": 4, "use_cache": False}, 1),
    "bert": ("BertModel", {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 48}, 1),
    "t5": (
        "T5ForConditionalGeneration",
        {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "use_cache": False},
        2,
    ),
}


@pytest.mark.parametrize("name", LANGUAGE)
def test_language_models_of_open_lengths_are_exported(name, tmp_path):
    transformers = pytest.importorskip("transformers")
    kind, values, inputs = LANGUAGE[name]
    made = getattr(transformers, kind)
    torch.manual_seed(0)
    model = made(made.config_class(vocab_size=99, num_attention_heads=4, **values)).eval()
    kwargs = {key: torch.randint(5, 99, (2, 7)) for key in ("input_ids", "decoder_input_ids")[:inputs]}
    small = prunus.prune(model, (), kwargs, ratio=0.5)
    told = prunus.export(small, (), tmp_path / "it.onnx", kwargs, dynamic_sizes=True)
    assert told.dynamic_batch and told.open_dims == ((1,),) * inputs
    longer = {key: torch.randint(5, 99, (3, 11)) for key in kwargs}
    expected = small(**longer)[0].detach().numpy()
    np.testing.assert_allclose(onnx_runner(tmp_path / "it.onnx", (), longer)()[0], expected, rtol=1e-3, atol=1e-4)


def test_a_wrong_file_is_refused_and_none_is_left(small, tmp_path, monkeypatch):
    class Wrong(torch.nn.Module):
        def __init__(self, change):
            super().__init__()
            self.change = change

        def forward(self, x):
            return self.change(small(x))

    for change, words in (
        (lambda y: y + 1e-2, r"\.pt2 of Net computes something else than torch"),
        (lambda y: y[:, :3], "gives other shapes"),
    ):
        monkeypatch.setattr(formats, "load_program", lambda path, change=change: Wrong(change))
        with pytest.raises(ExportError, match=words):
            prunus.export(small, X, tmp_path / "small.pt2")
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_here_is_said(small, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="the suffix names the format"):
        prunus.export(small, X, tmp_path / "small.bin")
    with pytest.raises(InputError, match=r"ends in \.pt2"):
        prunus.save_program(small, X, tmp_path / "small.onnx")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match=r"there is none here: export to \.onnx.*trtexec"):
            prunus.export(small, X, tmp_path / "small.engine")
    if importlib.util.find_spec("executorch") is None:
        with pytest.raises(InputError, match="pip install executorch"):
            prunus.export(small, X, tmp_path / "small.pte")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(InputError, match="pip install openvino"):
        prunus.export(small, X, tmp_path / "small.xml")
    (tmp_path / "bad.pt2").write_bytes(b"nothing")
    with pytest.raises(InputError, match="can't be read as a program"):
        prunus.load_program(tmp_path / "bad.pt2")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.pt2"]


def test_executorch_computes_the_same(small, tmp_path):
    pytest.importorskip("executorch")
    assert prunus.export(small, X, tmp_path / "small.pte").max_rel_error < 1e-4
    with pytest.raises(PrunusError):
        prunus.export(small, X, tmp_path / "small.pte", tolerance=1e-30)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="a TensorRT engine is built on the GPU it will run on")
def test_tensorrt_builds_an_engine(small, tmp_path):
    pytest.importorskip("tensorrt")
    told = prunus.export(small, X, tmp_path / "small.engine")
    assert told.bytes > 0 and "the engine wasn't" in told.reason and "unchecked" in str(told)
