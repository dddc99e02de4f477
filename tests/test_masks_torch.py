"""Against torch.nn.utils.prune: the same masks from the same seed, taken over and given back, and what hurts there."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import prunus
from prunus import masks
from prunus.demo.lenet import LeNet
from prunus.errors import InputError

NAMES = ("conv1", "conv2", "fc1", "fc2", "fc3")


def lenet(seed: int = 0) -> LeNet:
    torch.manual_seed(seed)
    return LeNet()


def both(method, ours) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The masks that torch's method leaves and those that ours does, from the same weights and the same seed."""
    theirs, model = lenet(), lenet()
    torch.manual_seed(7)
    method(theirs)
    torch.manual_seed(7)
    sparse = ours(prunus.Sparsifier(model))
    expected = {f"{n}.weight": getattr(theirs, n).weight_mask for n in NAMES if prune.is_pruned(getattr(theirs, n))}
    return expected, {name: sparse.masks[name].float() for name in expected}


def each(method, **arguments):
    return lambda model: [method(getattr(model, n), "weight", **arguments) for n in NAMES]


def every(model):
    return [(getattr(model, n), "weight") for n in NAMES]


METHODS = {
    "random_unstructured": (each(prune.random_unstructured, amount=0.3), lambda s: s.prune(0.3, "random")),
    "l1_unstructured": (each(prune.l1_unstructured, amount=0.37), lambda s: s.prune(0.37, "l1")),
    "random_structured": (
        each(prune.random_structured, amount=0.5, dim=0),
        lambda s: s.prune(0.5, "random", granularity="filter"),
    ),
    "random_structured, dim 1": (
        lambda m: [prune.random_structured(getattr(m, n), "weight", amount=0.5, dim=1) for n in NAMES[1:]],
        lambda s: prunus.Sparsifier(s.model, skip=["conv1"]).prune(0.5, "random", granularity="channel"),
    ),
    "ln_structured, n=1": (
        each(prune.ln_structured, amount=0.4, n=1, dim=0),
        lambda s: s.prune(0.4, "l1", granularity="filter"),
    ),
    "ln_structured, n=2": (
        each(prune.ln_structured, amount=0.5, n=2, dim=0),
        lambda s: s.prune(0.5, "l2", granularity="filter"),
    ),
    "ln_structured, n=inf, last dim": (
        lambda m: prune.ln_structured(m.conv2, "weight", amount=1 / 3, n=float("inf"), dim=-1),
        lambda s: prunus.Sparsifier(s.model, only=["conv2.weight"]).prune(1 / 3, "linf", granularity="dim:3"),
    ),
    "global_unstructured, l1": (
        lambda m: prune.global_unstructured(every(m), prune.L1Unstructured, amount=0.8),
        lambda s: s.prune(0.8, "l1", scope="global"),
    ),
    "global_unstructured, random": (
        lambda m: prune.global_unstructured(every(m), prune.RandomUnstructured, amount=0.6),
        lambda s: s.prune(0.6, "random", scope="global"),
    ),
    "custom_from_mask": (
        lambda m: prune.custom_from_mask(m.fc3, "weight", torch.arange(840).view(10, 84) % 3 != 0),
        lambda s: s.set({"fc3.weight": torch.arange(840).view(10, 84) % 3}),
    ),
    "identity": (each(prune.identity), lambda s: s),
}


@pytest.mark.parametrize("name", METHODS)
def test_the_same_seed_gives_the_same_masks(name):
    expected, found = both(*METHODS[name])
    assert expected
    for key in expected:
        assert torch.equal(found[key], expected[key]), key


def test_another_seed_gives_other_masks():
    first, second = (prunus.Sparsifier(lenet()).prune(0.3, "random").masks["fc1.weight"] for _ in range(2))
    torch.manual_seed(8)
    third = prunus.Sparsifier(LeNet()).prune(0.3, "random").masks["fc1.weight"]
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_pruning_again_matches_a_container():
    """torch counts from what is left, we from all: half of 20 % and then 10 of 40 are the same weights."""

    def theirs(model):
        prune.random_unstructured(model.fc3, "weight", amount=420)
        prune.l1_unstructured(model.fc3, "weight", amount=0.5)
        prune.ln_structured(model.fc3, "weight", amount=2, n=2, dim=0)

    def ours(sparse):
        one = prunus.Sparsifier(sparse.model, only=["fc3.weight"])
        return one.prune(0.5, "random").prune(0.75, "l1").prune(0.2, "l2", granularity="filter")

    expected, found = both(theirs, ours)
    assert torch.equal(found["fc3.weight"], expected["fc3.weight"])


def test_equal_weights_are_counted_exactly_and_as_torch_chooses():
    model = nn.Linear(40, 10)
    nn.init.constant_(model.weight, 0.5)
    theirs = copy.deepcopy(model)
    sparse = prunus.Sparsifier(model).prune(0.25, "l1")
    assert sparse.sparsity == 0.25
    prune.l1_unstructured(theirs, "weight", amount=0.25)
    assert torch.equal(sparse.masks["weight"].float(), theirs.weight_mask)


