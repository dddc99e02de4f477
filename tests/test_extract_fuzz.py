"""Extraction of random small networks with random masks: exact in fp64, never larger, or an error that says why.

``python -m tests.test_extract_fuzz 0 2000`` looks further; a seed that fails is a test case by itself.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

import prunus
from benchmarks.zoo.case import randomize
from tests.test_extract import relative, size
from tests.test_fuzz import Random
from tests.test_fuzz_sequences import LENGTH, VOCABULARY, Sequence

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)
NORMS = (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)
KINDS = ("image", "sequence", "attention")
Mask = Callable[[nn.Module, random.Random, float], None]


def zero(weight: Tensor, dim: int, rng: random.Random, amount: float) -> None:
    """Random slices of a weight along a dimension; one stays."""
    gone = rng.sample(range(weight.shape[dim]), min(int(amount * weight.shape[dim]), weight.shape[dim] - 1))
    with torch.no_grad():
        weight.index_fill_(dim, torch.tensor(gone, dtype=torch.long), 0)


def rows(module: nn.Module, rng: random.Random, amount: float) -> None:
    """Whole filters, by a mask of torch: what they emit is their bias."""
    keep = torch.ones_like(module.weight)
    zero(keep, 0, rng, amount)
    torch_prune.custom_from_mask(module, "weight", keep)


def columns(module: nn.Module, rng: random.Random, amount: float) -> None:
    """Inputs that nothing reads."""
    zero(module.weight, 1, rng, amount)


def silent(module: nn.Module, rng: random.Random, amount: float) -> None:
    """Filters that emit zero."""
    gone = rng.sample(range(module.weight.shape[0]), int(amount * module.weight.shape[0]))
    with torch.no_grad():
        for tensor in (module.weight, module.bias):
            if tensor is not None and len(tensor) == module.weight.shape[0]:
                tensor[gone] = 0


def runs(module: nn.Module, rng: random.Random, amount: float) -> None:
    """Filters in runs of four, as the heads of an attention are."""
    weight = module.weight
    for start in range(0, weight.shape[0], 4):
        if rng.random() < amount:
            with torch.no_grad():
                weight[start : start + 4] = 0


def twins(module: nn.Module, rng: random.Random, amount: float) -> None:
    """Some filters are multiples of the first."""
    factor = rng.choice([1.0, 2.0, -0.5])
    with torch.no_grad():
        for tensor in (module.weight, module.bias):
            if tensor is not None and len(tensor) == module.weight.shape[0]:
                tensor[1 : 1 + int(amount * len(tensor))] = factor * tensor[0]


MASKS: tuple[Mask, ...] = (rows, rows, columns, silent, runs, twins)


class Attending(nn.Module):
    """Attention of torch's own, in the ways it is called."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.rng = rng = random.Random(seed)
        width, heads = rng.choice([8, 12]), rng.choice([2, 4])
        self.embedding, self.other = nn.Embedding(VOCABULARY, width), nn.Embedding(VOCABULARY, 6)
        self.ways = [
            rng.choice(["weights", "fused", "read", "cross", "causal", "encoder", "decoder"]) for _ in range(3)
        ]
        self.steps = nn.ModuleList(self._made(way, width, heads) for way in self.ways)
        self.head = nn.Linear(width, 5)

    def _made(self, way: str, width: int, heads: int) -> nn.Module:
        if way in ("encoder", "decoder"):
            kind = nn.TransformerEncoderLayer if way == "encoder" else nn.TransformerDecoderLayer
            return kind(width, heads, 10, batch_first=True, norm_first=self.rng.random() < 0.5)
        more = {"kdim": 6, "vdim": 6} if way == "cross" else {}
        if self.rng.random() < 0.3:
            more |= {"add_bias_kv": True} if self.rng.random() < 0.5 else {"add_zero_attn": True}
        return nn.MultiheadAttention(width, heads, batch_first=True, bias=self.rng.random() < 0.7, **more)

    def forward(self, tokens: Tensor) -> Tensor:
        start = x = self.embedding(tokens)
        for way, step in zip(self.ways, self.steps, strict=True):
            if way in ("encoder", "decoder"):
                x = step(x) if way == "encoder" else step(x, start)
            elif way == "cross":
                memory = self.other(tokens)
                x = x + step(x, memory, memory, need_weights=False)[0]
            elif way == "causal":
                hidden = torch.ones(2 * tokens.shape[1:]).triu(1).bool()
                x = x + step(x, x, x, attn_mask=hidden, is_causal=True, need_weights=False)[0]
            else:
                y, weights = step(x, x, x, need_weights=way != "fused")
                x = x + (y * weights.amax((1, 2), keepdim=True) if way == "read" else y)
        return self.head(x)


