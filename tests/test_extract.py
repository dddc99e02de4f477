"""Extraction: the small network is the masked one's function, for every way in which a dead unit still counts."""

from __future__ import annotations

import copy
import os
import random

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

import prunus
from benchmarks.zoo.case import randomize
from tests.test_fuzz import Random

COUNT = int(os.environ.get("PRUNUS_FUZZ", "60"))


def mask(model: nn.Module, amount: float, seed: int = 0, kinds: tuple[type, ...] = (nn.Conv2d, nn.Linear)) -> nn.Module:
    """Mask random filters of every layer, with torch's own tool, a layer's last one never."""
    rng = random.Random(seed)
    for module in model.modules():
        if isinstance(module, kinds):
            keep = torch.ones_like(module.weight)
            keep[rng.sample(range(keep.shape[0]), int(amount * keep.shape[0]))] = 0
            torch_prune.custom_from_mask(module, "weight", keep)
    return model


def relative(expected: Tensor, found: Tensor) -> float:
    expected, found = expected.detach(), found.detach()
    return float((expected - found).abs().max() / expected.abs().max())


def same(masked: nn.Module, small: nn.Module, *inputs: Tensor) -> None:
    """Both in fp32, by torch alone: 2e-6 of the largest output."""
    masked.eval(), small.eval()
    for x in inputs:
        with torch.no_grad():
            assert relative(masked(x), small(x)) <= 2e-6


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


