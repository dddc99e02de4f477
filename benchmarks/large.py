"""The peak memory of pruning a model block by block, beside the model's size: ``make large``.

A random Llama of the asked size is written in shards, and pruned in a process of its own that looks every 2 ms at its
resident anonymous memory (what it allocated; pages of files that the system keeps mapped are told apart, they can be
dropped at any time). What the process held before the model was opened (torch, transformers) is taken off.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

MIB = 2**20
BEGIN, END = "<!-- make large -->", "<!-- end -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--methods", nargs="+", default=["magnitude", "wanda", "sparsegpt", "cut"])
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--write", type=Path, help="also put the table into this page, between its marks")
    parser.add_argument("--work", type=Path, help="Folder for the models; by default a temporary one.")
    parser.add_argument("--child", choices=("generate", "run"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child == "generate":
        _generate(options)
    elif options.child == "run":
        _run(options)
    else:
        _measure(options)


COLUMNS = {
    "method": None,
    "model": "model",
    "one block": "block",
    "activations": "activations",
    "largest X^T X": "gram",
    "peak": "peak",
    "mapped files": "files",
}


def _measure(options: argparse.Namespace) -> None:
    rows = [
        f"| {' | '.join(COLUMNS)} | peak, of the model | seconds |",
        "| --- " + "| ---: " * (len(COLUMNS) + 1) + "|",
    ]
    print(*rows, sep="\n", flush=True)
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        common = ["--layers", options.layers, "--width", options.width, "--work", folder]
        common += ["--batches", options.batches, "--tokens", options.tokens]
        _child("generate", common)
        for method in options.methods:
            found = json.loads(_child("run", [*common, "--methods", method]).splitlines()[-1])
            sizes = " | ".join(f"{found[key] / MIB:,.0f} MiB" for key in COLUMNS.values() if key)
            rows.append(f"| {method} | {sizes} | {found['peak'] / found['model']:.1%} | {found['seconds']:.0f} |")
            print(rows[-1], flush=True)
    if options.write:
        before, _, rest = options.write.read_text(encoding="utf-8").partition(BEGIN)
        _, end, after = rest.partition(END)
        if not end:
            raise SystemExit(f"{options.write} has no marks {BEGIN} and {END}")
        told = f"A Llama of {options.layers} layers, width {options.width}, fp32; {options.batches} batches of "
        told += f"{options.tokens} tokens; one thread:"
        text = "\n".join([BEGIN, "", told, "", *rows, "", ""])
        options.write.write_text(before + text + END + after, encoding="utf-8")


def _child(what: str, arguments: list[object]) -> str:
    command = [sys.executable, "-m", "benchmarks.large", "--child", what, *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def _generate(options: argparse.Namespace) -> None:
    _llama(options.layers, options.width).save_pretrained(options.work / "dense", max_shard_size="200MB")


def _llama(layers: int, width: int) -> Any:
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=8192,
        hidden_size=width,
        intermediate_size=width * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=4,
    )
    return transformers.LlamaForCausalLM(config)


def _prune(source: Path, out: Path, method: str, data: list[Any]) -> None:
    import prunus
    from prunus.blockwise import LargeModel, cut, sparsify

    if method == "cut":
        large = LargeModel(source)
        plan = prunus.plan(large.model, data[0], importance=large.l2, ratio=0.5, uniform=True, keep=["*embed_tokens*"])
        cut(source, out, plan, data)
    else:
        sparsify(source, out, data, method=method, sparsity=0.5)


def _once_small(folder: Path, method: str) -> None:
    import torch

    _llama(2, 64).save_pretrained(folder / "dense")
    _prune(folder / "dense", folder / "out", method, [torch.arange(8)[None]])
    shutil.rmtree(folder)


def _run(options: argparse.Namespace) -> None:
    import torch

    from prunus.blockwise import LargeModel

    torch.set_num_threads(1)
    source, out, method = options.work / "dense", options.work / "out" / options.methods[0], options.methods[0]
    draw = torch.Generator().manual_seed(0)
    data = [torch.randint(0, 8192, (1, options.tokens), generator=draw) for _ in range(options.batches)]
    _once_small(options.work / "first", method)  # what is imported on the way isn't the model's
    before, started = _resident(), time.perf_counter()
    with _Peak() as peak:
        _prune(source, out, method, data)
    seconds = time.perf_counter() - started
    model = LargeModel(source).model.model
    inputs = max(m.in_features for m in model.layers[0].modules() if isinstance(m, torch.nn.Linear))
    found = {
        "model": sum(path.stat().st_size for path in source.glob("*.safetensors")),
        "block": sum(p.numel() * 4 for p in model.layers[0].parameters()),
        "activations": options.batches * options.tokens * options.width * 4,
        "gram": inputs**2 * 8 if method in ("sparsegpt", "cut") else 0,
        "peak": peak.most["RssAnon"] - before["RssAnon"],
        "files": peak.most["RssFile"] - before["RssFile"],
    }
    print(json.dumps({**found, "seconds": seconds}))


class _Peak:
    """The most that was resident at once, in bytes, seen from a thread every 2 ms."""

    def __enter__(self) -> _Peak:
        self.most, self._end = _resident(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(0.002):
            self.most = {kind: max(size, self.most[kind]) for kind, size in _resident().items()}


def _resident() -> dict[str, int]:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith("Rss")}


if __name__ == "__main__":
    main()
