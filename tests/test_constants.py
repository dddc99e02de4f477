"""Integers in Python code that a cut could make wrong: they follow what they are sizes of, or freeze it."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import prunus

X = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))


class Base(nn.Module):
    """Attention-like: three projections, heads, an output; ``mix`` is where subclasses read sizes in their own way."""

    def __init__(self, width: int = 24, heads: int = 4) -> None:
        super().__init__()
        self.width, self.heads = width, heads
        self.q, self.k, self.v = (nn.Linear(5, width) for _ in range(3))
        self.out = nn.Sequential(nn.Linear(width, 10), nn.ReLU(), nn.Linear(10, 3))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(self.mix(self.q(x), self.k(x), self.v(x)))
        return y

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        raise NotImplementedError

    def attend(self, q: Tensor, k: Tensor, v: Tensor, heads: int, depth: int, scale: float = 0.3) -> Tensor:
        n, length = q.shape[:2]
        q, k, v = (t.view(n, length, heads, depth).transpose(1, 2) for t in (q, k, v))
        weights = (q @ k.transpose(-2, -1) * scale).softmax(-1)
        return (weights @ v).transpose(1, 2).reshape(n, length, heads * depth)


class Property(Base):
    @property
    def depth(self) -> int:
        return self.width // self.heads

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.attend(q, k, v, self.heads, self.depth)


class TupleOfSizes(Base):
    def __init__(self) -> None:
        super().__init__()
        self.split = (self.heads, self.width // self.heads)

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.attend(q, k, v, *self.split)


class Nested(Base):
    """A dict in a list, and a namespace."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = [{"heads": self.heads}, {"depth": self.width // self.heads}]
        self.options = SimpleNamespace(heads=self.heads)

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        assert self.options.heads == self.sizes[0]["heads"]
        return self.attend(q, k, v, self.options.heads, self.sizes[1]["depth"])


class Sizes:
    """Settings of the user's own class: one in the object, one in the class, one record in another."""

    heads = 4

    def __init__(self, width: int) -> None:
        self.inner = SimpleNamespace(width=width, kinds=[torch.float32, nn.GELU], name="a")


