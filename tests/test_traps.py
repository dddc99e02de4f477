"""Small networks that have fooled other tools: the result is right, or the refusal has a reason."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prunus


class Net(nn.Module):
    """Two convolutions with something in between, and a classifier on top."""

    def __init__(self, between: Callable[[Tensor], Tensor], mid: int = 12, after: int | None = None) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, mid, 3, padding=1)
        self.b = nn.Conv2d(after or mid, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.between(self.a(x))).mean((2, 3)))


def masked(model: nn.Module, plan: prunus.Plan, x: Tensor) -> Tensor:
    """The original with the parameters' removed indices zeroed: exact where nothing is made of nothing."""
    copy = prunus.Plan(plan.shapes, {}, ()).apply(model).double()
    state = copy.state_dict()
    for name, cut in plan.kept.items():
        for dim, kept in cut.items():
            gone = [i for i in range(plan.shapes[name][dim]) if i not in kept]
            state[name].index_fill_(dim, torch.tensor(gone), 0)
    return copy(x.double())


def shuffle(x: Tensor, groups: int = 3) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


TRAPS = {
    "plain": lambda x: x,
    "flip": lambda x: x.flip(1),
    "roll": lambda x: x.roll(1, 1),
    "channel shuffle": shuffle,
    "index": lambda x: x[:, torch.tensor([3, 1, 0, 2, 5, 4, 7, 6, 9, 8, 11, 10])],
    "literal view": lambda x: (
        x.view(-1, 3, 4, 8, 8).sum(1, keepdim=True).expand(-1, 3, -1, -1, -1).reshape(-1, 12, 8, 8)
    ),
    "slice, add, pad": lambda x: F.pad(x[:, :6] + x[:, 6:], (0, 0, 0, 0, 0, 6)),
    "chunk and swap": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "residual": lambda x: x + x.relu(),
    "strided": lambda x: torch.cat([x[:, ::2], x[:, 1::2]], 1),
    "sort": lambda x: x.sort(1).values,
    "cumsum": lambda x: x.cumsum(1),
    "fft over channels": lambda x: torch.fft.fft(x, dim=1).real,
    "householder": lambda x: x + torch.linalg.householder_product(x[0, :, :, 0], x[0, 0, 0]).sum(),
    "unbind": lambda x: torch.stack(x.unbind(1)[::-1], 1),
}


@pytest.mark.parametrize("name", TRAPS)
def test_right_or_refused(name: str) -> None:
    torch.manual_seed(0)
    model, x = Net(TRAPS[name]).eval(), torch.randn(2, 3, 8, 8)
    graph = prunus.trace(model, x)
    plan = prunus.plan(graph, ratio=0.5)  # the groups beside the trap can always be cut
    small = plan.apply(model)
    proof = prunus.prove(model, small, plan, x)
    assert proof.ok, proof
    torch.testing.assert_close(small.double()(x.double()), masked(model, plan, x), rtol=1e-9, atol=1e-12)
    if small.a.out_channels == 12:
        text = graph.explain("a.weight", 0)
        assert "frozen: " in text or "nothing to cut" in text


@pytest.mark.parametrize("name", ["flip", "roll", "index", "sort", "fft over channels"])
def test_frozen_axes_say_why(name: str) -> None:
    model = Net(TRAPS[name])
    text = prunus.trace(model, torch.randn(2, 3, 8, 8)).explain("a.weight", 0)
    assert "frozen: " in text
    word = {"fft over channels": "a Fourier transform over it"}.get(name, name)
    assert word in text


def test_unknown_operators_are_reported_once_by_name() -> None:
    graph = prunus.trace(Net(TRAPS["householder"]), torch.randn(2, 3, 8, 8))
    assert list(graph.unsupported) == ["aten::linalg_householder_product"]
    assert "no row in the operator table" in graph.explain("a.weight", 0)


def test_channels_between_are_cut_where_nothing_stands_in_the_way() -> None:
    for name in ("plain", "residual", "chunk and swap", "channel shuffle"):
        graph = prunus.trace(Net(TRAPS[name]), torch.randn(2, 3, 8, 8))
        small = prunus.plan(graph, ratio=0.5).apply(graph.model)
        assert small.a.out_channels == small.b.in_channels == 6, name


