"""Budgets: predicted costs against the profile of the real small model, the solver against every plan there is."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import VisionTransformer
from typer.testing import CliRunner

import prunus
from prunus import cli
from prunus.axes import Atom
from prunus.budget import Costs, Request, counts_within, read
from prunus.budget.curves import importance_curves, sensitivity_curves
from prunus.budget.solver import Problem, solve
from prunus.demo.lenet import LeNet
from prunus.errors import InputError, PlanError
from prunus.importance import Importance, score
from prunus.limits import Limits
from prunus.selection import choose_counts

UNITS = ("parameters", "macs", "bytes", "activation_memory")


class Mixed(nn.Module):
    """Grouped, depthwise, transposed, concatenated, added, flattened."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.grouped = nn.Conv2d(12, 16, 3, groups=4, stride=2)
        self.depthwise = nn.Conv2d(16, 16, 3, groups=16, padding=1)
        self.side = nn.Sequential(nn.Conv2d(16, 10, 1), nn.BatchNorm2d(10), nn.ReLU(inplace=True))
        self.up = nn.ConvTranspose2d(26, 8, 2, stride=2)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8 * 12 * 12, 5)

    def forward(self, x):
        x = self.grouped(self.stem(x).relu())
        x = x + self.depthwise(x)
        x = self.up(torch.cat([x, self.side(x)], 1))
        return self.head(self.drop(x).flatten(1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(30, 12)
        self.rnn = nn.LSTM(12, 16, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(32, 7)

    def forward(self, x):
        return self.head(self.rnn(self.embed(x))[0])


def vit():
    return VisionTransformer(32, 8, 2, 4, 32, 64, num_classes=5)


def llama():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=40,
        use_cache=False,
    )
    return transformers.LlamaForCausalLM(config)


TOKENS = torch.arange(14).reshape(2, 7)
MODELS = {
    "cnn": (Mixed, torch.randn(2, 3, 14, 14)),
    "vit": (vit, torch.randn(1, 3, 32, 32)),
    "lstm": (Recurrent, TOKENS),
    "llama": (llama, TOKENS),
}


def counted(model, args):
    found = prunus.profile(model, args, latency=False)
    return {
        "parameters": found.parameters,
        "macs": found.macs,
        "bytes": found.bytes,
        "activation_memory": found.activation_bytes,
    }


@pytest.mark.parametrize("name", MODELS)
def test_a_candidate_is_predicted_as_its_small_model_is_counted(name):
    torch.manual_seed(0)
    make, args = MODELS[name]
    model = make().eval()
    graph = prunus.trace(model, args)
    costs = Costs(graph)
    assert costs({}) == counted(model, args)
    ratios = dict(zip([g.name for g in graph.free if g.size > 2], itertools.cycle([0.3, 0.5, 0.2]), strict=False))
    ratios = {n: r for n, r in ratios.items() if graph.group(n).atom not in graph.sizes.followers}
    counts = choose_counts(graph, score(graph), ratios, "local", (), Limits())
    small = prunus.plan(graph, ratio=ratios).apply(model)
    assert costs(counts) == counted(small, args) != costs({})


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("budget", [{"macs": "60%"}, {"parameters": "50%", "macs": "70%", "activation_memory": "85%"}])
def test_a_budget_holds_and_is_used_up(name, budget):
    torch.manual_seed(0)
    make, args = MODELS[name]
    model = make().eval()
    graph = prunus.trace(model, args)
    plan = prunus.plan(graph, budget=budget)
    before, after = counted(model, args), counted(plan.apply(model), args)
    limits = {unit: before[unit] * float(share[:-1]) / 100 for unit, share in budget.items()}
    assert all(after[unit] <= limit for unit, limit in limits.items())
    costs, (counts, _) = Costs(graph), counts_within(graph, score(graph), Request(read(budget)))
    assert costs(counts) == after
    for atom in counts.keys() - graph.sizes.followers.keys():
        wider = costs({**counts, atom: counts[atom] + 1})
        assert any(wider[unit] > limit for unit, limit in limits.items())
    assert plan.how["costs"] == {unit: [before[unit], after[unit]] for unit in UNITS}


def test_absolute_values_and_rounding():
    model = LeNet().eval()
    small = prunus.prune(model, torch.zeros(1, 1, 28, 28), budget={"parameters": "20k"}, round_to=4)
    found = prunus.profile(small, torch.zeros(1, 1, 28, 28), latency=False).parameters
    assert 18_500 < found <= 20_000
    assert small.conv2.out_channels % 4 == small.fc1.out_features % 4 == small.fc2.out_features % 4 == 0


def test_local_scope_takes_the_same_ratio_from_all():
    plan = prunus.plan(LeNet(), torch.zeros(1, 1, 28, 28), budget={"macs": "50%"}, scope="local")
    kept = [plan.shape_after(f"{name}.weight")[0] for name in ("conv1", "conv2", "fc1", "fc2")]
    shares = [n / size for n, size in zip(kept, (6, 16, 120, 84), strict=True)]
    assert max(shares) - min(shares) < 1 / 6
    before, after = plan.how["costs"]["macs"]
    assert after <= before / 2


def test_kept_groups_stay_and_are_not_counted_on():
    model, x = LeNet(), torch.zeros(1, 1, 28, 28)
    plan = prunus.plan(model, x, budget={"parameters": "40%"}, keep=["conv2"])
    assert plan.shape_after("conv2.weight") == (16, 6, 3, 3) and plan.shape_after("fc1.weight")[0] < 120
    with pytest.raises(PlanError, match="can't be met: too little is free to be cut for parameters") as told:
        prunus.plan(model, x, budget={"parameters": "1%", "macs": "90%"}, keep=["conv2"])
    table = str(prunus.feasibility(model, x, budget={"parameters": "1%", "macs": "90%"}, keep=["conv2"]))
    assert table in str(told.value)
    assert "601  can't be reached" in table


def test_the_least_is_what_is_left_of_the_model_cut_to_one_index_each():
    model, x = LeNet(), torch.zeros(1, 1, 28, 28)
    table = prunus.feasibility(model, x)
    rows = {row.unit: row for row in table.rows}
    by_hand = (9 + 1) + (9 + 1) + (5 * 5 + 1) + (1 + 1) + (10 + 10)
    small = prunus.prune(model, x, ratio=0.999)
    assert rows["parameters"].least == by_hand == counted(small, x)["parameters"]
    assert rows["macs"].now == counted(model, x)["macs"]


def brute_force(problem):
    best = None
    for counts in itertools.product(*problem.choices.values()):
        chosen = dict(zip(problem.choices, counts, strict=True))
        cost = problem.costs(chosen)
        if all(cost[unit] <= limit for unit, limit in problem.limits.items()):
            loss = sum(problem.curves[atom][n] for atom, n in chosen.items())
            best = loss if best is None else min(best, loss)
    return best


@pytest.mark.parametrize("seed", range(6))
def test_the_solver_is_close_to_the_best_of_all_plans(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 10, 3), nn.ReLU(), nn.Conv2d(10, 6, 3), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(6 * 4 * 4, 9), nn.ReLU(), nn.Linear(9, 3)),
    )
    graph = prunus.trace(model, torch.zeros(1, 3, 10, 10))
    groups = [g for g in graph.free if g.size > 1]
    rng = np.random.default_rng(seed)
    scores = {g.atom: rng.gamma(1.0, 1.0, g.size) for g in groups}
    curves = importance_curves(groups, scores)
    costs = Costs(graph)
    limits = {unit: share * costs({})[unit] for unit, share in (("macs", 0.5), ("parameters", 0.6))}
    choices = {g.atom: list(range(1, g.size + 1)) for g in groups}
    problem = Problem(costs, limits, choices, curves)
    counts = solve(problem)
    found = costs(counts)
    assert all(found[unit] <= limit for unit, limit in limits.items())
    best = brute_force(problem)
    assert best <= sum(curves[atom][n] for atom, n in counts.items()) <= 1.05 * best


