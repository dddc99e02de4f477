"""Mending without training, against least squares done by hand and against models whose cut can be undone exactly."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import prunus
from benchmarks.zoo.case import randomize
from prunus.compensation import solving
from prunus.compensation.waves import Wave
from prunus.contractions import Contraction, Fit, Moments, Watch, calls, names
from prunus.contractions.relevance import relevant_rows
from prunus.errors import InputError
from prunus.importance import score


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fitted(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The outputs of the best linear map with a bias, by torch's own least squares."""
    ones = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
    return ones @ torch.linalg.lstsq(ones, y).solution


def test_the_last_layer_is_the_least_squares_solution() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 3)).double().eval()
    x = draw(500, 6)
    plan = prunus.plan(model, x[:2], ratio=0.5)
    small = plan.apply(model)
    with torch.no_grad():
        best = fitted(small[1](small[0](x)), model(x))
        cut = (small(x) - model(x)).square().mean()
        result = prunus.compensate(model, small, plan, [x[:250], x[250:]], x[:2], ridge=1e-12)
        torch.testing.assert_close(small(x), best, rtol=1e-5, atol=1e-6)
        expected = (best - model(x)).square().sum() / (model(x) - model(x).mean(0)).square().sum()
    assert [m.weight for m in result.layers] == ["0.weight", "2.weight"]
    assert result.layers[1].after == pytest.approx(float(expected), rel=1e-4)
    assert (small(x) - model(x)).square().mean() < 0.5 * cut


@pytest.mark.parametrize(
    "conv",
    [
        lambda: nn.Conv2d(4, 6, 3, padding=1),
        lambda: nn.Conv2d(4, 6, (3, 1), stride=(2, 1), dilation=(2, 1), groups=2),
        lambda: nn.Conv2d(4, 6, 2, padding="same", padding_mode="reflect"),
        lambda: nn.Conv2d(4, 4, 3, groups=4, padding=1, bias=False),
        lambda: nn.Conv1d(4, 6, 3, padding=2),
        lambda: nn.Conv3d(4, 2, 2, stride=2),
        lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1),
        lambda: nn.ConvTranspose2d(4, 6, (3, 2), stride=(1, 3), dilation=(2, 1), padding=(3, 0)),
        lambda: nn.ConvTranspose1d(4, 6, 4, stride=2, bias=False),
        lambda: nn.ConvTranspose2d(4, 6, (3, 2), stride=2, padding=1, groups=2),
        lambda: nn.ConvTranspose1d(4, 4, 3, stride=2, groups=4, bias=False),
    ],
)
def test_rows_of_a_convolution_give_its_outputs(conv: Callable[[], nn.Module]) -> None:
    """What a position is made of, times the weights, is what the convolution puts there."""
    torch.manual_seed(0)
    layer = conv().double()
    seen: list[tuple[Contraction, torch.Tensor]] = []
    with torch.no_grad(), Watch({id(layer.weight): "weight"}, lambda _, found, y: seen.append((found, y))):
        layer(draw(2, 4, *[7] * (layer.weight.dim() - 2)))
    found, y = seen[0]
    at = torch.tensor([0, 5, 11, 3])
    fit = found.fit()
    rows = torch.einsum("gni,goi->gno", found.rows_of_input(at), fit.weight)
    if fit.bias is not None:
        rows = rows + fit.bias[:, None]
    torch.testing.assert_close(rows, found.grouped(found.flat_output(y, at, torch.arange(y.shape[1]))))


def test_duplicates_are_made_up_for_exactly() -> None:
    """Half of the units repeat the other half: without them a refit consumer computes the same."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 5, 3)).double().eval()
    randomize(model)
    with torch.no_grad():
        for tensor in (model[0].weight, model[0].bias, *model[1].parameters(), *model[1].buffers()):
            if tensor.dim():
                tensor[4:] = tensor[:4]
    x = draw(6, 3, 9, 9)

    def first(name: str, weight: torch.Tensor) -> torch.Tensor:
        return torch.arange(weight.numel(), 0, -1).view_as(weight).double() if name == "0.weight" else weight * 0

    plan = prunus.plan(model, x[:1], ratio=0.5, importance=first)
    assert plan.kept["0.weight"][0] == (0, 1, 2, 3)
    small = plan.apply(model)
    assert (small(x) - model(x)).abs().max() > 0.1
    prunus.compensate(model, small, plan, [x], x[:1], ridge=1e-12)
    torch.testing.assert_close(small(x), model(x), rtol=1e-6, atol=1e-6)


class Attention(nn.Module):
    """Its output projection is called by a function of torch, not as a module; GPT-2's layout in the MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.mix = nn.MultiheadAttention(16, 4, batch_first=True)
        self.up, self.down = nn.Parameter(torch.randn(16, 24) / 4), nn.Parameter(torch.randn(24, 16) / 5)
        self.bias = nn.Parameter(torch.zeros(16))
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        x = x + self.mix(y, y, y, need_weights=False)[0]
        h = F.gelu(x @ self.up)
        x = x + torch.addmm(self.bias, h.flatten(0, 1), self.down).view_as(x)
        return self.head(x.mean(1))