def test_torch_itself_over_prunes_where_random_numbers_tie(monkeypatch):
    """Its random_structured cuts by a threshold; ours by a count."""
    monkeypatch.setattr(torch, "rand", lambda *size, **_: torch.full([int(s) for s in size], 0.5))
    theirs, ours = nn.Linear(4, 10), nn.Linear(4, 10)
    prune.random_structured(theirs, "weight", amount=0.3, dim=0)
    assert int(theirs.weight_mask.sum()) == 0
    assert prunus.Sparsifier(ours).prune(0.3, "random", granularity="filter").sparsity == pytest.approx(0.3)


def test_masks_are_taken_over_and_given_back():
    model, x = lenet(), torch.randn(3, 1, 28, 28)
    prune.l1_unstructured(model.conv1, "weight", amount=0.3)
    prune.ln_structured(model.fc1, "weight", amount=0.5, n=2, dim=0)
    prune.random_unstructured(model.fc1, "weight", amount=0.2)
    prune.random_unstructured(model.fc2, "bias", amount=0.5)
    orig, expected, mask = model.fc1.weight_orig, model(x), model.fc1.weight_mask.clone()
    sparse = masks.from_torch_prune(model)
    assert set(sparse.masks) == {"conv1.weight", "fc1.weight", "fc2.bias"}
    torch.testing.assert_close(model(x), expected, rtol=0, atol=0)
    assert model.fc1.weight is orig and not prune.is_pruned(model)
    assert list(model.fc1._parameters) == ["bias", "weight"]  # as they stood while masked: optimizers go by position
    back = masks.to_torch_prune(sparse)
    assert torch.equal(back.fc1.weight_mask, mask)
    torch.testing.assert_close(back(x), expected, rtol=0, atol=0)


def test_what_torch_doubles_breaks_and_loses_works():
    """deepcopy, the size and the names of the state dict, loading it into a fresh model."""
    theirs, model = lenet(), lenet()
    each(prune.l1_unstructured, amount=0.5)(theirs)
    theirs(torch.randn(1, 1, 28, 28))
    with pytest.raises(RuntimeError):
        copy.deepcopy(theirs)
    sparse = prunus.Sparsifier(model).prune(0.5)
    twin = copy.deepcopy(sparse)
    assert twin.model is not model and torch.equal(twin.model.fc1.weight, model.fc1.weight)
    twin.enforce()
    assert torch.equal(twin.masks["fc1.weight"], sparse.masks["fc1.weight"])

    size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    packed = sum(t.numel() * t.element_size() for t in sparse.state_dict().values())
    doubled = sum(t.numel() * t.element_size() for t in theirs.state_dict().values())
    assert doubled > 1.9 * size and packed < size / 30

    fresh = lenet(1)
    fresh.load_state_dict(model.state_dict())
    loaded = prunus.Sparsifier(fresh)
    loaded.load_state_dict(sparse.state_dict())
    for found in (loaded, masks.from_zeros(fresh)):
        assert all(torch.equal(found.masks[n], sparse.masks[n]) for n in sparse.masks)
    fresh.load_state_dict(masks.plain_state_dict(theirs.state_dict()))
    x = torch.randn(2, 1, 28, 28)
    torch.testing.assert_close(fresh(x), theirs(x), rtol=0, atol=0)


def test_zeros_stay_under_momentum():
    def train(step):
        model = lenet()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
        loss = lambda: model(torch.ones(2, 1, 28, 28)).square().sum()  # noqa: E731
        loss().backward()
        optimizer.step()
        sparse = prunus.Sparsifier(model).prune(0.5)
        for _ in range(3):
            optimizer.zero_grad()
            loss().backward()
            step(sparse, optimizer)
        return sum(int((w == 0).sum()) for w in sparse.weights.values()) / sum(m.numel() for m in sparse.masks.values())

    def attached(sparse, optimizer):
        handle = sparse.attach(optimizer)
        optimizer.step()
        handle.remove()

    assert train(lambda sparse, optimizer: optimizer.step()) < 0.25
    assert train(lambda sparse, optimizer: (optimizer.step(), sparse.after_step())) >= 0.5
    assert train(attached) >= 0.5


def test_models_that_torch_masked_are_not_masked_twice():
    model = lenet()
    prune.l1_unstructured(model.fc1, "weight", amount=0.5)
    with pytest.raises(InputError, match=r"'fc1.weight' is masked by torch.nn.utils.prune.*from_torch_prune"):
        prunus.Sparsifier(model)
    prune.remove(model.fc1, "weight")
    with pytest.raises(InputError, match="no masks of torch"):
        masks.from_torch_prune(model)
    assert masks.from_zeros(model).sparsity_of("fc1.weight") == pytest.approx(0.5)