class Residual(nn.Module):
    """A stem, two residual blocks with batch norm, a head."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.first = nn.ModuleList(nn.Conv2d(width, 2 * width, 3, padding=1, bias=False) for _ in range(2))
        self.norm = nn.ModuleList(nn.BatchNorm2d(2 * width) for _ in range(2))
        self.second = nn.ModuleList(nn.Conv2d(2 * width, width, 3, padding=1) for _ in range(2))
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for a, norm, b in zip(self.first, self.norm, self.second, strict=True):
            x = F.gelu(x + b(torch.relu(norm(a(x)))))
        return self.head(x.mean((2, 3)))


def make(model: nn.Module, amount: float = 0.5, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model.eval()
    randomize(model)
    return mask(model, amount, seed)


X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("amount", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("spread", [True, False])
def test_residual_blocks_at_any_resolution(amount: float, spread: bool) -> None:
    masked = make(Residual(), amount)
    small = prunus.extract(masked, X, spread=spread)
    assert size(small) < size(Residual())
    assert any("spread" in name for name in small.state_dict()) == spread
    same(masked, small, X, torch.randn(3, 3, 13, 11))


def test_the_masked_model_stays_as_it_is() -> None:
    masked = make(Residual()).train()
    before = {name: t.clone() for name, t in masked.state_dict().items()}
    state = torch.get_rng_state()
    prunus.extract(masked, X)
    assert torch.equal(torch.get_rng_state(), state) and masked.training
    assert all(torch.equal(before[name], t) for name, t in masked.state_dict().items())
    assert torch_prune.is_pruned(masked)


def test_masks_of_every_kind_and_removed_ones() -> None:
    models = [make(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)), 0.0) for _ in range(3)]
    for model in models:
        torch_prune.remove(model[0], "weight")
        torch_prune.remove(model[2], "weight")
    torch_prune.ln_structured(models[0][0], "weight", 0.5, n=2, dim=0)
    torch_prune.random_structured(models[1][0], "weight", 0.25, dim=0)
    torch_prune.ln_structured(models[1][0], "weight", 0.25, n=1, dim=0)  # a container
    torch_prune.ln_structured(models[2][0], "weight", 0.5, n=1, dim=0)
    torch_prune.remove(models[2][0], "weight")
    for model in models:
        small = prunus.extract(model, X)
        assert small[0].out_channels <= 5 and set(dict(small[0].named_parameters())) == {"weight", "bias"}
        assert not torch_prune.is_pruned(small)
        copy.deepcopy(small)
        same(model, small, X)


def test_a_bias_is_made_where_constants_go_and_none_is() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sigmoid(), nn.Conv2d(8, 4, 1, bias=False))
    masked = mask(model, 0.5, kinds=(nn.Conv2d,))
    small = prunus.extract(masked, X)
    assert small.prunus_plan.biases == ("2.bias",)
    same(masked, small, X)


def test_zero_padding_takes_one_channel_that_carries_the_others() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Sigmoid(), nn.Conv2d(8, 4, 3, padding=1)).eval()
    torch_prune.ln_structured(model[0], "weight", 0.5, n=1, dim=0)
    small = prunus.extract(model, X, spread=False)
    assert small[0].out_channels == 5 and small.prunus_extraction.carriers == 1
    same(model, small, X, torch.randn(1, 3, 17, 5))


def test_filters_that_emit_zero_need_no_carrier() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1)).eval()
    torch_prune.ln_structured(model[0], "weight", 0.5, n=1, dim=0)
    small = prunus.extract(model, X)
    assert small[0].out_channels == 4
    same(model, small, X)


def test_a_live_filter_whose_weights_sum_to_zero_stays() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    with torch.no_grad():
        model[0].weight[0] = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]])
        model[0].weight[1] = 0
    small = prunus.extract(model, torch.randn(2, 1, 8, 8))
    assert small[0].out_channels == 3 and torch.equal(small[0].weight[0], model[0].weight[0])
    same(model, small, torch.randn(2, 1, 9, 9))


def test_dead_from_behind_in_a_chain() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 3)).eval()
    with torch.no_grad():
        model[4].weight[:, :5] = 0  # five units are never read
        model[2].weight[5:, :4] = 0  # then nothing reads these four
    small = prunus.extract(model, torch.randn(2, 6))
    assert (small[0].out_features, small[2].out_features) == (4, 3)
    same(model, small, torch.randn(7, 6))


def test_depthwise_grouped_flatten_and_concat() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 4, 1)
            self.norm, self.depth = nn.BatchNorm2d(12), nn.Conv2d(12, 12, 3, padding=1, groups=12)
            self.point, self.grouped = nn.Conv2d(12, 8, 1), nn.Conv2d(8, 8, 3, groups=2)
            self.head = nn.Linear(8 * 36, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = F.hardswish(self.norm(torch.cat([self.a(x), self.b(x)], 1)))
            return self.head(self.grouped(F.elu(self.point(torch.tanh(self.depth(x))))).flatten(1))

    masked = make(Net())
    small = prunus.extract(masked, X)
    assert small.depth.groups < 12 and small.depth.in_channels == small.depth.groups
    assert small.prunus_extraction.max_rel_error <= 1e-12
    same(masked, small, X)


def test_a_dead_group_goes_and_places_of_every_group() -> None:
    def grouped(*dead: int) -> nn.Module:
        layers = nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, groups=4), nn.Sigmoid()
        model = nn.Sequential(*layers, nn.Conv2d(16, 5, 1)).eval()
        with torch.no_grad():
            model[2].weight[list(dead)] = 0
        return model

    model = grouped(4, 5, 6, 7)
    small = prunus.extract(model, X)
    assert (small[0].out_channels, small[2].groups, small[2].out_channels) == (12, 3, 12)
    same(model, small, X, torch.randn(1, 3, 11, 9))
    small = prunus.extract(grouped(1, 5, 9, 13), X)
    assert (small[2].groups, small[2].out_channels, small[4].in_channels) == (4, 12, 12)
    with pytest.raises(prunus.NothingToPrune):
        prunus.extract(grouped(0, 5, 10), X)


def test_layer_norm_keeps_its_width_and_attention_loses_heads() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.norm = nn.Linear(6, 16), nn.LayerNorm(16)
            self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))
            self.head, self.heads = nn.Linear(16, 3), 4

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(self.inner(x))
            q, k, v = (f(x).view(*x.shape[:2], self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
            y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            return self.head(x + self.out(y))

    torch.manual_seed(0)
    model = Block().eval()
    with torch.no_grad():
        model.inner.weight[:3] = 0  # constants, but layer norm sees them
        model.v.weight[4:12] = 0  # two heads give constants
        model.q.weight[12:] = 0  # attends alike to everything, which isn't nothing
    small = prunus.extract(model, torch.randn(2, 5, 6), spread=False)
    assert small.inner.out_features == 16 and small.v.out_features == 8 and small.q.weight.shape[0] == 8
    same(model, small, torch.randn(2, 5, 6), torch.randn(1, 9, 6))


def test_drop_measures_the_difference() -> None:
    masked = make(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Sigmoid(), nn.Conv2d(8, 4, 3, padding=1)))
    small = prunus.extract(masked, X, mode="drop")
    assert small[0].out_channels == 4
    report = small.prunus_extraction
    masked.eval()
    assert report.checks[0].error == pytest.approx(relative(masked(X), small(X)), rel=1e-4)
    assert report.max_rel_error > 1e-3 and "fine-tune" in str(report)


def test_nothing_to_prune_says_why() -> None:
    model = make(Residual(), 0.0)
    for module in (model.stem, *model.first):
        torch_prune.l1_unstructured(module, "weight", 0.5)
    with pytest.raises(prunus.NothingToPrune, match=r"\d+\.\d% of the weights are zero, but only 0 of .* rows"):
        prunus.extract(model, X)
    with pytest.raises(prunus.InputError, match="mode must be"):
        prunus.extract(model, X, mode="fast")


def test_a_wrong_extraction_is_not_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    from prunus.extraction import fold

    monkeypatch.setattr(fold, "_into_bias", lambda *_: None)
    masked = mask(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sigmoid(), nn.Conv2d(8, 4, 1)), 0.5).eval()
    with pytest.raises(prunus.PlanError, match="isn't exact"):
        prunus.extract(masked, X)


def test_saved_and_loaded_and_cut_again(tmp_path) -> None:
    masked = make(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sigmoid(), nn.Conv2d(8, 6, 1, bias=False), Residual6()))
    small = prunus.extract(masked, X)
    assert small.prunus_plan.biases and small.prunus_plan.spread
    factory = lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sigmoid(), nn.Conv2d(8, 6, 1, bias=False), Residual6())  # noqa: E731
    loaded = prunus.load(prunus.save(small, tmp_path / "one"), factory)
    assert torch.equal(small.eval()(X), loaded.eval()(X))
    again = prunus.prune(small, X, ratio=0.4)
    loaded = prunus.load(prunus.save(again, tmp_path / "two"), factory)
    assert torch.equal(again.eval()(X), loaded.eval()(X))
    assert prunus.Plan.from_json(again.prunus_plan.to_json()) == again.prunus_plan


class Residual6(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(6, 12, 3, padding=1), nn.Conv2d(12, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.b(torch.relu(self.a(x)))).mean((2, 3))


def test_positions_that_the_example_is_too_short_to_read_stay() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.place = nn.Parameter(torch.randn(1, 32, 8))
            self.register_buffer("ids", torch.arange(32)[None])
            self.one, self.two, self.scale = nn.Linear(8, 16), nn.Linear(16, 3), nn.Embedding(32, 1)

        def forward(self, x: Tensor) -> Tensor:
            n = x.shape[1]
            scale = self.scale(self.ids.expand(x.shape[0], -1)[:, :n])
            return self.two(torch.relu(self.one(x + self.place[:, :n] * scale)))

    masked = make(Net(), 0.5)
    small = prunus.extract(masked, torch.randn(2, 5, 8))
    assert small.one.out_features == 8
    same(masked, small, torch.randn(2, 5, 8), torch.randn(1, 32, 8))


def test_from_the_command_line(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from prunus.cli import app

    monkeypatch.chdir(tmp_path)
    source = "from torch import nn\nNet = lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))\n"
    (tmp_path / "masked_net.py").write_text(source)
    model = mask(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)), 0.5)
    for layer in (model[0], model[2]):
        torch_prune.remove(layer, "weight")
    torch.save(model.state_dict(), tmp_path / "masked.pt")
    call = "extract masked_net.py:Net -i 2x3x8x8 -w masked.pt -o small".split()
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0, done.output
    assert "a larger batch" in done.output
    small = prunus.load(tmp_path / "small", lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)))
    same(model, small, X)


def _same_twice(model: nn.Module) -> None:
    """The first filter of everything is also the second."""
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.dim() and len(tensor) > 1:
                tensor[1] = tensor[0]


def fuzz(seed: int) -> bool:
    """Whether anything was extracted from the random network of that seed; a wrong result raises."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    model, x = Random(seed).eval(), torch.randn(2, 3, 6, 6)
    randomize(model)
    if rng.random() < 0.3:
        _same_twice(model)
    mask(model, rng.choice([0.3, 0.5, 0.8]), seed, (nn.Conv2d, nn.Linear, nn.ConvTranspose2d))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and rng.random() < 0.5:
            torch_prune.random_unstructured(module, "weight", 0.3)
    try:
        small = prunus.extract(model, x, spread=rng.random() < 0.5)
    except prunus.NothingToPrune:
        return False
    assert size(small) < size(Random(seed))
    for other in (x, torch.randn(3, 3, 9, 7)):
        with torch.no_grad():
            expected, found = model(other), small(other)
        assert relative(expected, found) <= 2e-5, seed  # fp32, through statistics of few values
    return True


@pytest.mark.parametrize("start", range(0, COUNT, 10))
def test_random_networks(start: int) -> None:
    extracted = [fuzz(seed) for seed in range(start, start + 10)]
    assert any(extracted), "nothing was extracted from any of them"
