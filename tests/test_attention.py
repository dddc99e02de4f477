"""Heads, groups of key and value heads, and the depths of a head are axes apart, each with all that it runs through."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import prunus
from benchmarks.zoo.handmade.attention import DEPTH, HEADS, LAYOUTS, Around, Fused, Grouped, Positioned, tokens
from prunus.axes import Atom, atoms


def axis(graph: prunus.Graph, name: str, dim: int) -> list[Atom]:
    found = list(atoms(graph.tensors[f"attention.{name}"][dim]))
    assert all(graph.space.reason(atom) is None for atom in found), (name, found)
    return found


@pytest.mark.parametrize("how", ["interleave", "expand", "enable_gqa", "broadcast"])
def test_grouped_queries(how: str) -> None:
    graph = prunus.trace(Around(Grouped(2, how)), tokens())
    queries = axis(graph, "q.weight", 0)
    keys, values, out = (axis(graph, *place) for place in (("k.weight", 0), ("v.weight", 0), ("proj.weight", 1)))
    assert [a.size for a in queries] == [2, HEADS // 2, DEPTH]
    assert keys == [queries[0], queries[2]]
    assert (values[0], values[1].size) == (queries[0], DEPTH)
    assert values[1] is not queries[2]
    assert out == [*queries[:2], values[1]]


@pytest.mark.parametrize("how", ["expand", "enable_gqa", "broadcast"])
def test_one_head_for_all_queries(how: str) -> None:
    graph = prunus.trace(Around(Grouped(1, how)), tokens())
    queries, keys = axis(graph, "q.weight", 0), axis(graph, "k.weight", 0)
    assert [a.size for a in queries] == [HEADS, DEPTH]
    assert keys == queries[1:]
    assert axis(graph, "proj.weight", 1) == [queries[0], *axis(graph, "v.weight", 0)]


@pytest.mark.parametrize("layout", ["chunk", "split", "slices"])
def test_fused_projections_laid_end_to_end(layout: str) -> None:
    """Queries and keys share heads and depth, values the heads alone."""
    graph = prunus.trace(Around(Fused(layout)), tokens())
    heads, depth = axis(graph, "qkv.weight", 0)[:2]
    out = axis(graph, "proj.weight", 1)
    assert axis(graph, "qkv.weight", 0) == [heads, depth, heads, depth, *out]
    assert out[0] is heads
    assert out[1] is not depth


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_heads_go_whole_in_every_layout(layout: str) -> None:
    """A head is cut from queries, keys, values and what reads them, at its own places."""
    model = Around(Fused(layout)).eval()
    graph = prunus.trace(model, tokens())
    out = graph.tensors["attention.proj.weight"][1]
    (head,) = [a for a in atoms(out) if a.size == HEADS]
    group = next(g for g in graph.free if g.atom is head)
    plan = prunus.plan(graph, ratio={group.name: 0.5}, importance="random")
    small = plan.apply(model)
    assert small.attention.qkv.weight.shape[0] == 3 * HEADS * DEPTH // 2
    assert small.attention.heads == HEADS // 2
    assert prunus.prove(model, small, plan, tokens()).ok


@pytest.mark.parametrize("how", ["half", "interleaved", "complex"])
def test_positions_that_turn_in_pairs_are_cut_in_pairs(how: str) -> None:
    model = Around(Positioned(how)).eval()
    small = prunus.prune(model, tokens(), ratio=dict.fromkeys(_pairs(model), 0.5))
    assert small.attention.q.weight.shape[0] in (HEADS * 2, HEADS * 4)  # of three pairs one or two stay
    assert small.attention.v.weight.shape[0] == HEADS * DEPTH


def _pairs(model: nn.Module) -> list[str]:
    graph = prunus.trace(model, tokens())
    (pairs,) = {a for a in atoms(graph.tensors["attention.q.weight"][0]) if a.size == DEPTH // 2}
    return [g.name for g in graph.free if g.atom is pairs]


class Scaled(nn.Module):
    """The scale of a head's width is kept in the module, as a number or a tensor."""

    def __init__(self, scale: float | Tensor) -> None:
        super().__init__()
        self.q, self.k, self.v, self.scale = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(8, 12), scale

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (p(x).unflatten(-1, (2, -1)).transpose(1, 2) for p in (self.q, self.k, self.v))
        return (q @ k.transpose(-2, -1) * self.scale).softmax(-1).matmul(v).mean((1, 3))


@pytest.mark.parametrize("scale", [6**-0.5, torch.tensor(6**-0.5)], ids=["number", "tensor"])
def test_the_softmax_scale_keeps_its_value(scale: float | Tensor) -> None:
    small = prunus.prune(Scaled(scale).eval(), torch.randn(2, 5, 8), ratio=0.5)
    assert small.q.weight.shape[0] < 12
    assert float(small.scale) == float(scale)