@pytest.mark.parametrize("method", ["refit", "scale", "bias"])
def test_functional_layers_and_attention_are_found_and_helped(method: str) -> None:
    torch.manual_seed(0)
    model = Attention().eval()
    data = [draw(32, 5, 16, seed=i).float() for i in range(4)]
    plan = prunus.plan(model, data[0][:2], ratio=0.5)
    small = plan.apply(model)
    result = prunus.compensate(model, small, plan, data, data[0][:2], method=method)
    found = {m.weight for m in result.layers}
    assert {"mix.out_proj.weight", "mix.in_proj_weight", "up", "down", "head.weight"} <= found
    assert result.skipped == {}
    assert all(m.after <= m.before for m in result.layers)
    assert "down: error" in str(result)
    x = draw(64, 5, 16, seed=9).float()
    plain = plan.apply(model)
    assert (small(x) - model(x)).square().mean() < (plain(x) - model(x)).square().mean()


def test_a_fit_is_never_worse_and_scale_and_shift_are_what_they_say() -> None:
    x, w = draw(1, 300, 4), draw(1, 2, 4, seed=1)
    y = 3 * x @ w.mT + 5
    moments = Moments()
    moments.add(x, y)
    old = Fit(w, torch.zeros(1, 2, dtype=torch.float64))
    scaled, shifted = moments.rescale(old), moments.shift(old)
    torch.testing.assert_close(scaled.weight, 3 * w)
    torch.testing.assert_close(scaled.bias, torch.full((1, 2), 5.0, dtype=torch.float64))
    assert moments.error(scaled) < 1e-12 < moments.error(shifted) < moments.error(old)
    by_hand = (y - x @ w.mT - shifted.bias).square().sum() / (y - y.mean(1, keepdim=True)).square().sum()
    assert moments.error(shifted) == pytest.approx(float(by_hand))


def test_a_refit_is_least_squares_and_the_least_weights_where_inputs_say_too_little() -> None:
    x, y = draw(1, 300, 4), draw(1, 300, 2, seed=1)
    for inputs in (x, torch.cat([x, x[..., :2]], -1), x[..., :1].expand(1, 300, 4)):
        moments = Moments()
        moments.add(inputs, y)
        zero = Fit(torch.zeros(1, 2, inputs.shape[-1], dtype=torch.float64), None)
        expected = torch.linalg.pinv(inputs) @ y  # of all solutions the least
        torch.testing.assert_close(moments.refit(zero, 0.0).weight, expected.mT)


def test_prune_mends_when_it_is_given_data_and_disturbs_nothing() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Dropout(0.5), nn.Linear(20, 3)).train()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    x = draw(200, 6).float()
    loader = [(x[:100], torch.zeros(100)), (x[100:], torch.zeros(100))]  # targets are left out
    mended = prunus.prune(model, x[:2], ratio=0.5, data=loader)
    assert model.training
    assert mended[2].training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    plain = prunus.prune(model, x[:2], ratio=0.5, data=loader, compensation=None)
    for m in (model, mended, plain):
        m.eval()
    assert (mended(x) - model(x)).square().mean() < 0.5 * (plain(x) - model(x)).square().mean()


def test_tied_weights_are_left_alone_with_the_reason() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 8)
            self.c.weight = self.b.weight
            self.out = nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.c(self.b(self.a(x)).tanh()).tanh())

    torch.manual_seed(0)
    model, x = Tied().eval(), draw(50, 4).float()
    plan = prunus.plan(model, x, ratio=0.5)
    small = plan.apply(model)
    result = prunus.compensate(model, small, plan, [x], x)
    assert result.skipped == {"b.weight": "its weights are shared"}
    assert torch.equal(small.b.weight, plan.apply(model).b.weight)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "data holds no batch"),
        (iter([torch.randn(2, 4)]), "can be read only once"),
        ([{"x": torch.randn(2, 4)}], "but the model takes args"),
        ([[]], "has 0 items"),
    ],
)
def test_bad_data_gets_an_error(data: object, message: str) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(prunus.InputError, match=message):
        prunus.prune(model, torch.randn(2, 4), data=data)


