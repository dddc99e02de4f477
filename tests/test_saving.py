"""save and load: the same bits from the factory alone, in a new process too; everything else refused by name."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import random
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import prunus
from prunus.deploy import tensors as storage
from prunus.deploy.saving import load, save
from prunus.errors import InputError, PrunusError, SaveError
from prunus.plan import Plan
from prunus.surgery import AttributeChange, named_tensors


def plan_of(model, kept=None, attributes=()):
    shapes = {name: tuple(t.shape) for name, t in named_tensors(model).items()}
    return Plan(shapes, kept or {}, tuple(attributes), {"ratio": 0.5})


class Net(nn.Module):
    """A convolution with batch norm into a linear layer, a non-persistent buffer and a tensor that is no buffer."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 5)
        self.register_buffer("gain", torch.linspace(0.5, 1.5, 4), persistent=False)
        self.shift = torch.linspace(-1, 1, 5)

    def forward(self, x):
        return self.fc(torch.relu(self.norm(self.conv(x))).mean((2, 3)) * self.gain) + self.shift


KEPT = (0, 2, 3)


def small_net():
    torch.manual_seed(0)
    model = Net()
    nn.init.normal_(model.norm.running_mean)
    per_channel = [
        "conv.weight",
        "conv.bias",
        "gain",
        *(f"norm.{n}" for n in ("weight", "bias", "running_mean", "running_var")),
    ]
    kept = {name: {0: KEPT} for name in per_channel}
    kept["fc.weight"] = {1: KEPT}
    changes = [("conv", "out_channels"), ("norm", "num_features"), ("fc", "in_features")]
    return plan_of(model, kept, [AttributeChange(m, n, (), 4, 3) for m, n in changes]).apply(model).eval()


X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def output(model, *args):
    with torch.no_grad():
        return model(*(args or (X,)))


def assert_same_model(loaded, small, *args):
    """Outputs to the bit, and every tensor's name, bits, dtype, strides and flags."""
    assert torch.equal(output(loaded, *args), output(small, *args))
    mine, theirs = named_tensors(loaded), named_tensors(small)
    assert list(mine) == list(theirs)
    for name, tensor in theirs.items():
        assert torch.equal(mine[name], tensor), name
        assert mine[name].dtype == tensor.dtype and mine[name].stride() == tensor.stride(), name
        assert mine[name].requires_grad == tensor.requires_grad, name
        assert type(mine[name]) is type(tensor), name
    assert [m.training for m in loaded.modules()] == [m.training for m in small.modules()]
    assert loaded.state_dict().keys() == small.state_dict().keys()


def test_comes_back_with_the_same_outputs_to_the_bit(tmp_path):
    small = small_net()
    assert save(small, tmp_path / "a/b") == tmp_path / "a/b"
    loaded = load(str(tmp_path / "a/b"), Net)
    assert_same_model(loaded, small)
    assert loaded.conv.out_channels == 3 and loaded.fc.in_features == 3
    assert loaded.prunus_plan == small.prunus_plan
    assert sorted(os.listdir(tmp_path / "a")) == ["b"]


def test_the_comparison_notices_a_single_changed_bit(tmp_path):
    small = small_net()
    save(small, tmp_path / "s")
    loaded = load(tmp_path / "s", Net)
    loaded.conv.weight.data.view(torch.int32).view(-1)[0] ^= 1
    with pytest.raises(AssertionError):
        assert_same_model(loaded, small)


