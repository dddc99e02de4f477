"""Each regularizer against its formula, written out by hand in fp64 with autograd."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import prunus
from prunus.errors import InputError, NothingToPrune
from prunus.train import fit
from prunus.train.regularizers import HESSO, L0, GroupLasso, GroupNorm, Growing, Slimming
from prunus.train.regularizers.groups import AxisGroups

X = torch.randn(16, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = X[:, 0].flatten(1)[:, :3].argmax(1)


class Net(nn.Module):
    """One group through conv, norm and a flattened linear layer; another through a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.inner = nn.Conv2d(6, 6, 3, padding=1)
        self.mid = nn.Conv2d(6, 4, 1)
        self.head = nn.Linear(4 * 16, 3)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        x = x + self.inner(x)
        return self.head(torch.flatten(F.relu(self.mid(x)), 1))


def net() -> Net:
    torch.manual_seed(0)
    model = Net().double()
    with torch.no_grad():
        model.norm.weight.uniform_(0.2, 1.5)
        model.norm.bias.uniform_(-0.5, 0.5)
    return model


def by_index(model: Net) -> dict[str, list[torch.Tensor]]:
    """The weights of each index of the two groups, listed by hand."""
    wide = [
        torch.cat(
            [
                model.stem.weight[i].flatten(),
                model.stem.bias[i : i + 1],
                model.norm.weight[i : i + 1],
                model.norm.bias[i : i + 1],
                model.inner.weight[i].flatten(),
                model.inner.bias[i : i + 1],
                model.inner.weight[:, i].flatten(),
                model.mid.weight[:, i].flatten(),
            ]
        )
        for i in range(6)
    ]
    narrow = [
        torch.cat(
            [
                model.mid.weight[i].flatten(),
                model.mid.bias[i : i + 1],
                model.head.weight[:, 16 * i : 16 * i + 16].flatten(),
            ]
        )
        for i in range(4)
    ]
    return {"stem": wide, "mid": narrow}


def gradients(model, penalty) -> dict[str, torch.Tensor]:
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    value = penalty(by_index(model))
    value.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def added(model, hook) -> dict[str, torch.Tensor]:
    """What ``before_step`` adds to gradients of zero."""
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    hook.before_step()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def assert_equal_gradients(found, expected):
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], msg=lambda m, n=name: f"{n}: {m}")


def test_groups_count_every_weight_of_an_index():
    model = net()
    groups = AxisGroups(prunus.trace(model, X))
    expected = by_index(model)
    assert set(groups.sizes) == {"stem", "mid"}
    for name, squares in groups.squares().items():
        torch.testing.assert_close(squares, torch.stack([w.detach().square().sum() for w in expected[name]]))
        assert groups.counts[name] == expected[name][0].numel()
    with pytest.raises(NothingToPrune):
        AxisGroups(prunus.trace(model, X), keep=["stem", "mid"])


def test_an_atom_twice_in_one_axis_is_counted_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 5), nn.Linear(10, 2)

        def forward(self, x):
            y = self.a(x)
            return self.b(torch.cat([y, y], 1))

    model = Twice().double()
    squares = AxisGroups(prunus.trace(model, torch.randn(2, 3).double())).squares()["a"]
    w = model.b.weight.detach().square().sum(0)
    expected = model.a.weight.detach().square().sum(1) + model.a.bias.detach().square() + w[:5] + w[5:]
    torch.testing.assert_close(squares, expected)


def test_slimming_is_l1_on_scales():
    model = net()
    expected = gradients(model, lambda _: 0.3 * model.norm.weight.abs().sum())
    assert_equal_gradients(added(model, Slimming(model, 0.3)), expected)
    with pytest.raises(InputError, match="no batch norm"):
        Slimming(nn.Linear(2, 2))


def lasso(strength):
    def penalty(found):
        return strength * sum(math.sqrt(w[0].numel()) * sum(each.norm() for each in w) for w in found.values())

    return penalty


def test_group_lasso_is_its_formula():
    model = net()
    hook = GroupLasso(prunus.trace(model, X), 0.2)
    expected = gradients(model, lasso(0.2))
    assert_equal_gradients(added(model, hook), expected)
    assert hook.penalty() == pytest.approx(float(lasso(0.2)(by_index(model)).detach()))


