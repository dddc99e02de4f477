"""Every criterion against its formula written out by hand, on nets small enough for loops."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prunus
from prunus.errors import InputError
from prunus.importance import CRITERIA, Context, Importance, score
from prunus.importance.reconstruction import auto, obs, waves
from prunus.trace import Graph, Member
from tests import threaded


class Shared(nn.Module):
    """One axis of 6 in many tensors: made by two layers, read by two, one of them after a flatten (6 * 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 6, 3), nn.Conv2d(1, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.read, self.out = nn.Conv2d(6, 2, 1), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.a(x)) + self.b(x))
        return self.out(y.flatten(1)) + self.read(y).sum((2, 3)).sum(1, keepdim=True)


class Heads(nn.Module):
    """Attention written out, 4 heads of 2: each axis is 4 * 2, that of queries and keys is read by no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.ModuleList(nn.Linear(5, 8) for _ in range(3)), nn.Linear(8, 3)
        self.heads, self.size = 4, 2

    def forward(self, x: Tensor) -> Tensor:
        n, t = x.shape[:2]
        q, k, v = (layer(x).view(n, t, self.heads, self.size).transpose(1, 2) for layer in self.qkv)
        y = (q @ k.mT).softmax(-1) @ v
        return self.out(y.transpose(1, 2).flatten(2)).mean(1)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


DATA = [(draw(5, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1])), (draw(7, 1, 4, 4)[2:], torch.tensor([2, 0, 1, 1, 0]))]


@pytest.fixture
def model() -> Shared:
    torch.manual_seed(0)
    model = Shared().double().eval()
    with torch.no_grad():
        for tensor in (model.norm.weight, model.norm.bias, model.norm.running_mean):
            tensor.normal_()
    return model


@pytest.fixture
def graph(model: Shared) -> Graph:
    return prunus.trace(model, DATA[0][0])


def of(graph: Graph, importance: object, size: int = 6, data: object = DATA) -> Tensor:
    found = score(graph, importance, data)
    group = next(g for g in graph.free if g.size == size)
    return torch.from_numpy(found[group.atom].copy())


def raw(name: str) -> Importance:
    known = CRITERIA[name]
    return Importance(known.criterion, known.within, known.aggregate)


def gathered(model: Shared, values: Callable[[Tensor], Tensor]) -> Tensor:
    """A saliency summed over all weights of the shared axis, tensor by tensor."""
    rows = [values(t).flatten(1).sum(1) for t in (model.a.weight, model.b.weight)]
    rows += [values(t) for t in (model.a.bias, model.b.bias, model.norm.weight, model.norm.bias)]
    read, out = values(model.read.weight), values(model.out.weight)
    return torch.stack([*rows, read.sum((0, 2, 3)), out.view(3, 6, 4).sum((0, 2))]).sum(0)


def read(model: Shared, x: Tensor) -> Tensor:
    """What the readers are given: [N, 6, 2, 2]."""
    return F.relu(model.norm(model.a(x)) + model.b(x)).detach()


def mean_loss(model: nn.Module) -> Tensor:
    return torch.stack([F.cross_entropy(model(x), y) for x, y in DATA]).mean()


def test_weights_through_every_tensor(model: Shared, graph: Graph) -> None:
    torch.testing.assert_close(of(graph, raw("l1")), gathered(model, lambda t: t.detach().abs()))
    torch.testing.assert_close(of(graph, raw("l2")), gathered(model, lambda t: t.detach().square()))
    every = [model.a.weight.flatten(1), model.b.weight.flatten(1), model.read.weight.flatten(1).T]
    every += [model.out.weight.view(3, 6, 4).movedim(1, 0).flatten(1)]
    every += [t[:, None] for t in (model.a.bias, model.b.bias, model.norm.weight, model.norm.bias)]
    rows = torch.cat(every, 1).detach()
    torch.testing.assert_close(of(graph, raw("linf")), rows.abs().amax(1))
    distances = torch.tensor([[float((p - q).norm()) for q in rows] for p in rows], dtype=torch.float64).sum(1)
    torch.testing.assert_close(of(graph, raw("fpgm")), distances)
    norms = rows.norm(dim=1)
    by_hand = []
    for i in range(6):
        larger = [j for j in range(6) if norms[j] > norms[i]]
        nearest = max((abs(float(rows[i] @ rows[j] / norms[i] / norms[j])) for j in larger), default=0.0)
        by_hand.append(1 - nearest)
    torch.testing.assert_close(of(graph, "cosine"), torch.tensor(by_hand, dtype=torch.float64))
    torch.testing.assert_close(of(graph, "bn_scale"), model.norm.weight.detach().abs())


def test_of_two_parallel_ones_the_smaller_is_redundant() -> None:
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[2.0, 2], [1, 1], [1, -1]]))
        model[1].weight.copy_(torch.tensor([[2.0, 1, 0]]))
    found = score(prunus.trace(model, torch.randn(1, 2)), "cosine")
    np.testing.assert_allclose(next(iter(found.values())), [1, 0, 1], atol=1e-6)


def test_first_order(model: Shared, graph: Graph) -> None:
    mean_loss(model).backward()
    torch.testing.assert_close(of(graph, "taylor"), gathered(model, lambda t: (t * t.grad).square().detach()))
    torch.testing.assert_close(of(graph, "taylor", data=None), of(graph, "taylor"))
    rows = [(t * t.grad).flatten(1).sum(1) for t in (model.a.weight, model.b.weight)]
    rows += [t * t.grad for t in (model.a.bias, model.b.bias, model.norm.weight, model.norm.bias)]
    torch.testing.assert_close(of(graph, "gradient"), torch.stack(rows).sum(0).abs().detach())


def test_fisher_squares_the_gradients_of_single_examples(model: Shared, graph: Graph) -> None:
    total = {id(p): torch.zeros_like(p) for p in model.parameters()}
    for x, y in DATA:
        for i in range(len(x)):
            model.zero_grad()
            F.cross_entropy(model(x[i : i + 1]), y[i : i + 1]).backward()
            for p in model.parameters():
                total[id(p)] += p.grad.square()
    model.zero_grad()
    torch.testing.assert_close(
        of(graph, "fisher"), gathered(model, lambda t: (t.square() * total[id(t)] / 10 / 2).detach())
    )


def whole_hessian(model: nn.Module, parameters: list[nn.Parameter]) -> tuple[Tensor, Tensor]:
    """Gradient and Hessian of the mean loss over all weights in a row, entry by entry."""
    gradient = torch.autograd.grad(mean_loss(model), parameters, create_graph=True)
    flat = torch.cat([g.flatten() for g in gradient])
    rows = [torch.cat([g.flatten() for g in torch.autograd.grad(e, parameters, retain_graph=True)]) for e in flat]
    return flat.detach(), torch.stack(rows)


def test_second_order_against_the_whole_hessian(model: Shared, graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = list(Context(graph).weights.values())  # of groups that can be cut: all but the last bias
    assert len(parameters) == len(list(model.parameters())) - 1
    g, h = whole_hessian(model, parameters)
    w = torch.cat([p.detach().flatten() for p in parameters])
    sizes = [p.numel() for p in parameters]

    def spread(values: Tensor) -> Callable[[Tensor], Tensor]:
        by_id = {id(p): v.view_as(p) for p, v in zip(parameters, values.split(sizes), strict=True)}
        return lambda t: by_id[id(t)]

    torch.testing.assert_close(of(graph, "taylor2"), gathered(model, spread((g * w - w * (h @ w) / 2).square())))
    monkeypatch.setattr("prunus.importance.hessian.PROBES", 400)
    found, exact = of(graph, "obd"), gathered(model, spread(h.diagonal().clamp(min=0) * w.square() / 2))
    torch.testing.assert_close(found, exact, rtol=0.3, atol=0.03 * float(exact.max()))


def test_the_diagonal_is_exact_where_there_is_nothing_else() -> None:
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 1, bias=False)).double()

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return (model[0].weight.square() * torch.arange(1.0, 5)[:, None]).sum() + model[1].weight.sum()

    found = score(prunus.trace(model, draw(2, 3)), "obd", [draw(2, 3)], loss)
    expected = (2 * torch.arange(1.0, 5)[:, None] * model[0].weight.square() / 2).sum(1).detach()
    np.testing.assert_allclose(next(iter(found.values())), expected.numpy())


def test_activations(model: Shared, graph: Graph) -> None:
    x = torch.cat([read(model, batch) for batch, _ in DATA])  # both readers see the same 6 * 2 * 2
    torch.testing.assert_close(of(graph, raw("apoz")), (x != 0).double().mean((0, 2, 3)))
    torch.testing.assert_close(of(graph, raw("mean_activation")), x.abs().mean((0, 2, 3)))
    conv, linear = model.read.weight.detach()[:, :, 0, 0], model.out.weight.detach()
    flat = x.flatten(1)
    by_conv = x.movedim(1, -1).flatten(0, 2).var(0, unbiased=False) * conv.square().sum(0)
    by_linear = (flat.var(0, unbiased=False) * linear.square().sum(0)).view(6, 4).sum(1)
    torch.testing.assert_close(of(graph, raw("flap")), by_conv + by_linear)
    by_conv = x.movedim(1, -1).flatten(0, 2).square().mean(0).sqrt() * conv.abs().sum(0)
    by_linear = (flat.square().mean(0).sqrt() * linear.abs().sum(0)).view(6, 4).sum(1)
    torch.testing.assert_close(of(graph, raw("wanda")), by_conv + by_linear)


def test_feature_maps() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1)).double().eval()
    x = draw(3, 1, 6, 6)
    graph = prunus.trace(model, x)
    maps = model[:2](x).detach()
    ranks = torch.tensor([[int(torch.linalg.matrix_rank(m)) for m in example] for example in maps]).sum(0).double()
    torch.testing.assert_close(of(graph, raw("hrank"), 4, [x]), ranks)
    by_hand = torch.zeros(4, dtype=torch.float64)
    for example in maps.flatten(2):
        for i in range(4):
            masked = example.clone()
            masked[i] = 0
            by_hand[i] += torch.linalg.matrix_norm(example, "nuc") - torch.linalg.matrix_norm(masked, "nuc")
    torch.testing.assert_close(of(graph, raw("chip"), 4, [x]), by_hand)


def test_thinet_removes_what_is_missed_least(model: Shared, graph: Graph) -> None:
    x = torch.cat([read(model, batch) for batch, _ in DATA])
    outputs = []
    for weight, bias, rows in (
        (model.read.weight[:, :, 0, 0], model.read.bias, x.movedim(1, -1).flatten(0, 2)[:, :, None]),
        (model.out.weight, model.out.bias, x.flatten(2)),
    ):
        part = torch.einsum("nik,oik->nio", rows, weight.detach().view(len(weight), 6, -1))  # what each index puts in
        whole = part.sum(1) + bias.detach()
        outputs.append(part / whole.var(0, unbiased=False).sum().sqrt() / len(part) ** 0.5)
    gone: list[int] = []
    for _ in range(6):
        left = [i for i in range(6) if i not in gone]
        error = {i: sum(float(part[:, [*gone, i]].sum(1).square().sum()) for part in outputs) for i in left}
        gone.append(min(left, key=error.__getitem__))
    assert of(graph, raw("thinet")).argsort().tolist() == gone


def refit_error(x: Tensor, y: Tensor, kept: list[int]) -> float:
    """The mean squared error over the variance, after torch's own least squares with a bias."""
    ones = torch.cat([x[:, kept], torch.ones(len(x), 1, dtype=x.dtype)], 1)
    left = y - ones @ torch.linalg.lstsq(ones, y).solution
    return float(left.square().sum() / (y - y.mean(0)).square().sum())