def test_an_unknown_method_gets_an_error() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(prunus.InputError, match="Did you mean 'refit'"):
        prunus.prune(model, torch.randn(2, 4), data=[torch.randn(2, 4)], compensation="refitt")


def test_batch_norm_is_taken_anew_as_the_mean_over_the_data() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)).eval()
    data = [draw(4, 2, 5, 5, seed=i).float() for i in range(3)]
    assert prunus.recalibrate(model, data, data[0]) == 1
    with torch.no_grad():
        y = [model[0](x) for x in data]
    torch.testing.assert_close(model[1].running_mean, torch.stack([t.mean((0, 2, 3)) for t in y]).mean(0))
    torch.testing.assert_close(model[1].running_var, torch.stack([t.var((0, 2, 3)) for t in y]).mean(0))
    assert not model[1].training
    assert model[1].momentum == 0.1


class Gated(nn.Module):
    """A gated MLP behind an embedding, which no fit knows, before a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 8)
        self.gate, self.up, self.down = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(12, 8)
        self.mix, self.head = nn.GRU(8, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.table(ids)
        x = x + self.down(F.silu(self.gate(x)) * self.up(x))
        return self.head(self.mix(x)[0])


def test_what_is_not_mended_is_told() -> None:
    torch.manual_seed(0)
    model, ids = Gated().eval(), torch.randint(0, 20, (64, 5))
    plan = prunus.plan(model, ids[:2], ratio=0.5)
    small = plan.apply(model)
    result = prunus.compensate(model, small, plan, [ids], ids[:2])
    linear = {"gate.weight", "up.weight", "down.weight", "head.weight"}
    assert {m.weight for m in result.layers} == {*linear, "mix.weight_ih_l0", "mix.weight_hh_l0"}
    assert set(result.skipped) == {"table.weight"}
    assert "table.weight: it is no weight of a linear map" in str(result)
    plain = plan.apply(model)
    assert (small(ids) - model(ids)).square().mean() < (plain(ids) - model(ids)).square().mean()


class Padded(nn.Module):
    """Tokens and a mask; what the mask hides is nothing to the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 12)
        self.up, self.down = nn.Linear(12, 32), nn.Linear(32, 12)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        x = x + self.down(self.up(x).relu())
        return (x * mask[..., None]).sum(1)


def test_rows_that_a_mask_hides_dont_count_and_a_stream_is_made_up_for() -> None:
    torch.manual_seed(0)
    model = Padded().eval()
    ids, mask = torch.randint(0, 20, (40, 8)), (torch.arange(8) < 5).long().expand(40, 8).contiguous()
    rows = relevant_rows(model, (ids, mask), {})
    expected = mask.flatten().nonzero().flatten()
    assert torch.equal(rows["down.weight"][0], expected) and torch.equal(rows["up.weight"][0], expected)
    plan = prunus.plan(model, (ids[:2], mask[:2]), ratio={"up": 0.5})
    small = plan.apply(model)
    with torch.no_grad():
        small.embed.weight[:, 0] += 1.0  # the stream has lost something before the layer
        result = prunus.compensate(model, small, plan, [(ids, mask)], (ids[:2], mask[:2]), ridge=1e-12)
        assert result.layers[-1].rows == 40 * 5
        x = small.embed(ids).flatten(0, 1)[expected].double()
        h = torch.relu(x.float() @ small.up.weight.T + small.up.bias).double()
        x_dense = model.embed(ids).flatten(0, 1)[expected]
        wanted = (x_dense + model.down(model.up(x_dense).relu())).double()
        best = fitted(h, wanted - x) + x
        torch.testing.assert_close(small.down(h.float()).double() + x, best, rtol=1e-3, atol=1e-4)


