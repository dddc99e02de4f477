"""The optimizer of the small model goes on as the masked original's would, in fp64."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import prunus
from prunus.errors import InputError, PlanError
from prunus.train import follow


class Net(nn.Module):
    """A residual net: convolutions, batch norm, tied sums, a flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, padding=1, bias=False)  # its gradient would be rounding, which Adam makes large
        self.norm = nn.BatchNorm2d(8)
        self.inner = nn.Sequential(nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 8, 3, padding=1))
        self.head = nn.Linear(8 * 16, 3)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        return self.head(torch.flatten(x + self.inner(x), 1))


def made():
    torch.manual_seed(0)
    return Net().double().train()


X = torch.randn(8, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
Y = torch.arange(8) % 3

OPTIMIZERS = {
    "momentum": lambda ps: torch.optim.SGD(ps, lr=0.05, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda ps: torch.optim.SGD(ps, lr=0.05, momentum=0.9, nesterov=True),
    "adamw": lambda ps: torch.optim.AdamW(ps, lr=0.01, amsgrad=True),
    "rmsprop": lambda ps: torch.optim.RMSprop(ps, lr=0.01, momentum=0.9, centered=True),
    "adagrad": lambda ps: torch.optim.Adagrad(ps, lr=0.01),
    "nadam": lambda ps: torch.optim.NAdam(ps, lr=0.01),
}


def train(model, optimizer, steps, masks=None):
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(X), Y).backward()
        optimizer.step()
        for name, mask in (masks or {}).items():
            with torch.no_grad():
                model.get_parameter(name).mul_(mask)


def kept_masks(model, plan):
    """1 where the plan keeps a weight, by outer products of its index lists."""
    masks = {}
    for name, parameter in model.named_parameters():
        mask = torch.ones_like(parameter)
        for dim, indices in plan.kept.get(name, {}).items():
            gone = [i for i in range(parameter.shape[dim]) if i not in indices]
            mask.index_fill_(dim, torch.tensor(gone, dtype=torch.long), 0)
        masks[name] = mask
    return masks


def groups(model):
    early = [p for name, p in model.named_parameters() if not name.startswith("head")]
    return [{"params": early}, {"params": list(model.head.parameters()), "lr": 0.02}]


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_training_goes_on_as_the_masked_originals(kind):
    model = made()
    optimizer = OPTIMIZERS[kind](groups(model))
    train(model, optimizer, 4)
    plan = prunus.plan(model, X, ratio=0.5)
    small = plan.apply(model)
    masks = kept_masks(model, plan)
    masked = copy.deepcopy(model)
    with torch.no_grad():
        for name, mask in masks.items():
            masked.get_parameter(name).mul_(mask)
    reference = OPTIMIZERS[kind](groups(masked))
    reference.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert follow(optimizer, model, small) is optimizer
    assert [group["lr"] for group in optimizer.param_groups] == [group["lr"] for group in reference.param_groups]
    train(small, optimizer, 5)
    train(masked, reference, 5, masks)
    after = plan.apply(masked)
    for (name, found), expected in zip(small.named_parameters(), after.parameters(), strict=True):
        # 1e-16 of rounding in a gradient becomes up to lr * 1e-16 / 1e-8 in a weight: Adam divides by sqrt(v) + 1e-8.
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")
    fresh = plan.apply(model)
    train(fresh, OPTIMIZERS[kind](groups(fresh)), 5)
    gap = max(float((a - b).abs().max().detach()) for a, b in zip(fresh.parameters(), after.parameters(), strict=True))
    assert gap > 1e-4  # what a new optimizer does: the comparison tells the two apart


def test_a_scheduler_still_holds_it():
    model = made()
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.1)
    train(model, optimizer, 1)
    small = prunus.prune(model, X, ratio=0.5)
    follow(optimizer, model, small)
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.005)
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == {id(p) for p in small.parameters()}


def test_factored_moments_are_sliced_along_what_they_have():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.Adafactor(model.parameters())
    model(torch.randn(4, 6)).square().sum().backward()
    optimizer.step()
    rows = optimizer.state[model[0].weight]["row_var"].clone()
    columns = optimizer.state[model[0].weight]["col_var"].clone()
    small = prunus.prune(model, torch.randn(1, 6), ratio=0.5)
    kept = list(small.prunus_plan.kept["0.weight"][0])
    follow(optimizer, model, small)
    assert torch.equal(optimizer.state[small[0].weight]["row_var"], rows[kept])
    assert torch.equal(optimizer.state[small[0].weight]["col_var"], columns)


def test_the_second_of_two_cuts():
    model = made()
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    train(model, optimizer, 2)
    small = prunus.prune(model, X, ratio=0.5)
    follow(optimizer, model, small)
    train(small, optimizer, 2)
    second = prunus.plan(small, X, ratio=0.5)
    smaller = second.apply(small)
    with pytest.raises(PlanError, match="the plan was made for"):
        follow(optimizer, small, smaller)  # carries both cuts in one
    follow(optimizer, small, smaller, second)
    train(smaller, optimizer, 1)


def test_removed_blocks_leave_the_optimizer():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))

        def forward(self, x):
            return x + self.inner(x)

    model = nn.Sequential(nn.Linear(4, 4), Residual(), Residual(), nn.Linear(4, 2))
    x = torch.randn(3, 4)
    optimizer = torch.optim.AdamW(model.parameters())
    model(x).sum().backward()
    optimizer.step()
    plan = prunus.drop_blocks(model, x, blocks=["1"])
    small = plan.apply(model)
    follow(optimizer, model, small)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in small.parameters()]
    assert {id(p) for p in optimizer.state} == {id(p) for p in small.parameters()}


def test_what_is_refused_changes_nothing():
    model = made()
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    train(model, optimizer, 1)
    optimizer.state[model.stem.weight]["odd"] = torch.zeros(5)
    small = prunus.prune(model, X, ratio=0.5)
    before = [id(p) for p in optimizer.state]
    with pytest.raises(InputError, match="'odd' is \\[5\\] for a parameter of"):
        follow(optimizer, model, small)
    assert [id(p) for p in optimizer.state] == before
    with pytest.raises(PlanError, match="carries no plan"):
        follow(optimizer, model, made())
    with pytest.raises(InputError, match="holds none of the model's parameters"):
        follow(OPTIMIZERS["momentum"](made().parameters()), model, small)
