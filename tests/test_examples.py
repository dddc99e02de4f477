"""Several examples whose control flow differs: axes are joined over all, the plan holds on each, each is proven."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import prunus


class Routes(nn.Module):
    """Short inputs go one way, long ones another; with a context both are joined with it."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.short, self.long = nn.Linear(5, 16), nn.Linear(16, 12), nn.Linear(16, 12)
        self.context, self.out = nn.Linear(4, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        y = self.inp(x).relu()
        y = self.short(y) if x.shape[1] < 4 else self.long(y).flip(1)
        if context is not None:
            y = y * self.context(context)[:, None]
        return self.out(y.relu())


SHORT, LONG, CONTEXT = torch.randn(2, 3, 5), torch.randn(2, 6, 5), torch.randn(2, 4)
ALL = prunus.Examples(SHORT, (LONG,), {"x": SHORT, "context": CONTEXT})


@pytest.fixture
def model() -> Routes:
    torch.manual_seed(0)
    return Routes().eval()


def test_one_example_leaves_the_other_ways_broken(model: Routes) -> None:
    small = prunus.prune(model, SHORT, ratio=0.5)
    assert small.inp.out_features == 8 and small.long.in_features == 16
    with pytest.raises(RuntimeError):
        small(LONG)


def test_all_ways_are_cut_together_and_run(model: Routes) -> None:
    graph = prunus.trace(model, ALL)
    assert "not reached" not in str(graph)
    small = prunus.prune(model, ALL, ratio=0.5)
    assert tuple(small.long.weight.shape) == tuple(small.short.weight.shape) == (6, 8)
    kept = small.prunus_plan.kept
    assert kept["short.weight"][0] == kept["long.weight"][0] == kept["context.weight"][0] == kept["out.weight"][1]
    masked = Routes().eval()
    masked.load_state_dict(model.state_dict())
    for name, cut in kept.items():
        for dim, indices in cut.items():
            gone = [i for i in range(masked.get_parameter(name).shape[dim]) if i not in indices]
            masked.get_parameter(name).data.index_fill_(dim, torch.tensor(gone), 0)
    for args in ((SHORT,), (LONG,), (SHORT, CONTEXT), (LONG, CONTEXT)):  # the last wasn't an example
        torch.testing.assert_close(small(*args), masked(*args))


def test_what_any_example_freezes_is_frozen() -> None:
    class Flips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 12), nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            return self.b(y.flip(-1) if len(x) > 4 else y)

    few, many = torch.randn(2, 5), torch.randn(6, 5)
    assert prunus.prune(Flips(), few, ratio=0.5).a.out_features == 6
    with pytest.raises(prunus.NothingToPrune, match="flip"):
        prunus.prune(Flips(), prunus.Examples(few, many), ratio=0.5)


def test_every_example_is_proven(model: Routes) -> None:
    plan = prunus.plan(model, ALL, ratio=0.5)
    small = plan.apply(model)
    proof = prunus.prove(model, small, plan, ALL)
    assert proof.ok and proof.outputs == 3
    with torch.no_grad():
        small.context.weight.add_(0.1)
    assert prunus.prove(model, small, plan, prunus.Examples(SHORT, LONG)).ok
    assert not prunus.prove(model, small, plan, ALL).ok
    assert not prunus.prove(model, small, plan, prunus.Examples({"x": SHORT, "context": CONTEXT}, SHORT)).ok


def test_keywords_are_common_to_all_examples(model: Routes) -> None:
    small = prunus.prune(model, prunus.Examples(SHORT, LONG), {"context": CONTEXT}, ratio=0.5)
    assert small.context.out_features == 6
    small(SHORT, CONTEXT), small(LONG, CONTEXT)


def test_misuse_is_told(model: Routes) -> None:
    with pytest.raises(prunus.InputError, match="at least one example"):
        prunus.Examples()
    with pytest.raises(prunus.InputError, match="one example is wanted here, not several"):
        prunus.profile(model, ALL)
    with pytest.raises(prunus.TraceError, match="on the example inputs"):
        prunus.trace(model, prunus.Examples(SHORT, torch.randn(2, 3, 7)))