def test_losses_that_add_up_are_met_at_the_least_sum():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 3))
    graph = prunus.trace(model, torch.zeros(1, 6))
    groups = [g for g in graph.free if g.size > 1]
    cheap, dear = (np.arange(10) * unit + unit for unit in (1e-4, 1e-2))
    curves = importance_curves(groups, dict(zip((g.atom for g in groups), (cheap, dear), strict=True)), additive=True)
    np.testing.assert_allclose(curves[groups[1].atom], [dear[: 10 - n].sum() for n in range(11)], rtol=1e-5)
    known = Importance(lambda context: dict(zip(groups, (cheap, dear), strict=True)), additive=True)
    plan = prunus.plan(graph, budget={"parameters": "50%"}, importance=known)
    assert plan.shape_after("2.weight")[0] == 10 > plan.shape_after("0.weight")[0]
    shares = prunus.plan(graph, budget={"parameters": "50%"}, importance=replace(known, additive=False))
    assert shares.shape_after("2.weight")[0] < 10, "shares don't tell dear from cheap"


def test_measured_curves_decide_where():
    x = torch.zeros(1, 1, 28, 28)
    flat, steep = [(0.0, 98.0), (0.5, 98.0), (0.9, 97.5)], [(0.0, 98.0), (0.5, 60.0), (0.9, 10.0)]
    curves = {"conv1": steep, "conv2": steep, "fc1": flat, "fc2": steep}
    plan = prunus.plan(LeNet(), x, budget={"parameters": "40%"}, curves=curves)
    assert plan.shape_after("conv2.weight")[0] == 16 and plan.shape_after("fc2.weight")[0] == 84
    assert plan.shape_after("fc1.weight")[0] < 50


