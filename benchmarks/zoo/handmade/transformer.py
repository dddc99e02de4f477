"""torch's own attention: MultiheadAttention in every form, and the Transformer layers, on the fast path too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.zoo.case import Case
from benchmarks.zoo.handmade.entry import entry


class SelfAttention(nn.Module):
    """Embed, attend, project."""

    def __init__(self, need_weights: bool = False, **options: Any) -> None:
        super().__init__()
        self.inp, self.out = nn.Linear(5, 16), nn.Linear(16, 3)
        self.attention, self.need_weights = nn.MultiheadAttention(16, 4, **options), need_weights

    def forward(self, x: Tensor, mask: Tensor | None = None, padding: Tensor | None = None) -> Any:
        y = self.inp(x)
        z, weights = self.attention(y, y, y, need_weights=self.need_weights, attn_mask=mask, key_padding_mask=padding)
        return (self.out(z + y), weights) if self.need_weights else self.out(z + y)


class CrossAttention(nn.Module):
    """Queries from one place, keys and values from others, of other widths."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(5, 16), nn.Linear(6, 12), nn.Linear(7, 20)
        self.attention, self.out = nn.MultiheadAttention(16, 4, kdim=12, vdim=20, batch_first=True), nn.Linear(16, 3)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.out(self.attention(self.q(q), self.k(k), self.v(v))[0])


class Encoder(nn.Module):
    """Token embedding, learned positions, torch's encoder, the first token classified."""

    def __init__(self, layers: int = 2, **options: Any) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(20, 16), nn.Parameter(torch.randn(1, 6, 16))
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, **options)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=not options.get("norm_first"))
        self.out = nn.Linear(16, 3)

    def forward(self, i: Tensor, padding: Tensor | None = None) -> Tensor:
        y = self.encoder(self.embed(i) + self.position, src_key_padding_mask=padding)
        return self.out(y[:, 0])


class Decoder(nn.Module):
    """A language model of encoder layers with a causal mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(8), persistent=False)
        self.layers = nn.ModuleList([nn.TransformerEncoderLayer(16, 2, 24, batch_first=True) for _ in range(2)])
        self.out = nn.Linear(16, 20)

    def forward(self, i: Tensor) -> Tensor:
        y, n = self.embed(i), i.shape[1]
        for layer in self.layers:
            y = layer(y, src_mask=self.mask[:n, :n])
        return self.out(y)


class Translator(nn.Module):
    """nn.Transformer whole."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.transformer = nn.Transformer(16, 4, 1, 1, 24, batch_first=True, **options)
        self.out = nn.Linear(16, 20)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        mask = self.transformer.generate_square_subsequent_mask(target.shape[1])
        return self.out(self.transformer(self.embed(source), self.embed(target), tgt_mask=mask))


class Queries(nn.Module):
    """Learned queries over a feature map, as in DETR."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.queries = nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.Embedding(5, 16)
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 4, 24), 2)
        self.out = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        memory = self.conv(x).flatten(2).permute(2, 0, 1)
        queries = self.queries.weight.unsqueeze(1).repeat(1, x.shape[0], 1)
        return self.out(self.decoder(queries, memory)).sigmoid()


def tokens() -> Tensor:
    return torch.randn(2, 6, 5)


def words() -> Tensor:
    return torch.randint(20, (2, 6))


def padding() -> Tensor:
    return torch.tensor([[False] * 6, [False] * 4 + [True] * 2])


def cases() -> Iterator[Case]:
    for name, options in {
        "mha": {},
        "mha_batch_first": {"batch_first": True},
        "mha_without_bias": {"bias": False},
        "mha_bias_kv": {"add_bias_kv": True},
        "mha_zero_attention": {"add_zero_attn": True},
    }.items():
        yield entry(name, lambda options=options: (SelfAttention(**options), tokens()))
    yield entry(
        "mha_weights",
        lambda: (SelfAttention(need_weights=True, batch_first=True), tokens()),
        by_proof="the weights that it returns are the mean over heads",
    )
    yield entry(
        "mha_masks", lambda: (SelfAttention(batch_first=True), (tokens(), torch.ones(6, 6).triu(1).bool(), padding()))
    )
    yield entry(
        "mha_mask_per_head",
        lambda: (SelfAttention(batch_first=True), (tokens(), torch.randn(8, 6, 6))),
        refused="a model input",  # the mask has a plane for each head, and torch's layer ties heads to its width
    )
    yield entry("mha_other_widths", lambda: (CrossAttention(), (tokens(), torch.randn(2, 4, 6), torch.randn(2, 4, 7))))
    for name, options in {
        "encoder": {},
        "encoder_gelu": {"activation": "gelu"},
        "encoder_norm_first": {"norm_first": True},
        "encoder_without_bias": {"bias": False},
        "encoder_own_activation": {"activation": nn.functional.silu},
    }.items():
        yield entry(name, lambda options=options: (Encoder(**options), words()))
    yield entry("encoder_padded", lambda: (Encoder(), (words(), padding())))
    yield entry("encoder_causal", lambda: (Decoder(), words()))
    yield entry("transformer", lambda: (Translator(), (words(), words())))
    yield entry("transformer_norm_first", lambda: (Translator(norm_first=True), (words(), words())))
    yield entry("decoder_queries", lambda: (Queries(), torch.randn(2, 3, 8, 8)))
