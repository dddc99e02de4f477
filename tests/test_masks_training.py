"""Schedules against their formulas, dynamic sparse training against its steps written out, SparseGPT against OBS."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import prunus
from prunus import masks
from prunus.errors import InputError
from prunus.masks import schedules
from prunus.masks.sparsegpt import prune_matrix
from prunus.train import fit


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def data(count: int = 5) -> list[list[torch.Tensor]]:
    draw = torch.Generator().manual_seed(3)
    inputs = [torch.randn(8, 8, generator=draw) for _ in range(count)]
    return [[x, x[:, :4].argmax(1)] for x in inputs]


# ---------------------------------------------------------------- curves and schedules


def test_curves_are_their_formulas():
    assert schedules.cubic(0.25, 0.2, 0.8) == pytest.approx(0.8 + (0.2 - 0.8) * 0.75**3)
    assert schedules.linear(0.25, 0.2, 0.8) == pytest.approx(0.35)
    assert schedules.exponential(0.5, 0.0, 0.75) == pytest.approx(0.5)
    assert schedules.one_cycle(1.0, 0.2, 0.8) == pytest.approx(0.8)
    assert schedules.one_cycle(0.0, 0.2, 0.8) == pytest.approx(0.2, abs=0.005)
    stairs = masks.iterative(3)
    assert [round(stairs(t, 0, 0.875), 6) for t in (0, 0.49, 0.5, 0.99, 1)] == [0.5, 0.5, 0.75, 0.75, 0.875]
    for curve in (*masks.CURVES.values(), stairs):
        path = [curve(t / 20, 0.1, 0.9) for t in range(21)]
        assert path == sorted(path) and path[-1] == pytest.approx(0.9), curve


@pytest.mark.parametrize("curve", [*masks.CURVES, masks.iterative(4)])
def test_a_schedule_by_steps_prunes_when_it_says(curve):
    model, seen = net(), []
    sparse = prunus.Sparsifier(model)
    schedule = masks.Gradual(sparse, 0.75, begin=2, end=12, every=4, curve=curve)

    class Watch:
        def before_step(self):
            assert all(int(w[~sparse.masks[n]].count_nonzero()) == 0 for n, w in sparse.weights.items())

        def after_step(self):
            seen.append(sparse.sparsity)

        def epoch_end(self):
            pass

    fit(model, data(), epochs=3, lr=0.05, hooks=[schedule, Watch()])
    timeline = schedules.Timeline(0.0, 0.75, 2, 12, 4, curve)
    at = {2: 2, 6: 6, 10: 10, 12: 12}
    expected = []
    for step in range(1, 16):
        done = [count for count in at if count <= step]
        expected.append(timeline.sparsity(done[-1]) if done else 0.0)
    assert seen == pytest.approx(expected, abs=0.02)
    assert sparse.sparsity == 0.75
    assert all(int(w[~sparse.masks[n]].count_nonzero()) == 0 for n, w in sparse.weights.items())


def test_a_schedule_by_epochs_with_filters():
    model = net()
    sparse = prunus.Sparsifier(model, only=["0.weight"])
    how = {"importance": "l2", "granularity": "filter"}
    schedule = masks.Gradual(sparse, 0.5, end=2, by="epoch", curve="linear", **how)
    assert sparse.sparsity == 0.0
    fit(model, data(), epochs=1, hooks=[schedule])
    assert sparse.sparsity == 0.25 and sparse.masks["0.weight"].any(1).sum() == 12
    fit(model, data(), epochs=2, hooks=[schedule])
    assert sparse.sparsity == 0.5 and schedule.count == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"end": 5, "begin": 6}, "begin <= end"),
        ({"end": 5, "curve": "cubik"}, "Did you mean 'cubic'"),
        ({"end": 5, "by": "batch"}, "'step' or by 'epoch'"),
    ],
)
def test_errors_of_schedules(arguments, words):
    with pytest.raises(InputError, match=words):
        masks.Gradual(prunus.Sparsifier(net()), 0.5, **arguments)


# ---------------------------------------------------------------- dynamic sparse training


def test_erdos_renyi_by_hand():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 8, 3))  # 72 and 288 weights
    sparse = prunus.Sparsifier(model)
    found = masks.erdos_renyi(sparse, 0.75)
    # (2+4+3+3)/72 and (4+8+3+3)/288: densities 8/3 to 1; 90 weights are left of 360
    scale = 90 / (12 + 18)
    assert found["0.weight"] == pytest.approx(1 - scale * 12 / 72)
    assert found["1.weight"] == pytest.approx(1 - scale * 18 / 288)
    found = masks.erdos_renyi(sparse, 0.5)  # the first layer would need a density of 1
    assert found == {"0.weight": 0.0, "1.weight": pytest.approx(0.625)}
    assert sparse.prune(masks.erdos_renyi(sparse, 0.75), "random").sparsity == pytest.approx(0.75, abs=0.01)


def test_set_keeps_the_count_and_drops_the_smallest_of_each_sign():
    model = net()
    sparse = prunus.Sparsifier(model).prune(0.5, "random")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    hook = masks.SET(sparse, every=2, fraction=0.25, optimizer=optimizer)
    old, counts = sparse.masks["0.weight"], [int(m.sum()) for m in sparse.masks.values()]
    for step in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data()[step][0]), data()[step][1]).backward()
        hook.before_step()
        optimizer.step()
        trained = model[0].weight.detach().masked_fill(~old, 0).clone()
        hook.after_step()
        if step == 0:
            assert torch.equal(sparse.masks["0.weight"], old)
    new = sparse.masks["0.weight"]
    assert [int(m.sum()) for m in sparse.masks.values()] == counts
    for side in (trained > 0, trained < 0):
        gone, stayed = trained[side & ~new].abs(), trained[side & new].abs()
        assert len(gone) == round(0.25 * int(side.sum())) and gone.max() <= stayed.min()
    grown = new & ~old
    assert int(grown.sum()) == int((old & ~new).sum()) > 0
    assert not model[0].weight[grown].any() and not optimizer.state[model[0].weight]["momentum_buffer"][grown].any()
    assert not model[0].weight[~new].any()


def test_rigl_grows_where_the_gradient_is_largest():
    model = net()
    sparse = prunus.Sparsifier(model).prune(0.5, "l1")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    hook = masks.RigL(sparse, every=1, end=100, fraction=0.3)
    old = sparse.masks["0.weight"].clone()
    nn.functional.cross_entropy(model(data()[0][0]), data()[0][1]).backward()
    slope = model[0].weight.grad.abs().clone()
    hook.before_step()
    optimizer.step()
    after = model[0].weight.detach().clone()
    hook.after_step()
    share = 0.3 / 2 * (1 + torch.cos(torch.tensor(torch.pi / 100)).item())
    count = round(share * int(old.sum()))
    kept = torch.zeros(old.numel(), dtype=torch.bool)
    kept[(after.abs() * old).flatten().topk(int(old.sum()) - count).indices] = True
    kept = kept.view_as(old)
    candidates = slope.masked_fill(kept, -1).flatten()
    expected = kept.flatten()
    expected[candidates.topk(count).indices] = True
    assert torch.equal(sparse.masks["0.weight"], expected.view_as(old))
    survived = sparse.masks["0.weight"] & old
    assert torch.equal(model[0].weight[survived], after[survived])
    with pytest.raises(InputError, match="call before_step"):
        masks.RigL(sparse, every=1, end=100).after_step()


def test_sr_ste_takes_the_steps_of_its_equation():
    model, decay, lr = net(), 0.01, 0.1
    sparse = prunus.Sparsifier(model)
    full = {n: w.detach().clone() for n, w in sparse.weights.items()}
    biases = {n: p.detach().clone() for n, p in model.named_parameters() if n not in full}
    hook = masks.SRSTE(sparse, "2:4", decay=decay)
    optimizer, twin, (x, y) = torch.optim.SGD(model.parameters(), lr=lr), net(), data(1)[0]
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        hook.before_step()
        optimizer.step()
        hook.after_step()
        shown = {n: w * _two_of_four(w) for n, w in full.items()}
        leaves = {n: v.clone().requires_grad_() for n, v in {**shown, **biases}.items()}
        loss = nn.functional.cross_entropy(torch.func.functional_call(twin, leaves, x), y)
        slopes = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
        full = {n: w - lr * (slopes[n] + decay * (1 - _two_of_four(w)) * w) for n, w in full.items()}
        biases = {n: b - lr * slopes[n] for n, b in biases.items()}
    for name, weight in sparse.weights.items():
        torch.testing.assert_close((weight + hook.hidden[name]).detach(), full[name], rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(weight.detach(), full[name] * _two_of_four(full[name]), rtol=1e-5, atol=1e-7)


def test_sr_ste_says_what_it_cannot_train():
    layer = nn.Linear(8, 4)
    with pytest.raises(InputError, match="N:M patterns"):
        masks.SRSTE(prunus.Sparsifier(layer), "filter")
    with pytest.raises(InputError, match="multiple of 3"):
        masks.SRSTE(prunus.Sparsifier(layer), "2:3")
    layer.weight.data[0, 0] = float("nan")
    with pytest.raises(InputError, match="aren't numbers"):
        masks.SRSTE(prunus.Sparsifier(layer))


def _two_of_four(weight: torch.Tensor) -> torch.Tensor:
    lines = weight.abs().reshape(-1, 4)
    return (lines >= lines.sort(dim=1).values[:, 2:3]).float().view_as(weight)


def test_hard_movement_gathers_its_scores_and_revives_what_it_masked():
    layer = nn.Linear(4, 1, bias=False)
    layer.weight.data = torch.tensor([[1.0, 0.5, -0.2, 0.1]])
    sparse = prunus.Sparsifier(layer)
    hook = masks.Movement(sparse, 0.5, begin=1, end=1, lr=1.0)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    slope = torch.tensor([[2.0, -1.0, 1.0, 1.0]])
    layer.weight.grad = slope.clone()
    hook.before_step()
    optimizer.step()
    hook.after_step()
    torch.testing.assert_close(hook.scores["weight"], torch.tensor([[-2.0, 0.5, 0.2, -0.1]]))
    assert sparse.masks["weight"].tolist() == [[False, True, True, False]]
    torch.testing.assert_close(layer.weight.detach(), torch.tensor([[0.0, 0.6, -0.3, 0.0]]))
    hook.timeline = schedules.Timeline(0.0, 0.5, 0, 2)
    layer.weight.grad = torch.tensor([[-9.0, 9.0, 0.0, 0.0]])  # the first moves away from zero, the second towards it
    hook.before_step()
    optimizer.step()
    hook.after_step()
    assert sparse.masks["weight"].tolist() == [[True, False, True, False]]
    torch.testing.assert_close(layer.weight.detach()[0, 0], torch.tensor(0.8))  # as it was when it was masked


@pytest.mark.parametrize("penalty", [0.0, 0.3])
def test_movement_takes_the_steps_of_its_equation_whatever_momentum_does(penalty):
    """Against the full weights kept whole, and gathered by eq. 4 as it is written."""
    model, lr = net(), 0.5
    sparse = prunus.Sparsifier(model)
    hook = masks.Movement(sparse, 0.6, begin=1, end=9, every=2, lr=lr, penalty=penalty)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    full = {n: w.detach().clone() for n, w in sparse.weights.items()}
    scores = {n: torch.zeros_like(w) for n, w in full.items()}
    for x, y in data(10):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        before = {n: m.clone() for n, m in sparse.masks.items()}
        for name, weight in sparse.weights.items():
            gate = scores[name].sigmoid()
            scores[name] -= lr * (weight.grad * full[name] + penalty * gate * (1 - gate))
        hook.before_step()
        assert all((w.grad[~before[n]] == 0).all() for n, w in sparse.weights.items())
        optimizer.step()
        full = {n: torch.where(before[n], w.detach(), full[n]) for n, w in sparse.weights.items()}
        hook.after_step()
        for name, weight in sparse.weights.items():
            torch.testing.assert_close(hook.scores[name], scores[name])
            assert torch.equal(weight.detach(), torch.where(sparse.masks[name], full[name], 0.0))
            assert torch.equal(weight.detach() + hook.hidden[name], full[name])
    assert sparse.sparsity == pytest.approx(0.6, abs=0.01)


def test_soft_movement_keeps_above_the_threshold():
    model = net()
    sparse = prunus.Sparsifier(model)
    hook = masks.Movement(sparse, threshold=0.45, penalty=0.5, lr=0.1)
    fit(model, data(), epochs=4, lr=0.02, hooks=[hook])
    assert 0.05 < sparse.sparsity < 1
    for name, mask in sparse.masks.items():
        assert torch.equal(mask, hook.scores[name].sigmoid() > 0.45)
    more = prunus.Sparsifier(other := net())
    fit(other, data(), epochs=4, lr=0.02, hooks=[masks.Movement(more, threshold=0.45, penalty=0.7, lr=0.1)])
    assert more.sparsity > sparse.sparsity
    with pytest.raises(InputError, match="between 0 and 0.5"):
        masks.Movement(sparse, threshold=0.9)


def test_soft_filters_train_on_after_they_were_zeroed():
    model = net()
    sparse = prunus.Sparsifier(model, only=["0.weight"])
    hook = masks.SoftFilter(sparse, 0.25)
    alive = []

    class Watch:
        def before_step(self):
            pass

        def after_step(self):
            alive.append(int(model[0].weight.detach().any(1).sum()))

        epoch_end = before_step

    fit(model, data(), epochs=2, lr=0.05, hooks=[hook, Watch()])
    assert alive[-1] > 12
    assert int(model[0].weight.detach().any(1).sum()) == 12 == int(sparse.masks["0.weight"].any(1).sum())


def test_a_ticket_goes_back_to_its_step():
    model = net()
    ticket, early = masks.Ticket(model), masks.Ticket(model, at_step=3)
    start = copy.deepcopy(model.state_dict())
    by_hand = net()
    fit(by_hand, data(), epochs=2, lr=0.05, hooks=[Stop(by_hand, 3, seen := {})])
    fit(model, data(), epochs=2, lr=0.05, hooks=[ticket, early])
    sparse = prunus.Sparsifier(model).prune(0.5)
    ticket.rewind(sparse)
    assert torch.equal(model[0].weight, start["0.weight"] * sparse.masks["0.weight"])
    assert torch.equal(model[0].bias, start["0.bias"])
    early.rewind(sparse)
    assert torch.equal(model[0].weight, seen["0.weight"] * sparse.masks["0.weight"])
    with pytest.raises(InputError, match=r"step 9 wasn't reached: 0 were made"):
        masks.Ticket(model, at_step=9).rewind(sparse)


class Stop:
    """Copies the model's state after one step."""

    def __init__(self, model: nn.Module, step: int, into: dict) -> None:
        self.model, self.left, self.into = model, step, into

    def before_step(self) -> None:
        pass

    def after_step(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.into.update(copy.deepcopy(self.model.state_dict()))

    epoch_end = before_step


def test_the_sparsifier_itself_is_a_hook():
    model = net()
    sparse = prunus.Sparsifier(model).prune(0.6)
    fit(model, data(), epochs=2, lr=0.05, hooks=[sparse])
    assert all(torch.equal(w != 0, sparse.masks[n]) for n, w in sparse.weights.items())


# ---------------------------------------------------------------- SparseGPT


def obs_by_columns(weight, mask_of, hessian, block):
    """The equations of the paper (3, and the inverses H_Uj of section 3.2), each inverse taken for itself."""
    weight, keep = weight.double().clone(), torch.ones_like(weight, dtype=torch.bool)
    columns = weight.shape[1]
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        spread = torch.stack([torch.linalg.inv(hessian[j:, j:])[0, 0] for j in range(start, stop)])
        keep[:, start:stop] = mask_of(weight[:, start:stop].square() / spread)
        for j in range(start, stop):
            inverse = torch.linalg.inv(hessian[j:, j:])
            for row in range(len(weight)):
                if not keep[row, j]:
                    weight[row, j:] -= weight[row, j] / inverse[0, 0] * inverse[:, 0]
                    weight[row, j] = 0
    return weight, keep


@pytest.mark.parametrize(("granularity", "block"), [("weight", 5), ("weight", 128), ("2:4", 4), ("4:8", 8)])
def test_sparsegpt_is_its_equations(granularity, block):
    torch.manual_seed(0)
    layer, x = nn.Linear(16, 6), torch.randn(40, 16) @ torch.randn(16, 16)
    hessian = 2 * x.double().T @ x.double()
    hessian += 0.01 * hessian.diagonal().mean() * torch.eye(16)

    def chosen(saliency):
        if granularity == "weight":
            return saliency > saliency.flatten().sort().values[saliency.numel() // 2 - 1]
        return saliency > saliency.sort(dim=1).values[:, saliency.shape[1] // 2 - 1 :][:, :1]

    expected, keep = obs_by_columns(layer.weight.detach(), chosen, hessian, block)
    before = layer.weight.detach().clone()
    sparse = prunus.Sparsifier(layer)
    share = {"sparsity": 0.5} if granularity == "weight" else {}
    masks.sparsegpt(sparse, granularity=granularity, data=[x[:25], x[25:]], loss=_run, block=block, **share)
    assert torch.equal(sparse.masks["weight"], keep)
    torch.testing.assert_close(layer.weight.detach(), expected.float(), rtol=1e-5, atol=1e-5)
    plain = prunus.Sparsifier(copy.deepcopy(layer))
    plain.model.weight.data = before.clone()
    plain.prune(0.5) if granularity == "weight" else plain.prune(granularity=granularity)
    error, naive = ((x @ (w.detach() - before).T).norm() for w in (layer.weight, plain.model.weight))
    assert error < 0.7 * naive


def _run(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    return model(batch)


def test_sparsegpt_on_a_network_with_groups_sees_what_pruned_layers_give():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 5)).eval()
    x = torch.randn(60, 4, 4, 4)
    dense, magnitude = copy.deepcopy(model), copy.deepcopy(model)
    prunus.Sparsifier(magnitude).prune(0.6)
    sparse = masks.sparsegpt(prunus.Sparsifier(model), 0.6, data=[x], loss=_run)
    assert sparse.sparsity == pytest.approx(0.6, abs=0.01)
    assert all(int(w[~sparse.masks[n]].count_nonzero()) == 0 for n, w in sparse.weights.items())
    with torch.no_grad():
        off = [(m(x) - dense(x)).norm().item() for m in (model, magnitude)]
        hidden = model[2](model[1](model[0](x))).double()
    assert off[0] < 0.9 * off[1]
    w, keep = prune_matrix(
        dense[3].weight.detach(), torch.ones(5, 128, dtype=torch.bool), hidden.T @ hidden, 0.6, 128, 0.01, by_row=False
    )
    assert torch.equal(keep, sparse.masks["3.weight"])
    torch.testing.assert_close(model[3].weight.detach(), w.float())


def test_errors_of_sparsegpt():
    sparse = prunus.Sparsifier(net())
    for arguments in ({"sparsity": 1.0}, {}, {"sparsity": 0.5, "granularity": "filter"}):
        with pytest.raises(InputError, match="single weights and a sparsity"):
            masks.sparsegpt(sparse, data=[], **arguments)
    with pytest.raises(InputError, match="along dimension 1"):
        masks.sparsegpt(sparse, data=[], granularity="2:4@0")
    with pytest.raises(InputError, match="pass data=loader"):
        masks.sparsegpt(sparse, 0.5, data=[])