def test_curves_rise_with_what_goes_and_join_the_points():
    group = type("G", (), {"atom": Atom(10), "name": "a", "size": 10})
    curve = sensitivity_curves([group], {"a": [(0.0, 90.0), (0.2, 91.0), (0.4, 88.0), (0.6, 89.0)]})[group.atom]
    assert curve[10] == pytest.approx(0) and curve[8] == pytest.approx(0, abs=1e-6)
    assert curve[7] == pytest.approx(1, abs=1e-6) and curve[6] == pytest.approx(2, abs=1e-6)
    assert (np.diff(curve) < 0).all()


@pytest.mark.parametrize(
    ("budget", "value"),
    [
        ({"macs": "60%"}, 600),
        ({"macs": "1.5G"}, 1.5e9),
        ({"macs": "2 GMACs"}, 2e9),
        ({"parameters": 2000}, 2000),
        ({"parameters": "1e6"}, 1e6),
        ({"bytes": "10 MB"}, 1e7),
        ({"activation_memory": "8MiB"}, 8 * 2**20),
        ({"latency": "4 ms"}, 4),
        ({"latency": "250us"}, 0.25),
    ],
)
def test_values_are_read(budget, value):
    (limit,) = read(budget)
    assert limit.of(1000) == pytest.approx(value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"budget": {"mac": "60%"}}, "no budget unit 'mac'. Did you mean 'macs'"),
        ({"budget": {"macs": 0.6}}, "could be a share or an amount. Write a share that stays, such as '60%'"),
        ({"budget": {"macs": "120%"}}, "above 0 and at most 100 %"),
        ({"budget": {"macs": "much"}}, "can't be read: 'much'"),
        ({"budget": {"macs": True}}, "can't be read: True"),
        ({"budget": {"latency": "4 MB"}}, "unknown unit: '4 MB'. Write .* such as '4 ms'"),
        ({"budget": {"latency": "50%"}}, "needs to know where the model runs: give runtime="),
        ({"budget": {}}, "a budget is a dict such as"),
        ({"budget": "60%"}, "a budget is a dict such as"),
        ({"budget": {"macs": "60%"}, "ratio": 0.5}, "a ratio or a budget, not both"),
        ({"budget": {"macs": "60%"}, "scope": "everywhere"}, "scope must be 'global' or 'local'"),
        ({"curves": {}}, "curves and runtime serve a budget"),
        ({"budget": {"macs": "60%"}, "runtime": "onnx"}, "runtime must be a prunus.Runtime"),
    ],
)
def test_bad_arguments(arguments, words):
    with pytest.raises(InputError, match=words):
        prunus.plan(LeNet(), torch.zeros(1, 1, 28, 28), **arguments)