def test_a_new_process_needs_only_the_factory(tmp_path):
    (tmp_path / "arch.py").write_text(
        textwrap.dedent("""
        from torch import nn
        def factory():
            return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 7))
        """)
    )
    sys.path.insert(0, str(tmp_path))
    try:
        from arch import factory
    finally:
        sys.path.remove(str(tmp_path))
    keep = (1, 2, 6)
    columns = tuple(c * 36 + i for c in keep for i in range(36))
    model = factory()
    changes = [AttributeChange("0", "out_channels", (), 8, 3), AttributeChange("3", "in_features", (), 288, 108)]
    small = plan_of(model, {"0.weight": {0: keep}, "0.bias": {0: keep}, "3.weight": {1: columns}}, changes).apply(model)
    save(small, tmp_path / "small")
    save_file({"x": X}, tmp_path / "x.safetensors")
    script = textwrap.dedent("""
        import sys, torch
        from safetensors.torch import load_file, save_file
        from prunus.deploy.saving import load
        from arch import factory
        torch.set_num_threads(int(sys.argv[1]))
        with torch.no_grad():
            save_file({"y": load("small", factory)(load_file("x.safetensors")["x"])}, "y.safetensors")
        loaded = set(sys.modules) & {"onnx", "onnxruntime", "matplotlib", "accelerate"}
        assert not loaded, loaded
    """)
    threads = str(torch.get_num_threads())
    subprocess.run(
        [sys.executable, "-c", script, threads], check=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": "."}
    )
    assert torch.equal(load_file(tmp_path / "y.safetensors")["y"], output(small))


def test_the_weights_file_is_the_plain_state_dict_and_no_larger(tmp_path):
    small = small_net()
    save(small, tmp_path / "s", metrics={"accuracy": 0.98})
    assert sorted(os.listdir(tmp_path / "s")) == ["extras.safetensors", "model.safetensors", "plan.json"]
    state = load_file(tmp_path / "s/model.safetensors")
    assert {k: v.tolist() for k, v in state.items()} == {k: v.tolist() for k, v in small.state_dict().items()}
    assert set(load_file(tmp_path / "s/extras.safetensors")) == {"gain", "shift"}
    document = json.loads((tmp_path / "s/plan.json").read_text())
    assert document["schema"] == 1 and document["metrics"] == {"accuracy": 0.98}
    assert document["written_by"]["torch"] == str(torch.__version__)
    assert (
        document["files"]["model.safetensors"]["sha256"]
        == hashlib.sha256((tmp_path / "s/model.safetensors").read_bytes()).hexdigest()
    )


class Tied(nn.Module):
    def __init__(self, tie=True):
        super().__init__()
        self.embed, self.head = nn.Embedding(11, 6), nn.Linear(6, 11, bias=False)
        if tie:
            self.head.weight = self.embed.weight

    def forward(self, i):
        return self.head(self.embed(i))


@pytest.mark.parametrize("factory_ties", [True, False])
def test_tied_weights_are_saved_once_and_come_back_tied(tmp_path, factory_ties):
    model = Tied()
    kept = {"embed.weight": {1: (0, 4)}, "head.weight": {1: (0, 4)}}
    changes = [AttributeChange("embed", "embedding_dim", (), 6, 2), AttributeChange("head", "in_features", (), 6, 2)]
    small = plan_of(model, kept, changes).apply(model)
    save(small, tmp_path / "s")
    assert list(load_file(tmp_path / "s/model.safetensors")) == ["embed.weight"]
    loaded = load(tmp_path / "s", lambda: Tied(factory_ties))
    assert loaded.head.weight is loaded.embed.weight
    assert_same_model(loaded, small, torch.arange(11))


def test_weights_untied_by_hand_stay_untied(tmp_path):
    model = Tied(tie=False)
    save(plan_of(model).apply(model), tmp_path / "s")
    loaded = load(tmp_path / "s", lambda: Tied(tie=True))
    assert loaded.head.weight is not loaded.embed.weight
    assert_same_model(loaded, model, torch.arange(11))


class Recurrent(nn.LSTM):
    def __init__(self):
        super().__init__(8, 6, num_layers=2, bidirectional=True)

    def forward(self, x):
        return super().forward(x.reshape(-1, 8))[0]


class ReadsValues(nn.Module):
    """Python floats out of tensors, as drop-path schedules are often made: impossible on the meta device."""

    def __init__(self):
        super().__init__()
        self.rates = [r.item() for r in torch.linspace(0.25, 0.75, 3)]
        self.conv = nn.Conv2d(3, 2, 1)

    def forward(self, x):
        return self.conv(x) * sum(self.rates)


