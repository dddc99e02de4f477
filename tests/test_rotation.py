"""Turning axes between linear maps: nothing changes before the cut, and the cut is the best there is."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import prunus


class Attention(nn.Module):
    """Separate projections, a scale of its own, so that the head size can be cut; a residual MLP."""

    def __init__(self, scaled: bool = False, squared: bool = False) -> None:
        super().__init__()
        self.heads, self.squared = 3, squared
        self.register_buffer("scale", torch.linspace(0.5, 2, 8).double() if scaled else None)
        self.q, self.k, self.v = nn.Linear(12, 24), nn.Linear(12, 24), nn.Linear(12, 24)
        self.out = nn.Linear(24, 12)
        self.up, self.down = nn.Linear(12, 20), nn.Linear(20, 12)

    def forward(self, x):
        n, t, _ = x.shape
        q, k, v = (f(x).view(n, t, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        if self.scale is not None:
            q = q * self.scale
        if self.squared:
            q = q * q
        y = F.scaled_dot_product_attention(q, k, v, scale=0.35).transpose(1, 2).flatten(2)
        x = x + self.out(y)
        return x + self.down(F.gelu(self.up(x)))


def made(**how):
    torch.manual_seed(0)
    model = Attention(**how).double().eval()
    for p in model.parameters():
        nn.init.normal_(p, std=0.4)
    data = [
        torch.randn(8, 6, 12, dtype=torch.float64) @ torch.diag(torch.linspace(0.2, 2, 12).double()) for _ in range(4)
    ]
    return model, data


def heads(y):
    """(rows, heads, d) of (N, T, heads * d)."""
    return y.flatten(0, 1).unflatten(1, (3, -1))


def test_nothing_changes_and_everything_between_linear_maps_is_turned() -> None:
    model, data = made()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    found = prunus.rotate(model, data, data[0][:2])
    assert found.turned == ("q#2", "v")
    assert found.skipped["up"] == "gelu isn't linear along it"
    torch.testing.assert_close(found.model(data[3]), model(data[3]), rtol=1e-11, atol=1e-11)
    assert all(torch.equal(before[name], p) for name, p in model.state_dict().items())
    for name in ("q.weight", "k.bias", "v.weight", "v.bias", "out.weight"):
        assert (found.model.state_dict()[name] - before[name]).abs().max() > 1e-2, name
    assert torch.equal(found.model.out.bias, model.out.bias)


def test_the_first_of_queries_and_keys_make_the_best_product_of_their_rank() -> None:
    """Eckart and Young: over all pairs of a query and a key, centred, nothing of rank 3 comes nearer."""
    model, data = made()
    x = torch.cat(data)
    turned = prunus.rotate(model, data, data[0][:2]).model
    with torch.no_grad():
        q, k = heads(turned.q(x)), heads(turned.k(x))
        whole = torch.einsum("ihd,jhd->hij", heads(model.q(x)), heads(model.k(x)) - heads(model.k(x)).mean(0))
        mine = torch.einsum("ihd,jhd->hij", q[..., :3], (k - k.mean(0))[..., :3])
    best = torch.linalg.svdvals(whole)[:, 3:].square().sum(1)
    torch.testing.assert_close((whole - mine).square().sum((1, 2)), best, rtol=1e-3, atol=1e-6)


def test_the_first_values_span_the_best_output_of_their_rank() -> None:
    model, data = made()
    turned = prunus.rotate(model, data, data[0][:2]).model
    seen = []
    for net in (model, turned):
        handle = net.out.register_forward_pre_hook(lambda _, args: seen.append(heads(args[0])))
        net(torch.cat(data))
        handle.remove()
    old, new = ([(s - s.mean(0)).detach() for s in seen][i] for i in (0, 1))
    for head in range(3):
        y = old[:, head] @ model.out.weight.detach()[:, 8 * head : 8 * head + 8].T
        kept = new[:, head, :3]
        error = (y - kept @ torch.linalg.lstsq(kept, y).solution).square().sum()
        torch.testing.assert_close(error, torch.linalg.svdvals(y)[3:].square().sum(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("how", "why"), [("scaled", "scale[0] runs over it too"), ("squared", "the outputs change")])
def test_what_is_not_linear_stays_with_the_reason(how, why) -> None:
    model, data = made(**{how: True})
    found = prunus.rotate(model, data, data[0][:2])
    assert found.turned == ("v",)
    assert any(why in reason for reason in found.skipped.values())
    torch.testing.assert_close(found.model(data[3]), model(data[3]), rtol=1e-11, atol=1e-11)


def test_what_a_turn_changes_is_seen_however_little_it_weighs() -> None:
    """In fp32 the branch is lost in the outputs' rounding, as behind a layer scale of a millionth."""
    model, data = made(squared=True)
    with torch.no_grad():
        model.out.weight *= 1e-7
        model.out.bias *= 1e-7
    found = prunus.rotate(model.float(), [x.float() for x in data], data[0][:2].float())
    assert found.turned == ("v",)


def test_prune_turns_first_when_nothing_is_chosen() -> None:
    """With as little as half of every head left, the refit alone loses more."""
    model, data = made()
    x = torch.randn(64, 6, 12, dtype=torch.float64)
    ratio = {"q#2": 0.5, "v": 0.5}
    small = prunus.prune(model, data[0][:2], ratio=ratio, data=data)
    plan = prunus.plan(model, data[0][:2], ratio=ratio, data=data)
    plain = plan.apply(model)
    prunus.compensate(model, plain, plan, data, data[0][:2])
    with torch.no_grad():
        turned, refit = ((net(x) - model(x)).square().mean() for net in (small, plain))
    assert turned < 0.7 * refit
