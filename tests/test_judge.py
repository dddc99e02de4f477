"""The zoo's judge finds what is kept by value, and finds fault where there is one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from benchmarks.zoo.case import Case, Example
from benchmarks.zoo.coverage import page
from benchmarks.zoo.isolate import check_apart
from benchmarks.zoo.judge import Outcome, check
from benchmarks.zoo.times import both_right, table
from benchmarks.zoo.values import NotFoundError, difference, find_kept, make_distinct, reference, run


def chain() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3)).double().eval()
    make_distinct(model)
    return model


def cut(model: nn.Sequential, rows: list[int], columns: list[int]) -> nn.Sequential:
    """The chain with these units only, by hand; unlike rows and columns make it wrong."""
    small = copy.deepcopy(model)
    n = len(rows)
    small[0], small[3] = nn.Linear(6, n).double(), nn.Linear(n, 3).double()
    small[1] = nn.LayerNorm(n).double()
    with torch.no_grad():
        small[0].weight.copy_(model[0].weight[rows])
        small[0].bias.copy_(model[0].bias[rows])
        small[1].weight.copy_(model[1].weight[rows])
        small[1].bias.copy_(model[1].bias[rows])
        small[3].weight.copy_(model[3].weight[:, columns])
        small[3].bias.copy_(model[3].bias)
    return small


def error(model: nn.Module, small: nn.Module) -> float:
    x = (torch.randn(5, 6, generator=torch.Generator().manual_seed(1)),)
    masked = reference(model, small, find_kept(model, small))
    return difference(run(masked, x, {}), run(small, x, {}))


def test_a_right_cut_is_right_in_any_order() -> None:
    model = chain()
    assert error(model, cut(model, [1, 4, 6], [1, 4, 6])) < 1e-14
    assert error(model, cut(model, [6, 1, 4], [6, 1, 4])) < 1e-14


def test_rows_and_columns_that_differ_are_wrong() -> None:
    model = chain()
    assert error(model, cut(model, [1, 4, 6], [1, 4, 7])) > 1e-3
    assert error(model, cut(model, [1, 4, 6], [4, 1, 6])) > 1e-3


def test_where_each_entry_lies() -> None:
    model = chain()
    kept = find_kept(model, cut(model, [1, 4, 6], [2, 4, 6]))
    assert [i.tolist() for i in kept["0.weight"]] == [[1, 4, 6], [0, 1, 2, 3, 4, 5]]
    assert kept["3.weight"][1].tolist() == [2, 4, 6]


def test_values_of_its_own_are_not_found() -> None:
    model = chain()
    small = cut(model, [1, 4, 6], [1, 4, 6])
    with torch.no_grad():
        small[0].weight[1, 2] += 1
    with pytest.raises(NotFoundError, match="0.weight"):
        find_kept(model, small)


def test_outputs_of_other_shapes_or_nan_differ() -> None:
    assert difference(torch.ones(3), torch.ones(4)) == float("inf")
    assert difference(torch.ones(3), torch.full((3,), float("nan"))) == float("inf")
    assert difference({"a": torch.ones(2) * 4}, {"a": torch.tensor([4.0, 5.0])}) == 0.25


def test_a_cut_that_is_wrong_is_an_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("handmade", "chain", lambda: Example(chain(), (torch.randn(5, 6),)), left=0.7)
    assert check(case).ok
    wrong = {"prunus": lambda example: (cut(example.model, [1, 4, 6], [1, 4, 7]), 0.1, "")}
    monkeypatch.setattr("benchmarks.zoo.judge.CONTENDERS", wrong)
    outcome = check(case)
    assert not outcome.right
    assert "1 of them" not in page([outcome])
    assert "* handmade chain: relative error" in page([outcome])


def test_a_refusal_counts_only_with_its_reason() -> None:
    def scripted() -> Example:
        return Example(torch.jit.script(nn.Linear(2, 2)), (torch.randn(1, 2),))

    assert check(Case("handmade", "s", scripted, refused="scripted")).ok
    assert not check(Case("handmade", "s", scripted, refused="quantized")).ok
    assert not check(Case("handmade", "c", lambda: Example(chain(), (torch.randn(5, 6),)), refused="any")).ok


@pytest.mark.skipif(torch.cuda.is_initialized(), reason="a process that has woken a GPU can't be forked")
def test_an_endless_case_is_stopped() -> None:
    class Endless(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            while True:
                x = x + 1

    outcome = check_apart(Case("handmade", "e", lambda: Example(Endless(), (torch.ones(1),))), "prunus", False, 2.0)
    assert "did not end within 2 s" in outcome.why


def test_outcomes_survive_their_file() -> None:
    import json

    outcome = Outcome("timm", "a", seconds=0.1, left=0.3, error=1e-15, why="")
    assert Outcome(**json.loads(outcome.to_json())) == outcome


def test_a_cut_that_the_outputs_do_not_show_proves_nothing() -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = chain()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, :3] + 1e-9 * self.inner(x)

    outcome = check(Case("handmade", "hidden", lambda: Example(Hidden(), (torch.randn(5, 6),)), left=0.7))
    assert not outcome.right
    assert "hardly depend on what was cut" in outcome.why


def test_times_are_of_the_models_that_both_cut_right() -> None:
    """A peer that leaves a model as it is, or breaks it, is quick without having done anything."""
    peers = {"a": (4.0, 0.5, 0.0), "b": (6.0, 0.7, 0.0), "whole": (0.1, 1.0, 0.0), "wrong": (0.1, 0.5, 1.0)}
    outcomes = [Outcome("timm", name, "prunus", 1.0, 0.5, 0.0) for name in peers]
    outcomes += [Outcome("timm", name, "Torch-Pruning", *found) for name, found in peers.items()]
    outcomes.append(Outcome("timm", "untried", "prunus", 1.0, 0.5, 0.0))
    assert both_right(outcomes) == {("timm", "a"), ("timm", "b")}


def test_the_table_of_times_has_medians_and_sums_by_zoo_and_together() -> None:
    told = table({("timm", "a"): (1.0, 4.0), ("timm", "b"): (2.0, 6.0), ("handmade", "c"): (9.0, 1.0)})
    assert "| timm | 2 | 1.500 | 5.000 | 3.0 | 10.0 |" in told
    assert "| all | 3 | 2.000 | 4.000 | 12.0 | 11.0 |" in told
    assert told in page([Outcome("timm", "a", "prunus", 1.0, 0.5, 0.0)], times=told)
