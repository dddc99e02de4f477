"""What the zoo's hand-written models can't show by themselves: reasons, attributes, fast paths, caches."""

from __future__ import annotations

import copy

import pytest
import torch
from einops import rearrange
from einops.layers.torch import Rearrange
from torch import Tensor, nn

import prunus
from benchmarks.zoo.handmade import cases
from benchmarks.zoo.handmade.frozen import STOPS, Stopped
from benchmarks.zoo.handmade.recurrent import Tagger, steps
from benchmarks.zoo.handmade.transformer import Encoder, SelfAttention, padding, tokens, words

X = torch.randn(4, 5)

REASONS = {
    "flip": "flip() along it",
    "roll": "roll() along it",
    "sort": "sort() along it",
    "positions": "sum() computes with positions along it",
    "permuted_by_index": "looked up by index along it",
    "index_select": "looked up by index_select() along it",
    "fourier": "a Fourier transform over it",
    "real_fourier": "a Fourier transform over it",
    "literal_view": "is reshaped by the literal 2 at frozen.py:",
    "unfold": "sliding windows over it",
    "width_as_number": "its size 8 is used as a number at frozen.py:",
    "argmax": "is created by the literal 8",
    "determinant": "operator aten::_linalg_det has no row in the operator table",
    "triangle": "tril() compares positions along it",
    "complex_pairs": "real and imaginary parts",
    "convolved_channels": "positions that a convolution slides over",
    "bit_tricks": "its size 8 is used as a number at frozen.py:",
    "cumulative_maximum": "cummax() gives positions along it",
}


@pytest.mark.parametrize("name", REASONS)
def test_what_stays_whole_says_why(name: str) -> None:
    graph = prunus.trace(Stopped(STOPS[name]), X)
    assert REASONS[name] in graph.explain("b.weight", 0)
    small = prunus.plan(graph, ratio=0.5).apply(graph.model)
    assert (small.a.out_features, small.b.out_features, small.c.out_features) == (12, 8, 12)


def test_names_of_the_zoo_are_unique_and_every_exception_has_a_reason() -> None:
    found = list(cases())
    assert len({case.name for case in found}) == len(found) >= 200
    assert all(case.why for case in found if case.left > 0.6)


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_recurrent_layers_know_their_new_sizes(kind: type[nn.RNNBase]) -> None:
    model = Tagger(kind, num_layers=2, bidirectional=True)
    small = prunus.prune(model, steps(), ratio=0.5)
    assert (small.rnn.input_size, small.rnn.hidden_size) == (5, 6)
    assert (model.rnn.input_size, model.rnn.hidden_size) == (10, 12)
    assert [id(w) for w in small.rnn._flat_weights] == [id(p) for p in small.rnn.parameters()]
    fresh = kind(5, 6, num_layers=2, bidirectional=True)
    fresh.load_state_dict(small.rnn.state_dict())
    x = torch.randn(6, 3, 5)
    torch.testing.assert_close(fresh(x)[0], small.rnn(x)[0])


def test_a_projected_lstm_loses_cells_and_states_apart() -> None:
    small = prunus.prune(Tagger(nn.LSTM, proj_size=6), steps(), ratio=0.5)
    assert (small.rnn.hidden_size, small.rnn.proj_size) == (6, 3)
    fresh = nn.LSTM(5, 6, proj_size=3)
    fresh.load_state_dict(small.rnn.state_dict())


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("norm_first", [False, True])
def test_a_small_encoder_runs_on_the_fast_path_too(norm_first: bool, masked: bool) -> None:
    """The fast path reads attributes of its own (num_heads, embed_dim) and makes nested tensors of padded inputs."""
    args = (words(), padding()) if masked else (words(),)
    small = prunus.prune(Encoder(norm_first=norm_first).eval(), args, ratio=0.5)
    calls: list[str] = []

    class Seen(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            calls.append(func.__name__)
            return func(*args, **(kwargs or {}))

    with torch.no_grad(), Seen():
        fast = small(*args)
    assert any("_transformer_encoder_layer_fwd" in name for name in calls)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        slow = small(*args)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    torch.testing.assert_close(fast, slow)


def test_a_small_multihead_attention_is_one_that_torch_could_have_built() -> None:
    small = prunus.prune(SelfAttention(batch_first=True).eval(), tokens(), ratio=0.5).attention
    fresh = nn.MultiheadAttention(small.embed_dim, small.num_heads, batch_first=True).eval()
    assert (small.embed_dim, small.num_heads, small.head_dim, fresh.head_dim) == (8, 2, 4, 4)
    fresh.load_state_dict(small.state_dict())
    x = torch.randn(2, 6, 8)
    with torch.no_grad():
        torch.testing.assert_close(fresh(x, x, x, need_weights=False)[0], small(x, x, x, need_weights=False)[0])


class Heads(nn.Module):
    """A pattern with the number of heads: written out, or in a layer."""

    def __init__(self, width: int, heads: int, layer: bool) -> None:
        super().__init__()
        self.a, self.b, self.heads = nn.Linear(5, width), nn.Linear(width // heads, 3), heads
        self.split = Rearrange("b (h d) -> b h d", h=heads) if layer else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        y = rearrange(y, "b (h d) -> b h d", h=self.heads) if self.split is None else self.split(y)
        return self.b(y.sum(1))


@pytest.mark.parametrize("layer", [False, True])
def test_einops_keeps_nothing_of_one_trace_for_the_next(layer: bool) -> None:
    """Its caches are keyed by shapes, which are equal here; and afterwards they give plain integers to the user."""
    models = [Heads(24, 4, layer) for _ in range(2)]
    plain = [model(X) for model in models]
    for model in (*models, models[0]):
        small = prunus.prune(model, X, ratio=0.5)
        assert (small.a.out_features, small.b.in_features) == (6, 3)
        copied = copy.deepcopy(small)
        torch.testing.assert_close(copied(X), small(X))
    for model, before in zip(models, plain, strict=True):
        torch.testing.assert_close(model(X), before)


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.w, self.b = (
            nn.Linear(5, 12),
            nn.Parameter(torch.randn(12, 16, dtype=torch.complex64)),
            nn.Linear(32, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        z = torch.complex(y, y.tanh()) @ self.w
        return self.b(torch.cat([z.real, z.imag], -1))


@pytest.mark.filterwarnings("error:Casting complex values")
@pytest.mark.parametrize("importance", ["l1", "l2", "linf", "random"])
def test_complex_weights_are_cut_and_scored_by_magnitude(importance: str) -> None:
    model = Complex().eval()
    with torch.no_grad():
        model.w[:, ::2] *= 1e-3
        model.b.weight[:, ::2] *= 1e-3
    small = prunus.prune(model, X, ratio=0.5, importance=importance)
    assert (small.w.dtype, tuple(small.w.shape)) == (torch.complex64, (6, 8))
    if importance != "random":
        columns = (model.w[:, None, :, None] == small.w[None, :, None, :]).any(1).any(0).any(1)
        assert columns.nonzero().flatten().tolist() == list(range(1, 16, 2))