def test_obs_scores_add_up_to_the_error_of_the_best_refit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunus.importance.reconstruction.RIDGE", 0.0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()
    x = draw(400, 5)
    graph = prunus.trace(model, x)
    hidden, y = model[:2](x).detach(), model(x).detach()
    scores = of(graph, "obs", 7, [x])
    order = scores.argsort().tolist()
    for n in range(1, 7):
        kept = sorted(set(range(7)) - set(order[:n]))
        assert float(scores[order[:n]].sum()) == pytest.approx(refit_error(hidden, y, kept), rel=1e-6)
        rivals = [sorted(set(range(7)) - {*order[: n - 1], i}) for i in order[n - 1 :]]
        assert refit_error(hidden, y, kept) == pytest.approx(min(refit_error(hidden, y, r) for r in rivals), rel=1e-6)


def test_obs_takes_blocks_and_several_consumers(model: Shared, graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first to go is the one whose loss is least in both readers together, each after its best refit."""
    monkeypatch.setattr("prunus.importance.reconstruction.RIDGE", 0.0)
    data = [(draw(200, 1, 4, 4), torch.zeros(200, dtype=torch.long))]
    x = read(model, data[0][0])
    errors = []
    for i in range(6):
        kept = [j for j in range(6) if j != i]
        rows = x.movedim(1, -1).flatten(0, 2)
        conv = refit_error(rows, (rows @ model.read.weight[:, :, 0, 0].T).detach(), kept)
        flat = x.flatten(1)
        linear = refit_error(flat, (flat @ model.out.weight.T).detach(), [4 * j + p for j in kept for p in range(4)])
        errors.append(conv + linear)
    scores = of(graph, "obs", data=data)
    assert int(scores.argmin()) == int(np.argmin(errors))
    assert float(scores.min()) == pytest.approx(min(errors), rel=1e-6)


def test_obs_comes_back_on_several_threads() -> None:
    command = [sys.executable, "-m", "tests.threaded", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    torch.testing.assert_close(torch.tensor(json.loads(done.stdout)), torch.tensor(threaded.scores(1)))


@pytest.mark.parametrize("name", ["obs", "auto", "thinet", "hrank", "chip", "wanda", "flap", "taylor"])
def test_data_that_is_not_finite_is_told(name: str, graph: Graph) -> None:
    images = draw(5, 1, 4, 4)
    images[2, 0, 1, 1] = float("inf")
    with pytest.raises(InputError, match="NaN or infinity|not finite"):
        score(graph, name, [*DATA, (images, DATA[0][1])])


def test_shapley_values_share_out_what_all_do_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunus.importance.shapley.PERMUTATIONS", 400)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(inplace=True), nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 3)).double()
    batch = (draw(20, 3), torch.arange(20) % 3)
    graph = prunus.trace(model, batch[0])

    @torch.no_grad()
    def loss(there: Tensor) -> float:
        return float(F.cross_entropy(model[2:](model[:2](batch[0]) * there), batch[1]))

    subsets = [[bool(n >> i & 1) for i in range(5)] for n in range(32)]
    value = {tuple(s): loss(torch.tensor(s).double()) for s in subsets}
    exact = torch.zeros(5, dtype=torch.float64)
    factorial = [1, 1, 2, 6, 24, 120]
    for subset in subsets:
        for i in (i for i in range(5) if not subset[i]):
            n = sum(subset)
            more = tuple(s or j == i for j, s in enumerate(subset))
            exact[i] += factorial[n] * factorial[4 - n] / 120 * (value[tuple(subset)] - value[more])
    found = of(graph, "shapley", 5, [batch])
    assert float(found.sum()) == pytest.approx(float(exact.sum())), "exact for any number of orders"
    torch.testing.assert_close(found, exact, rtol=0.1, atol=0.02)


@pytest.mark.parametrize("name", [n for n in CRITERIA if n not in ("bn_scale", "apoz")])
def test_heads_are_scored_by_all_they_run_through(name: str) -> None:
    torch.manual_seed(0)
    model = Heads().double().eval()
    data = [(draw(6, 4, 5), torch.arange(6) % 3)]
    graph = prunus.trace(model, data[0][0])
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    found = score(graph, name, data)
    assert any(len(values) == 4 for values in found.values())
    assert all(np.isfinite(values).all() for values in found.values())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    prunus.prove(model, (plan := prunus.plan(graph, importance=name, data=data)).apply(model), plan, data[0][0])


def test_moments_are_taken_in_portions(model: Shared, graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = score(graph, "obs", DATA)
    assert [len(groups) for groups, _ in waves(Context(graph, DATA))] == [len(whole)]
    monkeypatch.setattr("prunus.importance.reconstruction.MEMORY", 1)
    assert all(len(groups) == len(members) == 1 for groups, members in waves(Context(graph, DATA)))
    assert score(graph, "obs", DATA).keys() == whole.keys()


def test_auto_says_something_about_every_group() -> None:
    torch.manual_seed(0)
    graph = prunus.trace(Heads().double().eval(), x := draw(6, 4, 5))
    with torch.no_grad():
        read, every = (function(Context(graph, [x])) for function in (obs, auto))
    assert set(every) == set(graph.free) > set(read)
    assert all((values >= 0).all() and values.any() for values in every.values())
    assert score(graph, "obs", [x]).keys() == {g.atom for g in graph.free}, "what follows has indices to choose, too"
    assert prunus.prune(graph.model, x[:1], data=[x]).prunus_plan.how["importance"] == "auto"
    assert prunus.plan(graph).how["importance"] == "l2"


class Outlier(nn.Module):
    """A stream of which the output reads half: the other half is a hundred times as large, as some of BERT's are."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.out = nn.Linear(6, 16), nn.Linear(16, 8), nn.Linear(8, 4)
        with torch.no_grad():
            self.down.weight[:, :] = 0
            self.down.weight[:4, :8] = torch.randn(4, 8)
            self.down.weight[4:, 8:] = 100 * torch.randn(4, 8)
            self.out.weight[:, 4:] = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.down(torch.tanh(self.up(x))))