def test_flatten_keeps_the_right_columns() -> None:
    """channel * position, not position * channel: cutting channel c takes a run of columns, permuted a comb."""

    class Flat(nn.Module):
        def __init__(self, permuted: bool) -> None:
            super().__init__()
            self.conv, self.fc, self.permuted = nn.Conv2d(1, 6, 3), nn.Linear(6 * 16, 4), permuted

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x).relu()
            return self.fc((y.permute(0, 2, 3, 1) if self.permuted else y).flatten(1))

    x = torch.randn(2, 1, 6, 6)
    for permuted in (False, True):
        plan = prunus.plan(Flat(permuted), x, ratio=0.5)
        channels = plan.kept["conv.weight"][0]
        columns = plan.kept["fc.weight"][1]
        full = torch.arange(6 * 16)
        grid = full.view(16, 6)[:, list(channels)] if permuted else full.view(6, 16)[list(channels)]
        assert list(columns) == sorted(grid.flatten().tolist())


def test_a_weight_used_twice_is_cut_once() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inp, self.rec, self.out = nn.Linear(4, 10), nn.Linear(10, 10), nn.Linear(10, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.rec(self.rec(self.inp(x)).tanh()).tanh())

    x = torch.randn(5, 4)
    model = Twice()
    small = prunus.prune(model, x, ratio=0.5)
    assert tuple(small.rec.weight.shape) == (5, 5)
    kept = small.prunus_plan.kept["rec.weight"]
    assert kept[0] == kept[1]


def test_tied_weights_stay_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.emb, self.mix, self.head = nn.Embedding(11, 8), nn.Linear(8, 8), nn.Linear(8, 11, bias=False)
            self.head.weight = self.emb.weight

        def forward(self, i: Tensor) -> Tensor:
            return self.head(self.mix(self.emb(i)).sigmoid())

    small = prunus.prune(Tied(), torch.randint(11, (2, 5)), ratio=0.5)
    assert small.head.weight is small.emb.weight
    assert small.emb.embedding_dim == small.head.in_features == 4


def test_softmax_scale_is_never_changed() -> None:
    """1/sqrt(d) from the tensor, from an attribute, and as a stored float: only the last lets d be cut."""

    class Attention(nn.Module):
        def __init__(self, how: str) -> None:
            super().__init__()
            self.qkv, self.proj = nn.Linear(16, 48), nn.Linear(16, 16)
            self.heads, self.head_dim, self.scale, self.how = 4, 4, 4**-0.5, how

        def forward(self, x: Tensor) -> Tensor:
            b, n, _ = x.shape
            q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
            if self.how == "fused":
                y = F.scaled_dot_product_attention(q, k, v)
            else:
                scale = {"tensor": lambda: q.shape[-1] ** -0.5, "attribute": lambda: self.head_dim**-0.5}.get(
                    self.how, lambda: self.scale
                )()
                y = (q @ k.transpose(-2, -1) * scale).softmax(-1) @ v
            return self.proj(y.transpose(1, 2).reshape(b, n, self.heads * self.head_dim))

    x = torch.randn(2, 5, 16)
    for how, width in (("tensor", 4), ("attribute", 4), ("fused", 4), ("float", 2)):
        model = Attention(how)
        small = prunus.prune(model, x, ratio=0.5)
        assert (small.heads, small.head_dim) == (2, width), how
        assert tuple(small.qkv.weight.shape) == (3 * 2 * width, 16)
        assert (model.heads, model.head_dim) == (4, 4)


@pytest.mark.parametrize("use", [lambda n: 1.0 / n, lambda n: 2.0 * n, math.log2, math.sqrt, lambda n: n**-0.5])
def test_a_number_made_of_a_size_freezes_it(use: Callable[[int], float]) -> None:
    """``1.0 / n`` is computed inside Python, where no Size is asked: the small model's run shows the other number."""
    model, x = Net(lambda x: x * use(x.shape[1])), torch.randn(2, 3, 8, 8)
    small = prunus.prune(model, x, ratio=0.5)
    assert small.a.out_channels == 12 and small.b.out_channels == 4


def test_a_zero_head_is_not_called_proven() -> None:
    model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(3, 4)
    nn.init.zeros_(model[2].weight)
    nn.init.zeros_(model[2].bias)
    with pytest.warns(UserWarning, match="could not be checked: NOT PROVEN: .* zero everywhere"):
        small = prunus.prune(model, x, ratio=0.5)
    assert not prunus.prove(model, small, small.prunus_plan, x).ok


def test_a_model_that_holds_itself_is_refused() -> None:
    """A child with its parent as an attribute: torch registers it, so that names go in circles."""
    model, x = Net(torch.relu), torch.randn(2, 3, 8, 8)
    model.a.parent = model
    with pytest.raises(prunus.InputError, match="Net holds itself, by a.parent.a.parent"):
        prunus.trace(model, x)