def test_the_proximal_step_shrinks_norms_and_ends_at_zero():
    model = net()
    hook = GroupLasso(prunus.trace(model, X), 0.01, torch.optim.SGD(model.parameters(), lr=0.5), keep=["mid.bias"])
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    factors = torch.stack([1 - 0.5 * 0.01 * math.sqrt(w.numel()) / w.detach().norm() for w in by_index(model)["stem"]])
    hook.after_step()
    torch.testing.assert_close(model.stem.weight.detach(), before["stem.weight"] * factors.view(-1, 1, 1, 1))
    both = factors.view(-1, 1, 1, 1) * factors.view(1, -1, 1, 1)
    torch.testing.assert_close(model.inner.weight.detach(), before["inner.weight"] * both)
    assert torch.equal(model.head.weight.detach(), before["head.weight"])
    with torch.no_grad():
        for weight, dim in ((model.stem.weight, 0), (model.inner.weight, 0), (model.inner.weight, 1)):
            weight.index_fill_(dim, torch.tensor([1, 4]), 1e-6)
        for name in ("stem.bias", "norm.weight", "norm.bias", "inner.bias"):
            model.get_parameter(name)[[1, 4]] = 1e-6
        model.mid.weight[:, [1, 4]] = 1e-6
    hook.after_step()
    plan = hook.plan()
    assert plan.kept["stem.weight"][0] == (0, 2, 3, 5)
    assert "mid.bias" not in plan.kept
    small = plan.apply(model)
    torch.testing.assert_close(small.eval()(X), model.eval()(X))


def test_group_norm_is_its_formula():
    model = net()
    hook = GroupNorm(prunus.trace(model, X), 0.1, alpha=3.0)

    def penalty(found):
        total = 0.0
        for weights in found.values():
            sizes = torch.stack([w.detach().square().sum() for w in weights])
            gammas = 2 ** (3.0 * (sizes.max() - sizes) / (sizes.max() - sizes.min()))
            assert (float(gammas.min()), float(gammas.max())) == (1.0, 8.0)
            total = total + sum(g * w.square().sum() for g, w in zip(gammas, weights, strict=True))
        return 0.1 / 2 * total

    assert_equal_gradients(added(model, hook), gradients(model, penalty))


def test_growing_pushes_out_what_the_plan_removes():
    model = net()
    plan = prunus.plan(model, X, ratio=0.5, importance="l1")
    hook = Growing(model, plan, delta=0.2, ceiling=0.5, every=2, stay=1)
    gone = [i for i in range(6) if i not in plan.kept["stem.weight"][0]]
    strengths, done = [], []
    for _ in range(7):
        found = added(model, hook)
        strengths.append(hook.strength)
        torch.testing.assert_close(found["norm.weight"][gone], hook.strength * model.norm.weight.detach()[gone])
        for name, grad in found.items():
            kept = torch.ones_like(grad, dtype=torch.bool)
            for dim, indices in plan.kept.get(name, {}).items():
                lost = [i for i in range(grad.shape[dim]) if i not in indices]
                kept.index_fill_(dim, torch.tensor(lost), False)
            expected = torch.where(kept, 0.0, hook.strength * model.get_parameter(name).detach())
            torch.testing.assert_close(grad, expected)
        hook.after_step()
        done.append(hook.done)
    assert strengths == pytest.approx([0.2, 0.2, 0.4, 0.4, 0.5, 0.5, 0.5])
    assert done == [False, False, False, False, True, True, True]


def test_l0_gates_have_the_gradient_of_their_formula():
    """Against autograd through ``w * z(logit)``, with the noise that was drawn."""
    model = net()
    reference = copy.deepcopy(model)
    hook = L0(prunus.trace(model, X), strength=0.05, lr=0.1)
    assert hook.groups.names == ["inner.weight", "mid.weight", "head.weight"]
    with torch.no_grad():
        for logit in hook.logits.values():
            logit.uniform_(-1, 1)
    torch.manual_seed(5)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    hook.before_step()
    hook.optimizer.param_groups[0]["lr"] = 0.0
    hook.after_step()  # draws
    F.cross_entropy(model(X), Y).backward()

    logits = {name: logit.detach().clone().requires_grad_() for name, logit in hook.logits.items()}
    gates = {}
    for name, logit in logits.items():
        u = hook.noise[name]
        s = torch.sigmoid((u.log() - (1 - u).log() + logit) / (2 / 3))
        gates[name] = (s * 1.2 - 0.1).clamp(0, 1)
    assert sum(int((g > 0).sum()) for g in gates.values()) > 0
    full = {name: p.detach().clone().requires_grad_() for name, p in reference.named_parameters()}
    stem, mid = gates["stem"], gates["mid"]
    used = {
        **full,
        "inner.weight": full["inner.weight"] * stem.view(1, -1, 1, 1),
        "mid.weight": full["mid.weight"] * stem.view(1, -1, 1, 1),
        "head.weight": full["head.weight"] * mid.repeat_interleave(16),
    }
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), used[name].detach())
    loss = F.cross_entropy(torch.func.functional_call(reference, used, X), Y)
    opened = sum(torch.sigmoid(each - (2 / 3) * math.log(0.1 / 1.1)).sum() for each in logits.values())
    (loss + 0.05 * opened).backward()
    hook.before_step()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), full[name].detach())  # the full weights are back
        torch.testing.assert_close(p.grad, full[name].grad)
    for name, logit in hook.logits.items():
        torch.testing.assert_close(logit.grad, logits[name].grad)