def test_auto_weighs_errors_by_what_they_do_to_the_outputs() -> None:
    """What feeds the half that nobody reads is worth nothing, however large; `obs` sees nothing else."""
    torch.manual_seed(0)
    graph = prunus.trace(Outlier().double().eval(), x := draw(400, 6))
    (group,) = (g for g in graph.free if g.size == 16)
    with torch.no_grad():
        near, far = (function(Context(graph, [x]))[group] for function in (obs, auto))
    assert near[8:].min() > near[:8].max()
    assert far[:8].min() > 1e3 * far[8:].max()


def test_the_scores_of_auto_add_up_to_what_the_outputs_lose() -> None:
    """Of the layer before the last the gradient is exact: what goes is the share of the outputs' variance that goes."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 24), nn.Tanh(), nn.Linear(24, 5)).double().eval()
    x = draw(800, 6)
    graph = prunus.trace(model, x[:2])
    data = list(x.split(100))
    plan = prunus.plan(graph, ratio=0.5, data=data)
    small = plan.apply(model)
    with torch.no_grad():
        foretold = np.sort(score(graph, "auto", data)[graph.free[0].atom])[:12].sum()
        prunus.compensate(model, small, plan, data, x[:2], ridge=1e-9)
        lost = (small(x) - model(x)).square().sum() / (model(x) - model(x).mean()).square().sum()
    assert float(lost) == pytest.approx(foretold, rel=0.35), "random directions, and eight examples of each batch"


class Pooled(nn.Module):
    """The mean over positions of what a network of two layers makes of each."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.tanh(self.up(x))).mean(1)


