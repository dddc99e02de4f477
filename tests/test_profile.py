"""profile: totals against torch's own counter and hand counts, and nothing of the user's changed."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import macs
from prunus.errors import InputError, TraceError
from prunus.profile import profile


class ConvNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.act = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(8, 8, 3, groups=4, stride=2)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        return self.fc(self.up(self.conv2(self.act(self.norm(self.conv1(x))))).mean((2, 3)))


class Attention(nn.Module):
    """Functional attention: its products are in no leaf module."""

    def __init__(self, width=24, heads=3):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, length, width))


def counted_by_torch(model, *args):
    """Operations as torch counts them, every attention spelled out as its products."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(*args)
    torch.backends.mha.set_fastpath_enabled(fast)
    return counter.get_total_flops()


CASES = {
    "conv": (ConvNet, (2, 3, 12, 12)),
    "functional attention": (Attention, (2, 7, 24)),
    "torch's transformer layer": (lambda: nn.TransformerEncoderLayer(24, 3, 40, batch_first=True), (2, 7, 24)),
    "one linear layer": (lambda: nn.Linear(4, 5), (3, 4)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_macs_agree_with_torchs_counter(name, device):
    make, shape = CASES[name]
    model, x = make().eval().to(device), torch.randn(shape, device=device)
    found = profile(model, x, latency=False)
    assert found.macs > 0
    assert 2 * found.macs == counted_by_torch(model, x)
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert found.bytes == 4 * found.parameters


VISION = ("resnet50", "vit_b_16", "swin_t", "shufflenet_v2_x0_5", "lraspp_mobilenet_v3_large", "r3d_18")


@pytest.mark.parametrize("name", [*macs.OPERATORS, *VISION])
def test_every_module_agrees_with_torchs_counter_and_the_axes(name):
    build = macs.OPERATORS.get(name, lambda: macs.vision(name))
    found = macs.compare(*macs.on_meta(build))
    assert found.agree, found
    assert found.profile > 0 or name in macs.UNCOUNTED


def test_that_comparison_notices_one_layer(monkeypatch):
    counted = macs.counted_by_torch
    monkeypatch.setattr(macs, "counted_by_torch", lambda *a: counted(*a) | {"fc": 19})
    found = macs.compare(ConvNet(), (torch.randn(1, 3, 12, 12),))
    assert not found.agree and found.layers == ("fc (Linear): torch 19, profile 20",)


def test_each_row_of_a_conv_net_is_right():
    rows = {row.name: row for row in profile(ConvNet(), torch.randn(2, 3, 12, 12), latency=False).rows}
    assert list(rows) == ["conv1", "norm", "act", "conv2", "up", "fc"]
    assert (rows["conv1"].parameters, rows["conv1"].macs) == (3 * 8 * 9, 2 * 8 * 144 * 3 * 9)
    assert rows["conv1"].output_shape == (2, 8, 12, 12)
    assert rows["conv1"].activation_bytes == 4 * 2 * 8 * 144
    assert rows["act"].activation_bytes == 0  # in place
    assert (rows["conv2"].macs, rows["conv2"].output_shape) == (2 * 8 * 25 * 2 * 9, (2, 8, 5, 5))
    assert rows["up"].macs == 2 * 8 * 25 * 4 * 4
    assert (rows["fc"].macs, rows["fc"].parameters, rows["fc"].parameter_bytes) == (2 * 4 * 5, 25, 100)


def test_attention_products_belong_to_the_module_that_computes_them():
    rows = {row.name: row for row in profile(Attention(), torch.randn(2, 7, 24), latency=False).rows}
    assert rows[""].macs == 2 * (2 * 7 * 7 * 24)
    assert rows[""].parameters == 0
    assert rows["qkv"].macs == 2 * 7 * 24 * 72


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_are_counted_whatever_kernel_runs(layer):
    model, x = layer(5, 6, num_layers=2, bidirectional=True), torch.randn(7, 3, 5)
    matrices = sum(w.numel() for w in model.parameters() if w.dim() == 2)
    assert profile(model, x, latency=False).macs == 7 * 3 * matrices


def test_shared_modules_and_tied_parameters_count_once_but_work_twice():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(10, 4)
            self.block = nn.Linear(4, 4, bias=False)
            self.head = nn.Linear(4, 10, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, i):
            return self.head(self.block(self.block(self.embed(i))))

    found = profile(Shared(), torch.arange(6), latency=False)
    rows = {row.name: row for row in found.rows}
    assert found.parameters == 40 + 16
    assert (rows["block"].calls, rows["block"].macs) == (2, 2 * 6 * 16)
    assert (rows["head"].parameters, rows["head"].macs) == (0, 6 * 40)


def test_a_module_whose_parameters_are_used_without_calling_it_keeps_its_row():
    rows = {row.name: row for row in profile(nn.MultiheadAttention(8, 2), (torch.randn(3, 1, 8),) * 3).rows}
    assert rows["out_proj"].parameters == 72
    assert (rows["out_proj"].calls, rows["out_proj"].output_shape) == (0, None)


class Messy(nn.Module):
    """Random, in place, and with one part frozen in eval mode."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.norm = nn.BatchNorm1d(4).eval()
        self.fc = nn.Linear(4, 4)

    def forward(self, x, *, scale):
        x.mul_(2)
        return self.fc(self.norm(self.drop(x))) * scale + torch.rand(4)


def test_nothing_of_the_users_changes():
    model, x, scale, seen = Messy().train(), torch.randn(3, 4), torch.ones(1), []
    model.norm.eval()
    model.fc.register_forward_hook(lambda *_: seen.append(1))
    hooks = {name: (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in model.named_modules()}
    state, given, random = {k: v.clone() for k, v in model.state_dict().items()}, x.clone(), torch.get_rng_state()
    profile(model, (x,), {"scale": scale}, repeats=2)
    assert torch.equal(random, torch.get_rng_state())
    assert torch.equal(given, x)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert (model.training, model.drop.training, model.norm.training) == (True, True, False)
    assert {n: (len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in model.named_modules()} == hooks
    assert seen and torch.is_grad_enabled() and torch.backends.mha.get_fastpath_enabled()


def test_latency_is_told_for_every_row_and_for_the_whole():
    found = profile(ConvNet(), torch.randn(1, 3, 12, 12), repeats=3)
    assert found.latency_ms > 0
    assert all(row.latency_ms > 0 for row in found.rows)


def test_prints_as_a_table_and_goes_to_json():
    found = profile(ConvNet(), torch.randn(2, 3, 12, 12), latency=False)
    lines = str(found).splitlines()
    assert lines[0].split() == ["module", "type", "output", "parameters", "MACs", "bytes", "activations", "ms"]
    assert lines[2].split() == ["conv1", "Conv2d", "2x8x12x12", "216", "62,208", "864", "9,216", "-"]
    assert lines[-1].split()[:3] == ["total", f"{found.parameters:,}", f"{found.macs:,}"]
    document = json.loads(json.dumps(found.to_dict()))
    assert document["macs"] == found.macs
    assert [row["name"] for row in document["rows"]] == [row.name for row in found.rows]


def test_the_users_exception_comes_chained_and_leaves_no_hooks():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(2, 2)

        def forward(self, x):
            raise KeyError("my own mistake")

    model = Broken()
    with pytest.raises(
        TraceError, match=r"Broken.forward raised KeyError: 'my own mistake'.*\[1, 2\] torch.float32 on cpu"
    ):
        profile(model, torch.ones(1, 2))
    with pytest.raises(TraceError, match=r"Linear\.forward raised RuntimeError") as caught:
        profile(nn.Linear(3, 3), torch.ones(1, 2))
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert model.training and not model.fc._forward_hooks and not model._forward_pre_hooks


def test_a_child_that_fails_and_is_caught_does_not_upset_the_count():
    class Tries(nn.Module):
        def __init__(self):
            super().__init__()
            self.bad, self.good = nn.Linear(3, 2), nn.Linear(2, 2)

        def forward(self, x):
            try:
                return self.bad(x)
            except RuntimeError:
                return self.good(x)

    rows = {row.name: row for row in profile(Tries(), torch.ones(1, 2), latency=False).rows}
    assert rows["good"].macs == 4
    assert "" not in rows


def test_bad_input_is_refused_with_the_cure():
    with pytest.raises(InputError, match="pass latency=False"):
        profile(nn.Linear(2, 2, device="meta"), torch.ones(1, 2))
    with pytest.raises(InputError, match="args must be one tensor or a tuple"):
        profile(nn.Linear(2, 2), {"x": torch.ones(1, 2)})
    with pytest.raises(InputError, match="give the eager model"):
        profile(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), torch.ones(1, 2))
    with pytest.raises(InputError, match="run the model once"):
        profile(nn.Sequential(nn.LazyLinear(2)), torch.ones(1, 2))
    with pytest.raises(InputError, match=r"expected a torch\.nn\.Module"):
        profile(len, torch.ones(1, 2))
    with pytest.raises(InputError, match="repeats"):
        profile(nn.Linear(2, 2), torch.ones(1, 2), repeats=0)