def test_l0_removes_what_its_gates_close():
    model = net()
    graph = prunus.trace(model, X)
    hook = L0(graph, strength=0.05, lr=0.2)
    with pytest.raises(NothingToPrune, match="L0: no index of any group is zero yet"):
        hook.plan()
    fit(model, [[X, Y]] * 10, epochs=6, lr=0.02, hooks=[hook])
    plan = hook.plan()
    small = plan.apply(model)
    torch.testing.assert_close(small(X), model(X))
    assert sum(p.numel() for p in small.parameters()) < 0.8 * sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("scope", ["local", "global"])
def test_hesso_ends_at_its_ratio_and_loses_nothing(scope):
    model = net()
    hook = HESSO(prunus.trace(model, X), 0.5, begin=4, length=5, periods=3, scope=scope)
    seen = []

    class Watch:
        def before_step(self): ...

        def after_step(self):
            squares = AxisGroups(prunus.trace(model, X)).squares()
            seen.append(sum(int((s == 0).sum()) for s in squares.values()))

        def epoch_end(self): ...

    fit(model, [[X, Y]] * 5, epochs=5, lr=0.02, hooks=[hook, Watch()])
    assert seen[:8] == [0] * 8
    assert seen[8] > 0
    assert seen == sorted(seen)
    assert seen[18:] == [5] * 7
    small = hook.plan.apply(model)
    assert (small.stem.out_channels + small.mid.out_channels) == 5
    torch.testing.assert_close(small(X), model(X))


def test_hesso_forgets_along_a_line():
    model = net()
    hook = HESSO(prunus.trace(model, X), 0.5, begin=1, length=4, periods=1)
    before = model.norm.weight.detach().clone()
    shares = []
    for _ in range(6):
        hook.before_step()
        hook.after_step()
        shares.append((model.norm.weight.detach() / before).min().item())
    assert shares == pytest.approx([1, 0.75, 0.5, 0.25, 0, 0])
    assert hook.done


def test_hesso_says_what_is_wrong():
    graph = prunus.trace(net(), X)
    with pytest.raises(InputError, match="needed are begin >= 0"):
        HESSO(graph, 0.5, begin=0, length=0)
    with pytest.raises(NothingToPrune):
        HESSO(graph, 0.01, begin=0, length=3)
    with pytest.raises(InputError, match="only 0 steps were made, but forgetting takes 15"):
        _ = HESSO(graph, 0.5, begin=0, length=3).plan
    with pytest.raises(InputError, match="strength must be greater than 0"):
        GroupLasso(graph, 0)


def made(kind, model):
    graph = prunus.trace(model, X)
    return {
        "slimming": lambda: Slimming(model, 1e-2),
        "lasso": lambda: GroupLasso(graph, 1e-3),
        "norm": lambda: GroupNorm(graph, 1e-3),
        "growing": lambda: Growing(model, prunus.plan(graph, ratio=0.5), 0.01, every=2),
        "l0": lambda: L0(graph, 0.01),
        "hesso": lambda: HESSO(graph, 0.5, begin=2, length=3, periods=3),
    }[kind]()


@pytest.mark.parametrize("kind", ["slimming", "lasso", "norm", "growing", "l0", "hesso"])
def test_each_is_resumed_to_the_bit(kind, tmp_path):
    def run(folder, stop_at=None):
        model = net()

        def count(progress):
            if (progress.epoch - 1) * 4 + progress.step == stop_at:
                raise KeyboardInterrupt

        steps = prunus.train.Checkpoints(folder, every=1)
        batches = [[X, Y]] * 4
        fit(model, batches, epochs=4, seed=1, hooks=[made(kind, model)], checkpoints=steps, on_progress=count)
        return model

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", stop_at=7)
    for a, b in zip(run(tmp_path / "cut").parameters(), whole.parameters(), strict=True):
        assert torch.equal(a, b)