def test_errors_that_positions_share_are_scored_by_what_they_add_up_to() -> None:
    """All positions of an example are alike, so that errors don't cancel in the mean: they cost 16 times as much."""
    torch.manual_seed(0)
    model = Pooled().double().eval()
    x = draw(800, 1, 6).expand(-1, 16, -1).contiguous()
    graph = prunus.trace(model, x[:2])
    data = list(x.split(100))
    plan = prunus.plan(graph, ratio={"*up": 0.5}, data=data)
    small = plan.apply(model)
    foretold = np.sort(score(graph, "auto", data)[graph.free[0].atom])[:12].sum()
    prunus.compensate(model, small, plan, data, x[:2], ridge=1e-9)
    with torch.no_grad():
        lost = (small(x) - model(x)).square().sum() / (model(x) - model(x).mean()).square().sum()
    assert float(lost) == pytest.approx(foretold, rel=0.35), "of sixteen examples"


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 9), nn.Linear(9, 5)


def test_a_model_whose_outputs_have_no_gradient_is_scored_all_the_same() -> None:
    class Choice(Two):
        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.relu(self.a(x))).argmax(1)

    torch.manual_seed(0)
    graph = prunus.trace(Choice().double().eval(), x := draw(50, 6))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        near, far = (function(Context(graph, [x])) for function in (obs, auto))
    assert all(torch.equal(near[group], far[group]) for group in near)