class Normed(nn.Module):
    """A block that ends in a batch norm, as those of a ResNet do; one channel of it is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.norm = nn.Conv2d(6, 32, 1), nn.Conv2d(32, 6, 1), nn.BatchNorm2d(6)
        self.gain = nn.Parameter(torch.ones(6, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x * self.gain
        out = self.norm(self.down(self.up(x).relu()))
        out += x
        return out


def test_a_stream_is_made_up_for_through_a_batch_norm() -> None:
    torch.manual_seed(0)
    model = Normed().double().eval()
    randomize(model)
    with torch.no_grad():
        model.norm.weight[5] = 0.0
        x = draw(40, 6, 4, 4)
        plan = prunus.plan(model, x[:2], ratio={"up": 0.5})
        small = plan.apply(model)
        small.gain += 0.3  # the stream has changed before the layer
        prunus.compensate(model, small, plan, [x], x[:2], ridge=1e-12)
        stream, wanted = (t.movedim(1, -1).flatten(0, 2) for t in (x * small.gain, model(x)))
        h, found = (t.movedim(1, -1).flatten(0, 2) for t in (small.up(x * small.gain).relu(), small(x)))
        best = fitted(h, wanted - stream) + stream
        torch.testing.assert_close(found[:, :5], best[:, :5], rtol=1e-5, atol=1e-6)
        assert (found[:, 5] - best[:, 5]).abs().max() > 0.1  # a channel that the norm closes can't


class Widening(nn.Module):
    """A transposed convolution and a product by einsum read what is cut."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.first, self.kind = nn.Conv2d(3, 10, 3, padding=1), kind
        self.up = nn.ConvTranspose2d(10, 4, 3, stride=2, padding=1, output_padding=1)
        self.mix = nn.Parameter(torch.randn(10, 4) / 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x).relu()
        if self.kind == "transposed":
            return self.up(h)
        return torch.einsum("nhwc,cd->nhwd", h.permute(0, 2, 3, 1), self.mix)


@pytest.mark.parametrize("kind", ["transposed", "einsum"])
def test_transposed_convolutions_and_einsum_are_the_least_squares_solution(kind: str) -> None:
    """Solved again by torch.linalg.lstsq, over columns that each weight makes alone."""
    torch.manual_seed(0)
    model = Widening(kind).double().eval()
    x = draw(6, 3, 5, 5)
    plan = prunus.plan(model, x[:1], ratio={"first": 0.5})
    small = plan.apply(model)
    result = prunus.compensate(model, small, plan, [x], x[:1], ridge=1e-12)
    name = "up.weight" if kind == "transposed" else "mix"
    assert result.layers[-1].weight == name and result.skipped == {}
    with torch.no_grad():
        wanted, found, h = model(x), small(x), small.first(x).relu()
        if kind == "einsum":
            best = torch.linalg.lstsq(h.movedim(1, -1).flatten(0, 2), wanted.flatten(0, 2)).solution
            torch.testing.assert_close(small.mix.detach(), best, rtol=1e-5, atol=1e-6)
            return
        weight = small.up.weight
        columns = []
        for i in range(weight[:, 0].numel()):
            unit = torch.zeros_like(weight[:, :1])
            unit.view(-1)[i] = 1
            columns.append(F.conv_transpose2d(h, unit, None, 2, 1, 1).flatten())
        columns.append(torch.ones_like(columns[0]))
        design = torch.stack(columns, 1)
        for o in range(4):
            best = design @ torch.linalg.lstsq(design, wanted[:, o].flatten()).solution
            torch.testing.assert_close(found[:, o].flatten(), best, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("groups", "ratio"), [(4, {"first": 0.5}), (12, {"first": 0.5}), (4, 0.5), (2, 0.34)])