def values(module: nn.MultiheadAttention, rng: random.Random, amount: float) -> None:
    """The values of some heads are their biases, or zero."""
    packed = module.in_proj_weight is not None
    with torch.no_grad():
        weight = module.in_proj_weight[2 * module.embed_dim :] if packed else module.v_proj_weight
        dead = rng.sample(range(module.num_heads), int(amount * module.num_heads))
        weight.view(module.num_heads, -1)[dead] = 0
        if module.in_proj_bias is not None and rng.random() < 0.3:
            module.in_proj_bias[2 * module.embed_dim :].view(module.num_heads, -1)[dead] = 0


def mask(model: nn.Module, rng: random.Random) -> None:
    """Each layer by a way of its own."""
    for module in list(model.modules()):
        if isinstance(module, LAYERS) and rng.random() < 0.8:
            rng.choice(MASKS)(module, rng, rng.choice([0.3, 0.5, 0.8]))
        elif isinstance(module, NORMS) and module.weight is not None and rng.random() < 0.3:
            torch_prune.random_unstructured(module, "weight", 0.3)
        elif isinstance(module, nn.MultiheadAttention) and rng.random() < 0.8:
            values(module, rng, rng.choice([0.5, 0.75]))


def judge(kind: str, seed: int) -> bool:
    """Whether anything was extracted from the random network of that seed; a wrong result raises."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    if kind == "image":
        model, inputs = Random(seed), [torch.randn(n, 3, h, w) for n, h, w in ((2, 6, 6), (3, 6, 6), (1, 9, 7))]
    else:
        model = Sequence(seed) if kind == "sequence" else Attending(seed)
        inputs = [torch.randint(0, VOCABULARY, (n, t)) for n, t in ((2, LENGTH), (3, LENGTH), (1, LENGTH + 2))]
    randomize(model.eval())
    model = model.double()  # masks of out_proj wouldn't follow later: nn.MultiheadAttention never calls it
    mask(model, rng)
    before = sum(p.numel() for p in model.parameters())
    inputs = [x.double() if x.is_floating_point() else x for x in inputs]
    try:
        small = prunus.extract(model, inputs[0], spread=rng.random() < 0.5)
    except prunus.NothingToPrune as error:
        assert "weights are zero" in str(error)
        return False
    assert size(small) < before
    for x in inputs:
        with torch.no_grad():
            assert relative(model(x), small(x)) <= 1e-9, (kind, seed)
    return True


@settings(max_examples=30, deadline=None, derandomize=True)
@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 10_000))
def test_random_networks(kind: str, seed: int) -> None:
    judge(kind, seed)


def test_most_random_networks_lose_something() -> None:
    assert sum(judge(kind, seed) for kind in KINDS for seed in range(4)) >= 7


def main(first: int, last: int) -> None:
    """Every failure is told; the seed is all that it takes to see it again."""
    extracted, failed = 0, 0
    for kind in KINDS:
        for seed in range(first, last):
            try:
                extracted += judge(kind, seed)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
                failed += 1
                print(f"{kind} {seed}: {type(error).__name__}: {str(error)[:160]}", flush=True)
    print(f"{len(KINDS) * (last - first)} networks, {extracted} extracted from, {failed} failed")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]), int(sys.argv[2]))