def test_a_model_that_runs_without_gradients_alone_is_scored_with_a_warning() -> None:
    class Numbers(Two):
        def forward(self, x: Tensor) -> Tensor:
            y = torch.relu(self.a(x))
            if torch.is_grad_enabled():
                y.numpy()
            return self.b(y)

    torch.manual_seed(0)
    graph = prunus.trace(Numbers().double().eval(), x := draw(50, 6))
    with torch.no_grad():
        near = obs(Context(graph, [x]))
        with pytest.warns(UserWarning, match="Numbers can't be run with gradients .*requires grad"):
            far = auto(Context(graph, [x]))
    assert all(torch.equal(near[group], far[group]) for group in near)


def test_examples_are_cut_only_where_the_model_takes_that() -> None:
    class Fixed(Two):
        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.relu(self.a(x))).view(20, 5)

    torch.manual_seed(0)
    graph = prunus.trace(Fixed().double().eval(), x := draw(20, 6))
    assert {g.size for g in graph.free} == {9}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it runs with gradients, on all of them
        found = score(graph, "auto", [x])
    assert all(np.isfinite(values).all() for values in found.values())


def test_a_head_that_nobody_reads_goes_first() -> None:
    torch.manual_seed(0)
    model = Heads().double().eval()
    with torch.no_grad():
        model.out.weight[:, 4:6] = 0  # head 2
    graph = prunus.trace(model, x := draw(30, 4, 5))
    for name in ("obs", "thinet", "wanda", "flap"):
        assert int(of(graph, name, 4, [x]).argmin()) == 2, name


