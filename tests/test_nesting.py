"""Inputs and outputs of every kind: what is inside is found, frozen, compared, and never changed."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, UserDict, namedtuple
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

import prunus
from prunus.running import mapped, outputs_in, tensors_in

Named = namedtuple("Named", "logits hidden")


@dataclasses.dataclass
class Plain:
    logits: Tensor
    hidden: Any = None


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    logits: Tensor
    hidden: Any = None


class Custom:
    def __init__(self, logits: Tensor, hidden: Any = None) -> None:
        self.logits, self.hidden, self.me = logits, hidden, self  # a cycle


class WithSlots:
    __slots__ = ("hidden", "logits")

    def __init__(self, logits: Tensor, hidden: Any = None) -> None:
        self.logits, self.hidden = logits, hidden


class Records(dict):
    pass


KINDS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "tuple": lambda y, h: (y, h),
    "list": lambda y, h: [y, [h]],
    "dict": lambda y, h: {"logits": y, "hidden": {"h": h}},
    "ordered": lambda y, h: OrderedDict(logits=y, hidden=h),
    "dict subclass": lambda y, h: Records(logits=y, hidden=h),
    "user dict": lambda y, h: UserDict(logits=y, hidden=h),
    "named tuple": Named,
    "list of dicts": lambda y, h: [{"logits": y}, {"hidden": h, "label": "x", "score": 3}],
    "dataclass": Plain,
    "dataclass with slots": Slotted,
    "dataclass in a dict": lambda y, h: {"out": Plain(y, [h])},
    "object": Custom,
    "object with slots": WithSlots,
    "namespace": lambda y, h: SimpleNamespace(logits=y, hidden=Named(h, None)),
    "model output": lambda y, h: BaseModelOutput(last_hidden_state=y, hidden_states=(h,)),
    "distribution": lambda y, h: (torch.distributions.Normal(y, y.exp(), validate_args=False), h),
    "set": lambda y, h: {y, h},
    "array": lambda y, h: (y, h.numpy()),
    "lists of numbers": lambda y, h: (y, h.tolist()),
}


class Net(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.a, self.b, self.c, self.kind = nn.Linear(4, 16), nn.Linear(16, 8), nn.Linear(16, 3), kind

    def forward(self, x: Tensor) -> Any:
        x = self.a(x).relu()
        return KINDS[self.kind](self.c(x), self.b(x))


@pytest.mark.parametrize("kind", KINDS)
def test_no_output_is_cut(kind: str) -> None:
    torch.manual_seed(0)
    model, x = Net(kind).eval(), torch.randn(2, 4)
    plan = prunus.plan(model, x, ratio=0.5)
    small = plan.apply(model)
    assert (small.a.out_features, small.b.out_features, small.c.out_features) == (8, 8, 3)
    proof = prunus.prove(model, small, plan, x)
    assert proof.ok
    assert proof.outputs == {"lists of numbers": 1, "distribution": 3}.get(kind, 2)
    small.b.bias.data += 1e-3
    assert prunus.prove(model, small, plan, x).ok == (kind == "lists of numbers"), "every tensor is compared"


def test_an_output_that_isnt_there_yet_is_refused() -> None:
    class Later(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 16)

        def forward(self, x: Tensor) -> dict[str, Iterator[Tensor]]:
            return {"rows": (self.a(row) for row in x)}

    with pytest.raises(prunus.InputError, match="the model returns a generator, which gives its tensors later"):
        prunus.trace(Later(), torch.randn(2, 4))


class Takes(nn.Module):
    """Works on its input in place, whatever it is in."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(4, 16), nn.Linear(16, 3)

    def forward(self, batch: Any) -> Tensor:
        (x,) = tensors_in(batch)
        return self.c(self.a(x.mul_(2)).relu())


INPUTS = {
    "dataclass": Plain,
    "frozen dataclass": Slotted,
    "object": Custom,
    "object with slots": WithSlots,
    "dict": lambda x: {"x": x},
    "user dict": lambda x: UserDict(x=x),
    "named tuple": lambda x: Named(x, None),
    "list": lambda x: [x, "label", None],
    "list of dicts": lambda x: [{"x": x}, {}],
    "model output": lambda x: BaseModelOutput(last_hidden_state=x),
}


@pytest.mark.parametrize("kind", INPUTS)
def test_inputs_of_every_kind(kind: str) -> None:
    torch.manual_seed(0)
    model, x = Takes(), torch.randn(2, 4)
    batch, before = INPUTS[kind](x), x.clone()
    plan = prunus.plan(model, (batch,), ratio=0.5)
    small = plan.apply(model)
    assert small.a.out_features == 8
    assert prunus.prove(model, small, plan, (batch,)).ok
    assert torch.equal(x, before), "the user's own input stays as it was"


def test_what_is_mapped_keeps_its_type_and_what_isnt_a_tensor_stays() -> None:
    marker = object()
    given = [Plain(torch.ones(2), marker), Named(torch.ones(3), marker), marker]
    doubled = mapped(lambda t: t * 2, given)
    assert doubled[0].logits.tolist() == [2, 2]
    assert doubled[1].logits.tolist() == [2, 2, 2]
    assert doubled[2] is marker and doubled[1].hidden is marker
    assert type(doubled[0]) is Plain and type(doubled[1]) is Named
    assert given[0].logits.tolist() == [1, 1]
    assert [t.numel() for t in tensors_in(given)] == [2, 3]


def test_the_same_tensor_twice_is_two_outputs() -> None:
    x = torch.ones(2)
    assert len(outputs_in((x, [x], Plain(x, x)))) == 4