def test_transposed_convolutions_in_groups_are_the_least_squares_solution(groups: int, ratio: object) -> None:
    torch.manual_seed(0)
    up = nn.ConvTranspose2d(12, 24, 3, stride=2, padding=1, output_padding=1, groups=groups)
    model = nn.Sequential()
    for name, layer in (("first", nn.Conv2d(3, 12, 3, padding=1)), ("act", nn.Tanh()), ("up", up)):
        model.add_module(name, layer)
    model.add_module("last", nn.Conv2d(24, 2, 1))
    model.double().eval()
    x = draw(6, 3, 6, 6)
    plan = prunus.plan(model, x[:1], ratio=ratio)
    small = plan.apply(model)
    assert small.up.weight.shape != up.weight.shape
    result = prunus.compensate(model, small, plan, [x], x[:1], ridge=1e-12)
    assert "up.weight" in [m.weight for m in result.layers] and result.skipped == {}
    with torch.no_grad():
        h = small.act(small.first(x))
        wanted = model.up(model.act(model.first(x)))[:, list(plan.kept.get("up.bias", {0: range(24)})[0])]
        found, weight = small.up(h), small.up.weight
        columns = []
        for i in range(weight.numel()):
            unit = torch.zeros_like(weight)
            unit.view(-1)[i] = 1
            columns.append(F.conv_transpose2d(h, unit, None, 2, 1, 1, small.up.groups).flatten())
        for o in range(found.shape[1]):
            unit = torch.zeros_like(found)
            unit[:, o] = 1
            columns.append(unit.flatten())
        design = torch.stack(columns, 1)
        best = design @ torch.linalg.lstsq(design, wanted.flatten()).solution
    torch.testing.assert_close(found.flatten(), best, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("importance", ["auto", "obs", "thinet"])
def test_scores_of_padded_tokens_are_those_of_the_tokens_alone(importance: str) -> None:
    torch.manual_seed(0)
    model = Padded().eval()
    ids, mask = torch.randint(0, 20, (40, 8)), (torch.arange(8) < 5).long().expand(40, 8).contiguous()
    padded, alone = (ids, mask), (ids[:, :5], mask[:, :5])
    found = [score(prunus.trace(model, batch), importance, [batch]) for batch in (padded, alone)]
    for one, other in zip(*(scores.values() for scores in found), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


class Products(nn.Module):
    """Two layers read one tensor, and their product goes through a third, four times."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ModuleList(nn.Linear(8, 24) for _ in range(4))
        self.gate = nn.ModuleList(nn.Linear(8, 24) for _ in range(4))
        self.down = nn.ModuleList(nn.Linear(24, 8) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for up, gate, down in zip(self.up, self.gate, self.down, strict=True):
            x = x + down(up(x) * gate(x).sigmoid())
        return x


class Shuffled:
    """A loader that gives its batches in another order each time, as those for training do."""

    def __init__(self, batches: list[torch.Tensor]) -> None:
        self.batches, self.times = batches, 0

    def __iter__(self) -> Iterator[torch.Tensor]:
        self.times += 1
        order = torch.randperm(len(self.batches), generator=torch.Generator().manual_seed(self.times))
        return iter([self.batches[i] for i in order.tolist()])


def products() -> tuple[Products, nn.Module, prunus.Plan]:
    torch.manual_seed(0)
    model = Products().double().eval()
    plan = prunus.plan(model, draw(2, 8), ratio=0.4)
    return model, plan.apply(model), plan


def test_layers_that_read_one_tensor_are_solved_together_and_the_next_after_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waves: list[tuple[str, ...]] = []
    solve = Wave.solve
    monkeypatch.setattr(Wave, "solve", lambda self, *how: waves.append(tuple(self.moments)) or solve(self, *how))
    model, small, plan = products()
    prunus.compensate(model, small, plan, [draw(99, 8)], draw(2, 8))
    assert waves == [
        names for i in range(4) for names in ((f"up.{i}.weight", f"gate.{i}.weight"), (f"down.{i}.weight",))
    ]
    waves.clear()
    prunus.compensate(model, small, plan, [draw(99, 8)], draw(2, 8), passes=2)
    assert len(waves) == 2


def test_however_many_layers_there_are_each_is_solved_on_what_those_before_it_give(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    layers = [layer for _ in range(40) for layer in (nn.Linear(6, 6), nn.Tanh())]
    model = nn.Sequential(*layers, nn.Linear(6, 2)).double().eval()
    plan = prunus.plan(model, x := draw(50, 6), ratio=0.3)
    waves: list[tuple[str, ...]] = []
    solve = Wave.solve
    monkeypatch.setattr(Wave, "solve", lambda self, *how: waves.append(tuple(self.moments)) or solve(self, *how))
    prunus.compensate(model, plan.apply(model), plan, [x], x)
    assert waves == [(f"{i}.weight",) for i in range(0, 82, 2)]


def test_the_original_runs_once_for_all_targets_that_fit_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """And once per wave where they don't; what is found is the same."""
    data = [draw(60, 8, seed=i) for i in range(3)]
    found = []
    for held in (2 << 30, 0):
        monkeypatch.setattr(solving, "HELD", held)
        model, small, plan = products()
        runs: list[nn.Module] = []
        model.register_forward_pre_hook(lambda module, _, runs=runs: runs.append(module))
        prunus.compensate(model, small, plan, data, data[0])
        found.append((len(runs), small.state_dict()))
    assert found[1][0] - found[0][0] == 7 * 3, "eight waves instead of one portion, three batches each"
    for name, value in found[0][1].items():
        torch.testing.assert_close(value, found[1][1][name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("held", [2 << 30, 0])
def test_batches_may_come_in_another_order_each_time(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solving, "HELD", held)
    data = [draw(200, 8, seed=i) for i in range(4)]
    model, small, plan = products()
    with torch.no_grad():
        before = (small(data[0]) - model(data[0])).square().mean()
        prunus.compensate(model, small, plan, Shuffled(data), data[0], ridge=1e-9)
        after = (small(data[0]) - model(data[0])).square().mean()
        ordered = plan.apply(model)
        prunus.compensate(model, ordered, plan, data, data[0], ridge=1e-9)
    assert after < 0.2 * before
    torch.testing.assert_close(small(data[0]), ordered(data[0]), rtol=1e-6, atol=1e-6)


class Massive(nn.Module):
    """A stream of tokens, normalized before it is read; one feature makes a first token hundreds of times as large."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.norm, self.head = nn.Linear(8, 24), nn.Linear(24, 8), nn.LayerNorm(8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(x + self.down(self.up(x).relu())))


def test_a_few_massive_tokens_are_not_all_that_is_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = Massive().double().eval()
    data = [draw(8, 32, 8, seed=i) for i in range(9)]
    for x in data:
        x[:, 0] *= 300
    *known, unseen = data
    plan = prunus.plan(model, known[0][:1], ratio={"up": 0.5})

    def error() -> float:
        small = plan.apply(model)
        prunus.compensate(model, small, plan, known, known[0][:1])
        with torch.no_grad():
            return float((small(unseen) - model(unseen)).square().mean())

    evened = error()
    monkeypatch.setattr(calls, "LARGE", float("inf"))
    assert evened < 0.7 * error()


def test_every_fourth_batch_is_held_out_and_judges_the_fit() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 2)).double().eval()
    data = [draw(12, 40, seed=i) for i in range(8)]
    plan = prunus.plan(model, data[0][:1], ratio=0.5)
    small = plan.apply(model)
    result = prunus.compensate(model, small, plan, data, data[0][:1])
    assert [m.rows for m in result.layers] == [72, 72]
    with torch.no_grad():
        held = torch.cat([data[3], data[7]])
        want = model(held)
        error = (small(held) - want).square().sum() / (want - want.mean(0)).square().sum()
    assert result.layers[-1].after == pytest.approx(float(error), rel=1e-6)


def test_a_layer_whose_outputs_are_mostly_nought_is_solved() -> None:
    """In more than half of the rows, or in all: nothing is massive beside them."""
    for part in (40, 0):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 2, bias=False)).double().eval()
        x = draw(100, 6)
        x[part:] = 0
        plan = prunus.plan(model, x[:2], ratio=0.5)
        small = plan.apply(model)
        with torch.no_grad():
            prunus.compensate(model, small, plan, [x], x[:2], ridge=1e-12)
            hidden = small[:2](x)
            best = hidden @ torch.linalg.lstsq(hidden, model(x), driver="gelsd").solution
        torch.testing.assert_close(small(x), best, rtol=1e-6, atol=1e-6)


class Opening(nn.Module):
    """`first` opens a stream, to which `second` adds; both are sums of two tensors of one shape."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stream = self.first(x)
        return stream + self.second(stream.tanh())


def test_what_is_added_later_is_no_stream_that_a_layer_makes_up_for() -> None:
    seen: list[str] = []
    model = Opening().double()
    with torch.no_grad(), Watch(names(model), lambda *_: None, lambda name, _: seen.append(name)):
        model(draw(5, 6))
    assert seen == ["second.weight"]


def test_data_that_is_not_finite_is_told_and_changes_nothing() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 2)).eval()
    good, bad = torch.randn(2, 20, 6)
    bad[3, 2] = float("nan")
    plan = prunus.plan(model, good[:2], ratio=0.5)
    small = plan.apply(model)
    before = {name: value.clone() for name, value in small.state_dict().items()}
    with pytest.raises(InputError, match="'0.weight' is given or should give, on this data, holds NaN"):
        prunus.compensate(model, small, plan, [good, bad], good)
    with pytest.raises(InputError, match="the input of '1', on this data, holds NaN"):
        prunus.recalibrate(small, [good, bad], good)
    assert all(torch.equal(value, before[name]) for name, value in small.state_dict().items())
    assert not any(module.training for module in small.modules())
    with pytest.raises(InputError, match="'3.weight' is given or gives, on this data, holds NaN"):
        prunus.prune(model, good[:2], ratio=0.5, data=[good, bad])