class HidesTensors(nn.Module):
    """Tensors in a list: neither in the state dict nor attributes, so only a real build has them."""

    def __init__(self):
        super().__init__()
        self.scales = [torch.linspace(1, 2, 8), {"b": torch.tensor(3.0)}]
        self.conv = nn.Conv2d(3, 2, 1)

    def forward(self, x):
        return self.conv(x) * self.scales[0] + self.scales[1]["b"]


class Versioned(nn.Module):
    """Refuses a state dict without the version it wrote, as torchvision's MNASNet does."""

    _version = 2

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)

    def forward(self, x):
        return self.conv(x)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *rest):
        if local_metadata.get("version") != 2:
            raise ValueError(f"version should be 2, not {local_metadata.get('version')}")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


class Overlapping(nn.Module):
    """A buffer that is part of another's memory, one that is a transposed view, one expanded from a single value."""

    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.arange(64.0).view(8, 8))
        self.register_buffer("part", self.table[2:4])
        self.register_buffer("turned", torch.arange(24.0).view(8, 3).t())
        self.register_buffer("wide", torch.ones(1).expand(8))
        self.register_buffer("empty", torch.zeros(0, 8))
        self.register_buffer("none", None)

    def forward(self, x):
        return x @ self.table + self.part.sum() + self.turned.sum() + self.wide


def own_memory(model):
    """What load promises of strides: an expanded tensor comes back dense."""
    model.wide = model.wide.clone()
    return model


FACTORIES = {
    "LSTM": Recurrent,
    "reads values of tensors": ReadsValues,
    "hides tensors in a list": HidesTensors,
    "versioned state dict": Versioned,
    "attention": lambda: nn.Sequential(nn.Flatten(2), nn.TransformerEncoderLayer(64, 4, 32, batch_first=True)),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 2, 1)),
    "shared module": lambda: nn.Sequential(*[nn.Conv2d(3, 3, 1)] * 2),
    "a root that is a layer": lambda: nn.Conv2d(3, 2, 1),
}


@pytest.mark.parametrize("name", FACTORIES)
def test_any_architecture_comes_back(tmp_path, name):
    model = FACTORIES[name]().eval()
    save(plan_of(model).apply(model), tmp_path / "s")
    assert_same_model(load(tmp_path / "s", FACTORIES[name]), model)


def test_views_and_expanded_buffers_come_back(tmp_path):
    model = Overlapping()
    small = plan_of(model).apply(model)
    small.part = small.table[2:4]
    small.turned = model.turned
    small.wide = model.wide
    save(small, tmp_path / "s")
    assert_same_model(load(tmp_path / "s", Overlapping), own_memory(small))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_precision_is_as_saved_in_every_tensor(tmp_path, dtype):
    small = small_net().to(dtype)
    small.norm.float()  # mixed precision
    save(small, tmp_path / "s")
    loaded = load(tmp_path / "s", Net)
    assert {name: t.dtype for name, t in named_tensors(loaded).items()} == {
        name: t.dtype for name, t in named_tensors(small).items()
    }
    assert loaded.gain.dtype == dtype and loaded.norm.weight.dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(loaded.buffers(), small.buffers(), strict=True))


def test_channels_last_and_transposed_weights_keep_their_memory_order(tmp_path):
    small = small_net().to(memory_format=torch.channels_last)
    small.fc.weight = nn.Parameter(small.fc.weight.detach().t().contiguous().t())
    assert not small.conv.weight.is_contiguous() and not small.fc.weight.is_contiguous()
    save(small, tmp_path / "s")
    assert_same_model(load(tmp_path / "s", Net), small, X.contiguous(memory_format=torch.channels_last))