class OwnRecord(Base):
    def __init__(self) -> None:
        super().__init__()
        self.sizes = Sizes(self.width)

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.attend(q, k, v, self.sizes.heads, self.sizes.inner.width // self.sizes.heads)


class OfClass(Base):
    """Sizes in the body of the module's class."""

    count, depth = 4, 6

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.attend(q, k, v, self.count, self.depth)


class ScaleFromShape(Base):
    """The scale is a function of a size: neither may change."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        depth = q.shape[-1] // self.heads
        return self.attend(q, k, v, self.heads, depth, 1 / math.sqrt(depth))


class ScaleKept(Base):
    """The scale was computed once: it stays, and the depth can go."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = (self.width // self.heads) ** -0.5

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.attend(q, k, v, self.heads, -1, self.scale) if False else self._mixed(q, k, v)

    def _mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.attend(q, k, v, self.heads, q.shape[-1] // self.heads, self.scale)


class Literal(Base):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.attend(q, k, v, 4, q.shape[-1] // 4)


class Outside(Base):
    """``width`` sizes what is cut, and is a number for something that isn't."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.attend(q, k, v, self.heads, self.width // self.heads) + torch.full_like(v, 1.0 / self.width)


class OutsideTensor(Base):
    """The width in a tensor, which nothing sees: what the code makes of it changes with the attribute."""

    def make(self) -> Tensor:
        return torch.IntTensor([self.width])

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.attend(q, k, v, self.heads, self.width // self.heads) * (24 / self.make())


class OutsideArray(OutsideTensor):
    def make(self) -> Tensor:
        return torch.from_numpy(np.array([self.width]))


class OutsideChoice(Base):
    """Another parameter for another width, of the same shape: only names tell."""

    def __init__(self) -> None:
        super().__init__()
        self.small, self.large = nn.Parameter(torch.randn(1)), nn.Parameter(torch.randn(1))

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        factor = self.large if self.width > 16 else self.small
        return self.attend(q, k, v, self.heads, self.width // self.heads) * factor + 0 * self.small


class OutsideTable(Base):
    """A look-up by width: entries for the old one and the new one."""

    def __init__(self) -> None:
        super().__init__()
        self.by_width = {24: nn.Identity(), 12: nn.Tanh(), 6: nn.Sigmoid()}

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.by_width[self.width](self.attend(q, k, v, self.heads, self.width // self.heads))


class Loop(Base):
    """A loop over the heads: the small model runs fewer operators."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        depth = self.width // self.heads
        parts = [v[..., i * depth : (i + 1) * depth] * (i + 1) for i in range(self.heads)]
        return torch.cat(parts, -1) + q - k


class Alike(nn.Module):
    """Two layers of one width that have nothing to do with each other, and one integer for both."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 24
        self.a, self.b, self.out = nn.Linear(5, 24), nn.Linear(5, 24), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x).view(2, 6, self.width // 6, 6), self.b(x).view(2, 6, self.width // 6, 6)
        y: Tensor = self.out(torch.cat([a.relu().sum(-1), b.relu().sum(-1)], -1))
        return y


EVERY: dict[str, Callable[[], nn.Module]] = {
    cls.__name__: cls
    for cls in (
        *(Property, TupleOfSizes, Nested, ScaleFromShape, ScaleKept, Literal, Outside, OutsideTensor, OutsideArray),
        *(OutsideChoice, OutsideTable, Loop, Alike, OwnRecord, OfClass),
    )
}


def planned(name: str) -> tuple[Any, prunus.Graph, prunus.Plan]:
    torch.manual_seed(0)
    model = EVERY[name]().eval()
    graph = prunus.trace(model, X)
    return model, graph, prunus.plan(graph, ratio=0.5)


@pytest.mark.parametrize("name", EVERY)
def test_the_plan_is_right_without_a_proof(name: str) -> None:
    """``plan().apply()`` proves nothing: it must be right all the same."""
    model, _, plan = planned(name)
    small = plan.apply(model)
    assert prunus.prove(model, small, plan, X).ok
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", ["Property", "TupleOfSizes", "Nested", "ScaleKept"])
def test_what_is_only_a_size_follows(name: str) -> None:
    model, _, plan = planned(name)
    small = plan.apply(model)
    assert small.q.out_features == 6, "half of the heads, half of each head's width"
    changed = {(c.name, c.old, c.new) for c in plan.attributes}
    assert {("heads", 4, 2), ("width", 24, 6)} & changed or ("split", 4, 2) in changed or ("sizes", 6, 3) in changed
    assert model.width == 24 and model.heads == 4


@pytest.mark.parametrize("name", ["OwnRecord", "OfClass"])
def test_settings_of_a_class_stay_what_they_are_for_others(name: str) -> None:
    model, _, plan = planned(name)
    small = plan.apply(model)
    assert small.q.out_features == 6
    other = EVERY[name]()
    assert Sizes.heads == OfClass.count == 4 and OfClass.depth == 6, "the class itself is nobody's to change"
    assert torch.equal(small(X), prunus.Plan.from_json(plan.to_json()).apply(model)(X))
    assert other.q.out_features == 24 and model(X).shape == other(X).shape


@pytest.mark.parametrize("name", ["Outside", "OutsideTensor", "OutsideArray", "OutsideChoice", "OutsideTable"])
def test_an_integer_that_is_read_for_something_else_stays(name: str) -> None:
    model, graph, plan = planned(name)
    small = plan.apply(model)
    assert small.width == 24 and not [c for c in plan.attributes if c.name == "width"]
    reason = next(g.frozen for g in graph.groups if g.frozen and "q.weight" in str(g.members[0]) and g.size < 24)
    assert "model output" not in reason


def test_the_line_of_a_literal_is_named() -> None:
    _, graph, _ = planned("Literal")
    text = graph.explain("q.weight", 0)
    assert "the literal 4 at test_constants.py:" in text


def test_attributes_are_set_in_few_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    """No trial: the small skeleton runs once where origins are known."""
    from prunus import planning

    runs = []
    record = planning.record_shapes
    monkeypatch.setattr(planning, "record_shapes", lambda *a, **k: runs.append(1) or record(*a, **k))
    planned("Nested")
    assert len(runs) == 1


class FailsInTraining(nn.Module):
    """What half a run in training mode learns before it fails freezes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.aside = nn.Linear(5, 8), nn.Linear(8, 3), nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        if self.training:
            y = y.sort(-1).values * self.aside
            assert y.sum().item() > 0
        return self.b(y)


def test_a_failed_run_in_training_mode_freezes_nothing() -> None:
    torch.manual_seed(0)
    model = FailsInTraining()
    graph = prunus.trace(model, X)
    assert any("training mode could not be traced" in note for note in graph.notes)
    assert graph.group("a").frozen is None
    assert prunus.prune(model, X).a.out_features == 4


class Chunks(nn.Module):
    """Overlapping windows of the positions by strides, as Longformer has them."""

    def __init__(self, literal: bool) -> None:
        super().__init__()
        self.a, self.b, self.literal = nn.Linear(5, 8), nn.Linear(8, 3), literal

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        outer, step, _ = y.stride()
        if self.literal:
            outer, step = 48, 8
        return self.b(y.as_strided((2, 5, 2, y.shape[-1]), (outer, step, step, 1)).relu())


@pytest.mark.parametrize("literal", [False, True])
def test_strides_follow_the_width_unless_they_are_literals(literal: bool) -> None:
    torch.manual_seed(0)
    model = Chunks(literal)
    graph = prunus.trace(model, X)
    group = graph.group("a")
    if literal:
        assert "in steps, by the literal" in str(group.frozen)
    else:
        small = prunus.prune(model, X)
        assert small.a.out_features == 4
