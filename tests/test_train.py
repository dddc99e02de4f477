"""The loop against the same steps written out by hand, and the losses against their formulas."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import prunus
from prunus.errors import InputError
from prunus.train import distillation, fit


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.0), nn.Linear(16, 3))


def data(count: int = 5) -> list[list[torch.Tensor]]:
    draw = torch.Generator().manual_seed(3)
    inputs = [torch.randn(8, 4, generator=draw) for _ in range(count)]
    return [[x, x[:, :3].argmax(1)] for x in inputs]


def test_the_loop_takes_the_steps_it_says():
    model, by_hand, batches = net(), net(), data()
    fit(model, batches, epochs=3, lr=0.01)
    optimizer = torch.optim.AdamW(by_hand.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=15)
    for _ in range(3):
        for inputs, targets in batches:
            optimizer.zero_grad()
            F.cross_entropy(by_hand(inputs), targets).backward()
            optimizer.step()
            schedule.step()
    for found, expected in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(found, expected)


def test_the_model_bears_no_mark_of_it():
    """Accelerate marks what it has prepared; a copy of a marked model would stay where it is, off the GPU."""
    model = net()
    before = set(vars(model))
    fit(model, data(), epochs=1)
    assert set(vars(model)) == before


def test_it_learns_and_tells():
    model, seen, modes = net(), [], []

    def validate(trained):
        modes.append(trained.training)
        home = next(trained.parameters()).device
        losses = [F.cross_entropy(trained(x.to(home)), y.to(home)) for x, y in data()]
        return {"loss": float(sum(losses).detach())}

    history = fit(model, data(), epochs=20, lr=0.05, validate=validate, on_progress=seen.append)
    assert history.epochs[-1].loss < 0.5 * history.epochs[0].loss
    assert history.epochs[-1].metrics["loss"] < history.epochs[0].metrics["loss"]
    assert [epoch.epoch for epoch in history.epochs] == list(range(1, 21))
    assert modes == [False] * 20
    assert not model.training
    assert (seen[0].epoch, seen[0].step, seen[-1].epoch, seen[-1].step, len(seen)) == (1, 1, 20, 5, 100)
    assert seen[4].loss == pytest.approx(history.epochs[0].loss)


def test_a_pruned_model_learns_again():
    model = net()
    small = prunus.prune(model, torch.randn(2, 4), ratio=0.5)
    history = fit(small, data(), epochs=15, lr=0.05)
    assert small[0].weight.shape == (8, 4)
    assert history.epochs[-1].loss < 0.7 * history.epochs[0].loss


def test_a_seed_repeats_the_run_and_leaves_the_callers_random_numbers():
    def run(seed):
        model = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5), nn.Linear(16, 3))
        model.load_state_dict(nn.Sequential(*(m for m in [net()[0], nn.Dropout(), net()[3]])).state_dict())
        state = torch.get_rng_state()
        fit(model, data(), epochs=1, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        return model[0].weight.detach()

    first = run(1)
    torch.rand(7)
    torch.testing.assert_close(run(1), first, rtol=0, atol=0)
    assert not torch.allclose(run(2), first)


def test_an_optimizer_keeps_its_own_rates():
    model = net()
    fixed = model[0].weight.detach().clone()
    moved = model[3].weight.detach().clone()
    optimizer = torch.optim.SGD(
        [{"params": model[0].parameters(), "lr": 0.0}, {"params": model[3].parameters()}], lr=0.1
    )
    fit(model, data(), epochs=1, optimizer=optimizer)
    torch.testing.assert_close(model[0].weight.detach(), fixed, rtol=0, atol=0)
    assert not torch.allclose(model[3].weight.detach(), moved)


def test_distillation_is_its_formula():
    student, teacher = net(0), net(1).eval()
    with torch.no_grad():
        teacher[3].weight.mul_(20)  # far enough apart that the two directions of the divergence differ
    inputs, targets = data()[0]
    found = distillation(teacher, temperature=3.0, weight=0.25)(student, [inputs, targets])
    p, q = ((m(inputs) / 3).softmax(1) for m in (teacher, student))
    divergence = (p * (p / q).log()).sum(1).mean()
    wrong_way = (q * (q / p).log()).sum(1).mean()
    expected = 0.75 * F.nll_loss(student(inputs).log_softmax(1), targets) + 0.25 * 9 * divergence
    torch.testing.assert_close(found, expected)
    assert abs(float((divergence - wrong_way).detach())) > 1e-2
    found.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert student[0].weight.grad is not None


def test_distillation_pulls_towards_the_teacher():
    teacher, student = net(1).eval(), net(0)
    apart = [F.mse_loss(student(x), teacher(x)).item() for x, _ in data()]
    fit(student, data(), epochs=25, lr=0.05, loss=distillation(teacher, weight=1.0))
    closer = [F.mse_loss(student(x).softmax(1), teacher(x).softmax(1)).item() for x, _ in data()]
    assert sum(closer) < 0.05 * sum(apart)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"epochs": 0}, "epochs is 0; give at least 1"),
        ({"loader": []}, "the loader is empty"),
        ({"loader": iter(data())}, "wrap the data in a DataLoader"),
        ({"optimizer": torch.optim.SGD(net(5).parameters(), lr=1.0)}, "Was it made for the model before pruning"),
    ],
)
def test_bad_arguments(arguments, words):
    arguments = {"loader": data(), "epochs": 1, **arguments}
    with pytest.raises(InputError, match=words):
        fit(net(), **arguments)