@pytest.mark.parametrize("shape", [(6, 1, 3, 3), (6, 3, 1, 1), (1, 6, 3, 3), (1, 1, 3, 3), (2, 3, 4, 5)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_memory_order_is_exact_where_strides_are_ambiguous(shape, memory_format):
    tensor = torch.randn(shape).contiguous(memory_format=memory_format)
    again = storage.in_order(tensor.contiguous(), storage.memory_order(tensor))
    assert again.stride() == tensor.stride() and torch.equal(again, tensor)


def test_modes_and_flags_come_back(tmp_path):
    small = small_net().train()
    small.norm.eval()
    small.conv.weight.requires_grad_(False)
    save(small, tmp_path / "s")
    loaded = load(tmp_path / "s", Net)
    assert (loaded.training, loaded.fc.training, loaded.norm.training) == (True, True, False)
    assert [n for n, p in loaded.named_parameters() if not p.requires_grad] == ["conv.weight"]
    loaded.eval(), small.eval()
    assert_same_model(loaded, small)


def test_a_factory_that_ignores_the_device_works(tmp_path):
    def factory():
        with torch.device("cpu"):
            return Net()

    small = small_net()
    save(small, tmp_path / "s")
    assert_same_model(load(tmp_path / "s", factory), small)


class _FilledList(nn.Module):
    """Keeps a tensor in a list, where no state dict has it: the factory must fill it."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
        self.held = [nn.init.constant_(torch.empty(2), 3.0).zero_().fill_(2.0)]

    def forward(self, x):
        return self.fc(x) * self.held[0]


def test_what_only_the_factory_fills_is_filled_although_meta_tensors_never_are(tmp_path):
    small, x = prunus.prune(_FilledList(), torch.randn(1, 4), ratio=0.5), torch.randn(3, 4)
    prunus.save(small, tmp_path / "s")
    loaded = prunus.load(tmp_path / "s", _FilledList)
    torch.testing.assert_close(loaded.held[0], torch.full((2,), 2.0))
    torch.testing.assert_close(loaded(x), small(x), rtol=0, atol=0)


def test_buffers_changed_since_they_were_made_come_back_changed(tmp_path):
    small = small_net()
    small.gain.mul_(3)
    small.shift += 1
    save(small, tmp_path / "s")
    assert_same_model(load(tmp_path / "s", Net), small)


def test_loading_leaves_the_random_state_and_needs_no_files_afterwards(tmp_path):
    small = small_net()
    save(small, tmp_path / "s")
    before = torch.get_rng_state()
    loaded = load(tmp_path / "s", lambda: copy.deepcopy(Net()))
    load_twice = load(tmp_path / "s", Net)
    assert torch.equal(before, torch.get_rng_state())
    (tmp_path / "s/model.safetensors").write_bytes(b"")
    assert_same_model(loaded, small)
    assert_same_model(load_twice, small)


def test_nothing_is_unpickled_or_pickled(tmp_path, monkeypatch):
    import pickle

    def forbidden(*_, **__):
        raise AssertionError("pickle was used")

    for name in ("load", "loads", "dump", "dumps", "Pickler", "Unpickler"):
        monkeypatch.setattr(pickle, name, forbidden)
    monkeypatch.setattr(torch, "load", forbidden)
    monkeypatch.setattr(torch, "save", forbidden)
    small = small_net()
    save(small, tmp_path / "s")
    assert_same_model(load(tmp_path / "s", Net), small)


@pytest.mark.skipif(not hasattr(prunus, "prune"), reason="prunus.prune isn't there yet")
def test_a_model_pruned_twice_comes_back(tmp_path):
    def factory():
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 7))

    once = prunus.prune(factory().eval(), X, ratio=0.5)
    twice = prunus.prune(once, X, ratio=0.5)
    save(twice, tmp_path / "s")
    loaded = load(tmp_path / "s", factory)
    assert loaded[0].out_channels == 2
    assert_same_model(loaded, twice)


# Saving: what is refused, and what a failure leaves behind


def test_a_model_without_a_plan_is_refused_and_a_given_plan_accepted(tmp_path):
    model = Net().eval()
    with pytest.raises(InputError, match=r"Net carries no plan.*prunus\.prune.*pass plan="):
        save(model, tmp_path / "s")
    save(model, tmp_path / "s", plan=plan_of(model))
    assert_same_model(load(tmp_path / "s", Net), model)


def test_an_existing_folder_is_replaced_only_when_asked(tmp_path):
    first, second = small_net(), small_net()
    second.fc.bias.data.zero_()
    (tmp_path / "s").mkdir()
    save(first, tmp_path / "s")  # an empty folder is fine
    with pytest.raises(SaveError, match="already holds a saved model: pass overwrite=True"):
        save(second, tmp_path / "s")
    assert_same_model(load(tmp_path / "s", Net), first)
    save(second, tmp_path / "s", overwrite=True)
    assert_same_model(load(tmp_path / "s", Net), second)
    assert os.listdir(tmp_path) == ["s"]


def test_a_folder_of_something_else_is_never_replaced(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SaveError, match=r"'notes\.txt', which prunus didn't save"):
        save(small_net(), tmp_path, overwrite=True)
    with pytest.raises(SaveError, match="is a file"):
        save(small_net(), tmp_path / "notes.txt", overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("broken", ["write", "rename"])
def test_a_failure_while_saving_leaves_the_old_folder_and_nothing_else(tmp_path, monkeypatch, broken):
    small = small_net()
    save(small, tmp_path / "s")
    rename, calls = Path.rename, []

    def second_rename_fails(self, target):
        calls.append(target)
        if len(calls) == 2:
            raise OSError("no space left on device")
        return rename(self, target)

    def half_written(tensors, path):
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    if broken == "write":
        monkeypatch.setattr(storage, "write", half_written)
    else:
        monkeypatch.setattr(Path, "rename", second_rename_fails)
    for target, overwrite in ((tmp_path / "s", True), *([(tmp_path / "t", False)] if broken == "write" else [])):
        with pytest.raises(OSError, match="no space left"):
            save(small, target, overwrite=overwrite)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["s"]
    assert_same_model(load(tmp_path / "s", Net), small)


def test_metrics_must_be_json_and_leave_nothing_when_they_are_not(tmp_path):
    for metrics in ({"loss": float("nan")}, {"loss": torch.ones(1)}):
        with pytest.raises(InputError, match="metrics must be JSON"):
            save(small_net(), tmp_path / "s", metrics=metrics)
    assert os.listdir(tmp_path) == []


def test_a_model_changed_after_pruning_is_refused_by_name(tmp_path):
    small = small_net()
    small.fc = nn.Linear(3, 9)
    with pytest.raises(SaveError, match=r"'fc.weight' has shape \[9, 3\], but the plan leaves it \[5, 3\]"):
        save(small, tmp_path / "s")
    del small.fc
    with pytest.raises(SaveError, match=r"'fc.weight' is gone"):
        save(small, tmp_path / "s")
    small = small_net()
    small.extra = nn.Linear(2, 2)
    with pytest.raises(SaveError, match=r"'extra.weight', which its plan doesn't know"):
        save(small, tmp_path / "s")


def test_what_safetensors_cannot_hold_is_refused_by_name(tmp_path):
    class Extra(nn.Linear):
        def get_extra_state(self):
            return {"step": 3}

        def set_extra_state(self, state):
            pass

    for model, words in (
        (Extra(2, 2), "'_extra_state', a dict"),
        (nn.Linear(2, 2, device="meta"), "'weight' is on the meta device"),
        (nn.Linear(2, 2).to(torch.complex128), r"'weight' is of torch.complex128"),
    ):
        with pytest.raises(SaveError, match=words):
            save(model, tmp_path / "s", plan=plan_of(model))
    sparse = nn.Linear(2, 2)
    sparse.weight = nn.Parameter(sparse.weight.detach().to_sparse())
    with pytest.raises(SaveError, match=r"'weight' is .* of layout torch.sparse_coo"):
        save(sparse, tmp_path / "s", plan=plan_of(sparse))


# Loading: each kind of damage by its text


@pytest.fixture
def saved(tmp_path):
    save(small_net(), tmp_path / "s")
    return tmp_path / "s"


def edit(folder, change):
    """Change plan.json, then let its hashes and sizes fit the files that are there."""
    path = folder / "plan.json"
    document = json.loads(path.read_text())
    for name, entry in document["files"].items():
        data = (folder / name).read_bytes()
        entry.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    change(document)
    path.write_text(json.dumps(document))


def rewrite(folder, change, file="model.safetensors"):
    tensors = load_file(folder / file)
    change(tensors)
    save_file(tensors, folder / file)
    edit(folder, lambda document: None)


def test_missing_folder_or_file(saved):
    with pytest.raises(SaveError, match=r"nowhere/plan\.json can't be read \(No such file"):
        load(saved.parent / "nowhere", Net)
    (saved / "extras.safetensors").unlink()
    with pytest.raises(SaveError, match=r"extras\.safetensors can't be read"):
        load(saved, Net)
    (saved / "plan.json").unlink()
    with pytest.raises(SaveError, match=r"plan\.json can't be read.*is .* a folder prunus\.save wrote"):
        load(saved, Net)


def test_truncated_tampered_and_foreign_weights(saved):
    path = saved / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-10])
    with pytest.raises(SaveError, match=r"model\.safetensors has .* bytes where .* were saved: it is truncated"):
        load(saved, Net)
    edit(saved, lambda document: None)
    with pytest.raises(SaveError, match=r"model\.safetensors isn't a valid safetensors file"):
        load(saved, Net)
    save(small_net(), saved, overwrite=True)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(SaveError, match=r"model\.safetensors isn't the file that was saved \(its SHA-256 differs"):
        load(saved, Net)


def test_links_pipes_and_folders_in_place_of_files(saved, tmp_path):
    path = saved / "model.safetensors"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SaveError, match=r"model\.safetensors is a symbolic link"):
        load(saved, Net)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(SaveError, match=r"model\.safetensors isn't a regular file"):
        load(saved, Net)
    path.unlink()
    path.mkdir()
    with pytest.raises(SaveError, match="isn't a regular file"):
        load(saved, Net)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "other.safetensors"])
def test_file_names_in_the_plan_lead_nowhere(saved, name):
    def move(document):
        document["files"][name] = document["files"].pop("extras.safetensors")

    edit(saved, move)
    with pytest.raises(SaveError, match=r"must list model\.safetensors and at most extras\.safetensors"):
        load(saved, Net)


def test_unknown_schema_version(saved):
    for version in (2, None, True, "1"):
        edit(saved, lambda document, version=version: document.update(schema=version))
        with pytest.raises(SaveError, match=rf"schema version '{version}'; this prunus reads version 1.*upgrade"):
            load(saved, Net)
    edit(saved, lambda document: document.update(schema=1) or document["plan"].update(schema=7))
    with pytest.raises(SaveError, match="malformed: the plan has schema 7"):
        load(saved, Net)


def test_malformed_json(saved, monkeypatch):
    path = saved / "plan.json"
    text = path.read_text()
    for bad, words in (
        (text[:-20], "isn't valid JSON"),
        ("[" * 100_000, "isn't valid JSON"),
        (text.replace('"metrics": {}', '"metrics": {"a": NaN}'), "NaN is no JSON value"),
        ("[]", "isn't a JSON object"),
        ("9" * 5000, "isn't valid JSON"),
    ):
        path.write_text(bad)
        with pytest.raises(SaveError, match=words):
            load(saved, Net)
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(SaveError, match="isn't UTF-8 text"):
        load(saved, Net)
    path.write_text(text)
    monkeypatch.setattr("prunus.documents.MAX_BYTES", 100)
    with pytest.raises(SaveError, match="more than any plan needs"):
        load(saved, Net)


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("files", [], "'files' must be of type dict"),
        ("files", {"model.safetensors": 3}, r"entry of file 'model.safetensors' must be an object"),
        ("aliases", {"a": 3}, "'a' must be of type str"),
        ("aliases", {"a": "b"}, "ties 'a' to 'b', which isn't saved"),
        ("orders", {"conv.weight": [0, 0, 1, 2]}, r"order of 'conv.weight' isn't a permutation"),
        ("orders", {"conv.weight": [1, 0]}, r"order of 'conv.weight' doesn't fit its shape"),
        ("orders", {"conv.weight": ["0"]}, "list of whole numbers"),
        ("training", 1, "'training' must be of type bool"),
        ("frozen", [3], "'frozen' must be a list of names"),
        ("module_versions", {"": True}, "must be of type int"),
        ("plan", 3, "the plan has schema None"),
        ("plan", {"schema": 1}, "malformed: the plan is malformed"),
    ],
)
def test_every_entry_is_checked(saved, key, value, words):
    edit(saved, lambda document: document.update({key: value}))
    with pytest.raises(SaveError, match=words):
        load(saved, Net)


def test_every_entry_is_needed(saved):
    text = (saved / "plan.json").read_text()
    for key in json.loads(text).keys() - {"schema"}:
        (saved / "plan.json").write_text(json.dumps({k: v for k, v in json.loads(text).items() if k != key}))
        with pytest.raises(SaveError, match=f"has no entry '{key}'"):
            load(saved, Net)


def test_another_architecture_is_named(saved):
    def wider():
        model = Net()
        model.fc = nn.Linear(4, 6)
        return model

    with pytest.raises(
        SaveError, match=r"doesn't fit the Net that the factory builds.*'fc.weight' of shape \[5, 4\].*\[6, 4\]"
    ):
        load(saved, wider)
    with pytest.raises(SaveError, match=r"doesn't fit the Linear.*a tensor 'conv.weight'; this one has none"):
        load(saved, lambda: nn.Linear(2, 2))


def test_wrong_missing_and_extra_tensors_are_named(saved):
    original = load_file(saved / "model.safetensors")
    for change, words in (
        (lambda t: t.update({"fc.bias": torch.zeros(4)}), r"'fc.bias' has shape \[4\], but the plan leaves it \[5\]"),
        (lambda t: t.update({"fc.bias": torch.zeros(5, dtype=torch.int32)}), "'fc.bias' is of torch.int32, but"),
        (lambda t: t.pop("fc.bias"), "holds no 'fc.bias'"),
        (
            lambda t: t.update({"more": torch.zeros(1)}),
            "holds 'more', which the model that the factory builds doesn't have",
        ),
    ):
        rewrite(saved, lambda tensors, change=change: (tensors.clear(), tensors.update(original), change(tensors)))
        with pytest.raises(SaveError, match=words):
            load(saved, Net)


def test_factories_that_fail_say_so(saved):
    def broken():
        raise AttributeError("no such thing")

    with pytest.raises(InputError, match="factory raised AttributeError: no such thing") as caught:
        load(saved, broken)
    assert isinstance(caught.value.__cause__, AttributeError)
    with pytest.raises(InputError, match="factory raised RuntimeError: always"):
        load(saved, lambda: (_ for _ in ()).throw(RuntimeError("always")))
    with pytest.raises(InputError, match=r"must return the torch\.nn\.Module before pruning; it returned NoneType"):
        load(saved, lambda: None)
    with pytest.raises(InputError, match="factory must be a function that builds the model"):
        load(saved, Net())


HOSTILE = [
    None,
    True,
    -1,
    0,
    2**70,
    1e308,
    "",
    "x" * 1000,
    "../..",
    "__class__",
    [],
    {},
    [[]],
    {"a": None},
    [0, 0],
    [2**40],
]


def mutate(document, rng):
    """Replace, remove or add one value somewhere in a JSON document."""
    place = document
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = rng.choice(keys)
        if not isinstance(place[key], (dict, list)) or not place[key] or rng.random() < 0.3:
            break
        place = place[key]
    action = rng.random()
    if action < 0.6:
        place[key] = copy.deepcopy(rng.choice(HOSTILE))
    elif action < 0.8:
        del place[key]
    elif isinstance(place, dict):
        place[rng.choice(["", "conv.weight", "__class__", "x"])] = place.pop(key)
    else:
        place.append(copy.deepcopy(rng.choice(HOSTILE)))


def test_fuzzed_plans_load_or_raise_our_errors(saved):
    rng, text = random.Random(0), (saved / "plan.json").read_text()
    refused = 0
    for _ in range(400):
        document = json.loads(text)
        for _ in range(rng.randint(1, 3)):
            mutate(document, rng)
        (saved / "plan.json").write_text(json.dumps(document))
        try:
            load(saved, Net)
        except PrunusError:
            refused += 1
    assert refused > 200


def test_fuzzed_weights_load_or_raise_our_errors(saved):
    rng, data = random.Random(0), (saved / "model.safetensors").read_bytes()
    refused = 0
    for _ in range(200):
        mutated = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            mutated[rng.randrange(min(len(data), 900))] = rng.randrange(256)
        (saved / "model.safetensors").write_bytes(mutated[: rng.choice([len(data), rng.randrange(len(data))])])
        edit(saved, lambda document: None)
        try:
            load(saved, Net)
        except PrunusError:
            refused += 1
    assert refused > 100


class Anchored(nn.Module):
    """Its ``forward`` keeps plain tensors, as detectors keep their anchors."""

    anchors = torch.empty(0)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.shape, self.grid = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1, bias=False), None, None

    def forward(self, x: Tensor) -> Tensor:
        if self.shape != x.shape:
            self.anchors, self.shape = torch.linspace(0, 1, x.shape[-1] - 2), x.shape
            self.grid = self.anchors[:, None] + self.anchors
        y: Tensor = self.b(self.a(x).relu()) * self.anchors + self.grid
        return y


def test_what_forward_made_is_saved_and_comes_back(tmp_path: Path) -> None:
    model, x = Anchored().eval(), torch.randn(2, 3, 6, 6)
    plan = prunus.plan(model, x, ratio=0.5)
    expected = plan.apply(model)(x)
    model(x)
    assert prunus.prove(model, plan.apply(model), plan, x).ok, "the plan is older than the anchors"
    small = prunus.prune(model, x, ratio=0.5)  # the model has run: it holds what forward made
    prunus.save(small, tmp_path / "s")
    loaded = prunus.load(tmp_path / "s", lambda: Anchored().eval())
    assert torch.equal(loaded(x), small(x)) and torch.equal(small(x), expected)
    assert torch.equal(loaded.anchors, small.anchors) and "anchors" not in loaded.state_dict()
    other = torch.randn(1, 3, 9, 9)
    assert torch.equal(loaded(other), small(other))


@pytest.mark.parametrize("name", ["forward", "b.bias", "a", "nowhere.at"])
def test_a_tensor_takes_the_place_of_nothing_else(tmp_path: Path, name: str) -> None:
    model, x = Anchored().eval(), torch.randn(2, 3, 6, 6)
    model(x)
    prunus.save(prunus.prune(model, x, ratio=0.5), tmp_path / "s")
    path = tmp_path / "s/extras.safetensors"
    tensors = load_file(path)
    tensors[name] = tensors.pop("anchors")
    save_file(tensors, path)
    document = json.loads((tmp_path / "s/plan.json").read_text())
    text = json.dumps(document).replace('"anchors"', json.dumps(name))
    document = json.loads(text)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    document["files"]["extras.safetensors"] = {"bytes": path.stat().st_size, "sha256": digest}
    (tmp_path / "s/plan.json").write_text(json.dumps(document))
    with pytest.raises(SaveError, match=name):
        prunus.load(tmp_path / "s", Anchored)