def test_a_budget_on_the_command_line(tmp_path):
    arguments = ["prune", "prunus.demo.lenet:LeNet", "-i", "1x1x28x28", "--out", str(tmp_path / "small")]
    found = CliRunner().invoke(cli.app, [*arguments, "-b", "macs=50%", "-b", "parameters=20k"])
    assert found.exit_code == 0, found.output
    small = prunus.load(tmp_path / "small", LeNet)
    told = counted(small, torch.zeros(1, 1, 28, 28))
    assert told["macs"] <= 99_984 and told["parameters"] <= 20_000
    assert isinstance(CliRunner().invoke(cli.app, [*arguments, "-b", "60%"]).exception, InputError)


@pytest.mark.parametrize("name", MODELS)
def test_explain_tells_what_the_real_small_model_costs(name):
    """Every total, and each group's own saving, against models that are really cut."""
    make, args = MODELS[name]
    torch.manual_seed(0)
    model = make().eval()
    plan = prunus.plan(model, args, ratio=0.5)
    found = plan.how["explained"]
    before = counted(model, args)
    assert {u: pair[0] for u, pair in found["costs"].items()} == before
    assert {u: pair[1] for u, pair in found["costs"].items()} == counted(plan.apply(model), args)
    for group, (size, kept, saved) in list(found["groups"].items())[:4]:
        alone = prunus.plan(model, args, ratio={group: (size - kept) / size})
        after = counted(alone.apply(model), args)
        assert saved == {unit: before[unit] - after[unit] for unit in UNITS}, group
    text = plan.explain()
    assert f"{before['macs']:,}" in text and "frozen because" in text
    again = prunus.Plan.from_json(plan.to_json())
    assert again.explain() == text


def test_explain_tells_what_frozen_groups_hold():
    """Of a network of two layers whose input and output stay, by hand."""
    model = nn.Sequential(nn.Linear(4, 10, bias=False), nn.Linear(10, 3, bias=False), nn.Linear(3, 2, bias=False))
    plan = prunus.plan(model, torch.randn(1, 4), ratio={"0": 0.5})
    found = plan.how["explained"]
    assert found["frozen"] == {"a model input": [1, 40, 40], "a model output": [1, 6, 6]}
    assert found["fixed"] == [0, 0]
    assert found["groups"] == {"0": [10, 5, {"parameters": 35, "macs": 35, "bytes": 140, "activation_memory": 20}]}
    broken = prunus.Plan(plan.shapes, plan.kept, (), {"explained": {"costs": 3}})
    with pytest.raises(PlanError, match="malformed"):
        broken.explain()


def test_a_dry_run_tells_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke(cli.app, ["prune", "torchvision:resnet18", "--input", "1x3x32x32", "--dry-run"])
    assert run.exit_code == 0, run.output
    assert "activation memory" in run.output and "a model output" in run.output
    assert list(tmp_path.iterdir()) == []
    refused = CliRunner().invoke(cli.app, ["prune", "torchvision:resnet18", "--input", "1x3x32x32"])
    assert refused.exit_code != 0 and "--dry-run" in refused.output + str(refused.exception)