# -- aggregation, normalization, the protocol ----------------------------------------------------------------------


def two_members(context: Context) -> dict[object, object]:
    group = next(g for g in context.graph.free if g.size == 3)
    assert group.members[0] == Member("0.weight", 0)
    return {Member("1.weight", 1): np.array([1.0, 4, 2]), Member("0.weight", 0): np.array([3.0, 2, 5])}


@pytest.mark.parametrize(
    ("aggregate", "expected"),
    [("sum", [4, 6, 7]), ("mean", [2, 3, 3.5]), ("max", [3, 4, 5]), ("product", [3, 8, 10]), ("first", [3, 2, 5])],
)
def test_aggregation(aggregate: str, expected: list[float]) -> None:
    graph = prunus.trace(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)), torch.randn(1, 2))
    found = score(graph, Importance(two_members, aggregate=aggregate))
    assert next(iter(found.values())).tolist() == expected


@pytest.mark.parametrize(
    ("normalize", "expected"),
    [
        ("none", [1, 4, 4, 3]),
        ("mean", [1 / 3, 4 / 3, 4 / 3, 1]),
        ("max", [0.25, 1, 1, 0.75]),
        ("gaussian", [-2 / 1.5**0.5, 1 / 1.5**0.5, 1 / 1.5**0.5, 0]),
        ("lamp", [1 / 12, 1, 0.5, 3 / 11]),
    ],
)
def test_normalization(normalize: str, expected: list[float]) -> None:
    graph = prunus.trace(nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 2)), torch.randn(1, 2))
    importance = Importance(lambda context: {context.graph.free[0]: [1, 4, 4, 3]}, normalize=normalize)
    np.testing.assert_allclose(next(iter(score(graph, importance).values())), expected)


@pytest.mark.parametrize(
    ("importance", "message"),
    [
        (lambda context: {"0.weight": torch.zeros(3)}, r"'0.weight' scores of shape \[3\]; there must be \[3, 2\]"),
        (lambda context: {context.graph.free[0]: [1, 2]}, r"scores of shape \[2\]; there must be \[3\]"),
        (lambda context: {context.graph.free[0]: [1, 2, float("nan")]}, "not finite"),
        (lambda context: context.gradients, "pass data=loader"),
        (dict, r"must be f\(name, weight\) or f\(context\)"),
        ("obs", "pass data=loader"),
        ("fischer", "Did you mean 'fisher'"),
    ],
)
def test_what_is_no_criterion_gets_an_error(importance: object, message: str) -> None:
    graph = prunus.trace(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)), torch.randn(1, 2))
    with pytest.raises(InputError, match=message):
        score(graph, importance)


def test_unknown_ways_get_an_error() -> None:
    with pytest.raises(InputError, match="no aggregate 'sums'. Did you mean 'sum'"):
        Importance("l1", aggregate="sums")
    with pytest.raises(InputError, match="no normalize 'lam'. Did you mean 'lamp'"):
        Importance("l1", normalize="lam")


def test_criteria_that_say_nothing_about_a_model_say_so() -> None:
    graph = prunus.trace(nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)), torch.randn(1, 2))
    with pytest.raises(InputError, match="needs batch norms"):
        score(graph, "bn_scale")
    with pytest.raises(InputError, match="no activation of this model is ever zero"):
        score(graph, "apoz", [torch.randn(4, 2)])
    with pytest.raises(InputError, match="pass loss=function"):
        score(graph, "fisher", [torch.randn(4, 2)])


def test_the_table_of_criteria_in_the_docs_is_whole() -> None:
    page = (Path(__file__).parent.parent / "docs" / "criteria.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    assert set(re.findall(r"`(\w+)`", "".join(rows))) == set(CRITERIA)
