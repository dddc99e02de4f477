"""What torch.nn.utils.prune leaves behind, beside a Sparsifier, on the LeNet: no training, seconds."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.utils import prune

import prunus
from prunus.demo.lenet import LeNet
from prunus.masks import from_zeros

LAYERS = ("conv1", "conv2", "fc1", "fc2", "fc3")
Row = tuple[str, str, str]


def rows() -> list[Row]:
    """(what, torch.nn.utils.prune, prunus.Sparsifier), half of the weights masked by L1."""
    theirs, ours = _lenet(), _lenet()
    for name in LAYERS:
        prune.l1_unstructured(theirs.get_submodule(name), "weight", amount=0.5)
    sparse = prunus.Sparsifier(ours).prune(0.5, "l1")
    theirs(torch.zeros(1, 1, 28, 28))
    dense = _bytes(_lenet())
    return [
        ("state dict while masked", f"{_bytes(theirs):,} bytes of {dense:,}", f"{_bytes(ours):,} bytes"),
        ("copy.deepcopy while masked", _tried(lambda: copy.deepcopy(theirs)), _tried(lambda: copy.deepcopy(ours))),
        ("into a fresh model", _loaded(theirs), f"{_loaded(ours)}; {_masks_kept(ours, sparse)}"),
        ("zeros after 3 steps with momentum", f"{_steps(None):.1%} (after remove)", f"{_steps('after_step'):.1%}"),
        ("30 % of rows that tie", f"{_torch_ties():.0%} masked", f"{_our_ties():.0%} masked"),
        ("whole filters, compared over all layers", _globally(), "scope='global', granularity='filter'"),
    ]


def _lenet() -> LeNet:
    torch.manual_seed(0)
    return LeNet()


def _bytes(model: nn.Module) -> int:
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    return file.tell()


def _tried(work: Callable[[], object]) -> str:
    try:
        work()
    except Exception as error:  # noqa: BLE001 - that it raises is the finding
        return f"raises {type(error).__name__}"
    return "works"


def _loaded(model: nn.Module) -> str:
    return _tried(lambda: _lenet().load_state_dict(model.state_dict()))


def _masks_kept(model: nn.Module, sparse: prunus.Sparsifier) -> str:
    fresh = _lenet()
    fresh.load_state_dict(model.state_dict())
    found = from_zeros(fresh).masks
    same = all(torch.equal(found[name], mask) for name, mask in sparse.masks.items())
    return "masks read from the zeros" if same else "masks lost"


def _steps(held: str | None) -> float:
    """The share of zeros after half was masked in a training with momentum, and three more steps."""
    model = _lenet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    x, y = torch.randn(64, 1, 28, 28, generator=torch.Generator().manual_seed(1)), torch.arange(64) % 10

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    step()
    sparse = prunus.Sparsifier(model).prune(0.5, "l1")
    for _ in range(3):
        step()
        if held:
            sparse.after_step()
    weights = sparse.weights.values()
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


def _torch_ties() -> float:
    """``random_structured`` cuts by a threshold: where its random numbers tie, all of them go."""
    layer, true = nn.Linear(4, 10), torch.rand
    torch.rand = lambda *size, **_: torch.full([int(n) for n in size], 0.5)  # type: ignore[assignment]
    try:
        prune.random_structured(layer, "weight", amount=0.3, dim=0)
    finally:
        torch.rand = true
    return float((layer.get_buffer("weight_mask") == 0).float().mean())


def _our_ties() -> float:
    layer = nn.Linear(4, 10)
    nn.init.ones_(layer.weight)
    return prunus.Sparsifier(layer).prune(0.3, "l1", granularity="filter").sparsity


def _globally() -> str:
    model = _lenet()
    pairs = [(model.get_submodule(name), "weight") for name in LAYERS]
    return _tried(lambda: prune.global_unstructured(pairs, prune.LnStructured, amount=0.5, n=1, dim=0))
